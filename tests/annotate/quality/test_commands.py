"""`poise annotate accept`, `screen`, `screened` and `habits`, as a user runs them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from poise.annotate.quality.habits import habits
from poise.annotate.store import AnnotationStore, OverlapPolicy, import_tables
from poise.annotate.store.exporting import export_tables
from poise.cli.main import main
from poise.data.records import DualRecord, JudgementRecord, PartialLabel, QARecord
from poise.data.rows import Rater
from poise.data.tables import TableWriter, open_tables

SIZE, WRONG = 60, (3, 17, 40)


def qa(n: int, safe: bool | None) -> QARecord:
    return QARecord(prompt="What grows?", response=f"Plant {n} grows in the sun.", label=PartialLabel(safe=safe))


def said(n: int, unsafe: float | None, rater: str = "screener") -> JudgementRecord:
    item, value = qa(n, None).item, None if unsafe is None else {"safe": unsafe < 0.5}
    who: dict[str, Any] = {"rater": rater, "rater_kind": "model"}
    return JudgementRecord(item=item, question="label", value=value, probability=unsafe, responses=(item,), **who)


def write(folder: Path, *rows: QARecord | JudgementRecord) -> None:
    with TableWriter(folder, {"name": "test"}) as writer:
        for row in rows:
            writer.add(row)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """All truly safe; three are labelled unsafe, of which the screener doubts two, and never judged row 50."""
    monkeypatch.chdir(tmp_path)
    doubts = [said(n, 0.9 if n == 40 else 0.2) for n in range(SIZE) if n != 50]
    write(tmp_path / "batch", *(qa(n, n not in WRONG) for n in range(SIZE)), qa(99, None), *doubts)
    write(tmp_path / "truth", *(qa(n, True) for n in range(SIZE)))
    return tmp_path


def told(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    capsys.readouterr()
    assert main(["annotate", *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_plan_and_its_decision_agree(capsys: pytest.CaptureFixture[str]) -> None:
    plans = told(capsys, "accept", "--batch", "2000", "--limit", ".02")
    assert [plan["errors"] for plan in plans] == [0, 1, 2, 3, 4, 5]
    for plan in plans:
        words = ["--batch", "2000", "--limit", ".02", "--errors", str(plan["errors"])]
        assert told(capsys, "accept", *words, "--checked", str(plan["check"]))["verdict"] == "accept"
        short = told(capsys, "accept", *words, "--checked", str(plan["check"] - 1))
        assert (short["verdict"], short["more"]) == ("check more", 1)
    assert told(capsys, "accept", "--batch", "2000", "--limit", ".02", "--looks", "2")[0]["check"] > plans[0]["check"]


def test_accept_says_it_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["annotate", "accept", "--batch", "100", "--limit", ".05", "--checked", "50", "--errors", "20"]) == 0
    assert capsys.readouterr().out.startswith("reject: 20 of 50 wrong, at least 32")
    assert main(["annotate", "accept", "--batch", "100", "--limit", ".05", "--checked", "0", "--errors", "0"]) == 0
    assert "passes if the next" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["--limit", ".02", "--checked", "5"], "belong together"),
        (["--limit", ".02", "--checked", "5", "--errors", "6"], "6 errors of 5"),
        (["--limit", ".02", "--checked", "51", "--errors", "6"], "51 checked of 50"),
        (["--limit", "2"], "--limit 2.0"),
        (["--limit", ".02", "--confidence", "1"], "--confidence 1.0"),
    ],
)
def test_accept_refuses(words: list[str], what: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["annotate", "accept", "--batch", "50", *words]) == 2
    error = capsys.readouterr().err
    assert what in error
    assert error.count("\n") == 1


def test_a_screen_from_end_to_end(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["annotate", "screen", "batch", "--k", "4", "--out", "screen", "--seed", "2"]) == 0
    assert "of 60 labels 4 by doubt and 4 at random" in capsys.readouterr().out
    plan = json.loads((folder / "screen/screen.json").read_text())
    # doubt: row 50 unjudged; labelled unsafe with P(unsafe) .2 for 3 and 17, labelled unsafe with .9 for 40
    assert {qa(n, None).item for n in (50, 3, 17)} < set(plan["top"])
    assert (plan["batch"], plan["unlabelled"], plan["unknown"], plan["screener"]) == (60, 1, 1, "screener")
    rows = list(open_tables(folder / "screen")["qa"].records())
    assert len(rows) == 8
    assert all(isinstance(row, QARecord) and row.label == PartialLabel() for row in rows)  # blind
    assert "judgements" not in open_tables(folder / "screen")
    found = told(capsys, "screened", "screen", "truth")
    assert found["precision"] == {"mean": 0.5, "low": 0.5, "high": 0.5, "n": 4}  # 3 and 17 of four
    assert found["error_rate"]["low"] <= 3 / 60 <= found["error_rate"]["high"]
    assert found["recall"]["low"] <= 2 / 3 <= found["recall"]["high"]


def test_a_screen_counts_unjudged_checks(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["annotate", "screen", "batch", "--k", "4", "--out", "screen"]) == 0
    found = told(capsys, "screened", "screen", "screen")  # nothing was labelled
    assert found["precision"] == {"mean": None, "low": 0.0, "high": 1.0, "n": 0}
    assert (found["error_rate"]["low"], found["error_rate"]["high"]) == (0.0, 1.0)


def test_screen_refuses(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def error(*words: str) -> str:
        assert main(["annotate", *words]) == 2
        return capsys.readouterr().err

    assert "no labels by a model 'other'" in error("screen", "batch", "--k", "4", "--out", "x", "--model", "other")
    assert "name one of those that labelled: none" in error("screen", "truth", "--k", "4", "--out", "x")
    write(folder / "two", qa(0, True), said(0, 0.5), said(0, 0.5, "second"))
    assert "screener, second" in error("screen", "two", "--k", "4", "--out", "x")
    write(folder / "bare", qa(0, None), said(0, 0.5))
    assert "no labelled row" in error("screen", "bare", "--k", "4", "--out", "x")
    assert "no plan of a screen" in error("screened", "batch", "truth")
    assert main(["annotate", "screen", "batch", "--k", "4", "--out", "screen"]) == 0
    assert "rows to check are not there" in error("screened", "screen", "bare")
    assert "--force" in error("screen", "batch", "--k", "4", "--out", "screen")
    assert not (folder / "x").exists()


def test_habits_of_a_rater(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)

    def answer(n: int, ms: int, round_: int = 0, severity: int = 0) -> JudgementRecord:
        item = qa(n, None).item
        told = {"client_ms": ms, "at_ms": n, "kind": "judge"}
        value = {"severity": severity, "safe": severity == 0, "categories": []}
        who: dict[str, Any] = {"rater": "person-1", "rater_kind": "person", "provenance": told, "round": round_}
        return JudgementRecord(item=item, question="label", value=value, responses=(item,), **who)

    rows = [answer(n, 5000 + 100 * n) for n in range(20)]  # 8 words each: about 80 words a minute
    write(tmp_path / "t", *(qa(n, None) for n in range(30)), *rows, answer(21, 100), answer(3, 5000, 1, severity=2))
    found = told(capsys, "habits", "t")
    (times,) = found["times"]
    assert (times["answers"], times["by_pace"], times["by_floor"], times["items"]) == (22, 1, 1, [qa(21, None).item])
    by_question = {row["question"]: row["mean"] for row in found["repeats"]}
    assert by_question == {"label: categories": 1.0, "label: safe": 0.0, "label: severity": 0.0}
    assert found["left"] == found["swaps"] == []
    assert main(["annotate", "habits", "t"]) == 0
    out = capsys.readouterr().out
    assert "person-1: 1 for the rater, 1 for reading, of 22 answers" in out
    assert "left chosen: no such answers" in out
    assert main(["annotate", "habits", "t", "--cut", "0"]) == 2


def test_habits_are_found_in_what_a_store_exports(tmp_path: Path) -> None:
    with TableWriter(tmp_path / "rows", {"name": "test"}) as writer:
        for n in range(6):
            writer.add(DualRecord(prompt=f"What grows? {n}", responses=(f"Plant {n}.", f"Stone {n}.")))
    with AnnotationStore.create(tmp_path / "s.db", OverlapPolicy(random_share=0)) as store:
        import_tables(store, open_tables(tmp_path / "rows"), singles=True)
        ann = store.rater(Rater(id="ann", kind="person"))
        for n in range(6):
            task = store.next_task(ann, ("single",))
            assert task is not None
            left = n % 2
            chosen = {"choice": left if n else 1, "strength": 1}  # left, but for the first
            ms = 100 if n == 5 else 4000
            store.submit(ann, task.token, {"single": chosen}, token=f"t{n}", shown={"left": left}, client_ms=ms)
        found = habits(export_tables(store, tmp_path / "out"))
    (left_chosen,) = found["left"]
    assert (left_chosen["question"], left_chosen["n"]) == ("single", 6)
    assert left_chosen["mean"] == pytest.approx(5 / 6)
    (times,) = found["times"]
    assert (times["answers"], times["by_floor"], len(times["items"])) == (6, 1, 1)
