"""What a stage function sees: inputs, parts, outputs, progress, events."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from poise.errors import PoiseError
from poise.models import memory
from poise.pipeline import StageContext, progress
from poise.pipeline import progress as make_progress
from poise.pipeline.files import to_json
from poise.pipeline.journal import Journal
from poise.pipeline.progress import PLAIN_EVERY_S, Meter


@pytest.fixture
def context(tmp_path: Path) -> StageContext:
    lines: list[str] = []
    (tmp_path / "work").mkdir()
    return StageContext(
        stage="toy",
        dir=tmp_path / "work",
        seed=0,
        models={},
        recipe_name="toy",
        recipe_dir=tmp_path,
        needs=("early", "absent"),
        inputs={"early": tmp_path / "01-early"},
        journal=Journal(tmp_path, lines.append),
    )


def test_inputs(context: StageContext, tmp_path: Path) -> None:
    assert context.input("early") == tmp_path / "01-early" and not context.has_input("absent")
    with pytest.raises(PoiseError, match=r"stage toy: needs stage 'absent', which is not in the recipe"):
        context.input("absent")
    with pytest.raises(ValueError, match="does not name it in its needs"):
        context.input("undeclared")


def test_a_part_is_computed_once_and_looks_the_same_again(context: StageContext) -> None:
    calls = []

    def compute() -> object:
        calls.append(1)
        return {"pair": (1, 2.5), 3: float("inf"), "lone": "\ud800"}

    first, again = context.part("p", compute), context.part("p", compute)
    assert first == again == {"pair": [1, 2.5], "3": float("inf"), "lone": "\ud800"}
    assert len(calls) == 1


@pytest.mark.parametrize("damage", [b"", b'{"value": 1', b'{"value": 2, "sha256": "00"}', b"[]", b"\xff"])
def test_a_damaged_part_is_computed_again(context: StageContext, damage: bytes) -> None:
    context.part("p", lambda: 1)
    (context.dir / "parts" / "p.json").write_bytes(damage)
    assert context.part("p", lambda: 5) == 5
    assert context.part("p", lambda: 6) == 5


def test_names_stay_inside(context: StageContext) -> None:
    for name in ("../x", "/x", "", "manifest.json", "parts/x", "fingerprint.txt"):
        with pytest.raises(ValueError, match="cannot write an output"):
            context.path(name)
    for name in ("a/b", "", "..", "x.poise-tmp"):
        with pytest.raises(ValueError, match="cannot name a part"):
            context.part(name, lambda: 1)


def test_json_outputs_have_no_nan(context: StageContext) -> None:
    import numpy as np

    value = {"a": np.float32("nan"), "b": np.array([1, 2]), "c": (np.int64(3), Path("x") / "y"), "d": np.bool_(True)}
    written = json.loads(context.write_json("x.json", value).read_text())
    assert written == {"a": None, "b": [1, 2], "c": [3, "x/y"], "d": True}
    with pytest.raises(TypeError, match="set"):
        to_json({"x": {1}})


def test_progress_prints_plain_lines_at_most_every_15_seconds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    with progress(100, unit="rows", what="reading") as bar:
        for _ in range(40):
            clock[0] += 1
            bar.set(loss=0.123456, step=3)
            bar.update(1)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == int(40 // PLAIN_EVERY_S) == 2
    assert lines[0] == "reading: 15/100 rows [00:15<01:25,  1.00 rows/s, loss=0.1235, step=3]"


def test_a_meter_begins_a_new_bar_with_other_work(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    with Meter() as meter:
        for what, total in (("answering", 30), ("training", 20), ("training", 17), ("training", 17)):
            for done in range(1, total + 1):
                clock[0] += 1
                meter.show(what, "steps", done, total, loss=0.5)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(" [")[0] for line in lines] == [
        "answering: 16/30 steps",  # the clock of a bar starts with the first step that it hears of
        "training: 16/20 steps",
        "training: 16/17 steps",
        "training: 16/17 steps",  # as much again is other work, too
    ]


def test_progress_iterates_over_items_totals_and_iterators(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert list(progress([5, 6], unit="x", what="y")) == [5, 6]
    assert list(progress(3, unit="x", what="y")) == [0, 1, 2]
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    stream = make_progress(iter("ab"), unit="letters", what="spelling")
    stream.set(loss=1.0)
    assert (list(stream), stream.n, stream.total) == (["a", "b"], 2, None)
    assert "spelling" in capsys.readouterr().err


def test_a_torn_event_line_is_dropped(context: StageContext, tmp_path: Path) -> None:
    context.event("one", loss=float("nan"))
    with (tmp_path / "events.jsonl").open("a") as file:
        file.write('{"time": "2026')
    with Journal(tmp_path, print) as journal:
        journal.event(None, "two")
    rows = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert [(row["stage"], row["event"], row["fields"]) for row in rows] == [
        ("toy", "one", {"loss": None}),
        (None, "two", {}),
    ]


def test_peak_memory_is_measured_for_the_stage(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In a process of its own: memory that earlier tests freed and the process kept would take the block in."""
    program = (
        "from poise.models import memory\n"
        "memory.reset_peak()\n"
        "before = memory.peak_mb()\n"
        "block = bytearray(b'x' * (64 << 20))\n"
        "print(memory.peak_mb() - before)"
    )
    grown = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    assert float(grown) > 40
    monkeypatch.setattr(memory, "_PROC", tmp_path)  # a system without /proc
    memory.reset_peak()
    assert memory.peak_mb() > 10
