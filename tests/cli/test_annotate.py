"""`poise annotate` against a fake server in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from poise.cli.main import main
from poise.data.records import DualRecord, QARecord
from poise.data.tables import TableWriter, open_tables

MARKED = ("refusal", "content-filter", "length", "off-schema", "too-long", "invalid-json")


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    command = [sys.executable, "-m", "poise.llm.fake", "--seed", "3", "--log", "log.jsonl"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        try:
            yield child.stdout.readline().strip()
        finally:
            child.kill()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    with TableWriter(tmp_path / "tables", {"name": "test"}) as writer:
        for n in range(30):
            writer.add(QARecord(prompt="What grows?", response=f"Plant {n}."))
        for mark in MARKED:
            writer.add(QARecord(prompt="What grows?", response=f"[[{mark}]]"))
        for n in range(8):
            writer.add(DualRecord(prompt="What grows?", responses=(f"Plant {n}.", f"Stone {n}.")))
    return tmp_path


def sent() -> int:
    return len(Path("log.jsonl").read_text().splitlines())


def report(out: str) -> dict[str, Any]:
    told: dict[str, Any] = json.loads((Path(out) / "rater.json").read_text())
    return told


def test_labels_then_nothing_is_sent_again(folder: Path, url: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["annotate", "label", "tables", "--endpoint", url, "--endpoint", url, "--model", "m", "--store", "s.sqlite"]
    assert main([*words, "--out", "dry", "--dry-run", "--price-prompt", "1", "--price-completion", "2"]) == 0
    said = capsys.readouterr().out
    assert "44 requests, 0 of them answered before" in said and "cost: 0." in said
    assert not Path("s.sqlite").exists() and not Path("dry").exists() and not Path("log.jsonl").read_text()

    assert main([*words, "--out", "one"]) == 0
    (told,) = report("one")["raters"]
    assert told["answers"]["done"] == 38 and sum(told["answers"].values()) == 44
    reasons = {name.removeprefix("label: ") for name in told["unjudged"]} - {"contradiction"}
    assert reasons == {"refused", "filtered", "truncated", "invalid", "dead: too-long"}
    for judgement in open_tables(Path("one"))["judgements"].batches():
        for row in judgement.to_pylist():
            assert row["value"] is not None or "reason" in json.loads(row["provenance"])

    before = sent()
    assert main([*words, "--out", "two"]) == 0
    assert sent() == before + 1  # what was too long is tried again, all else is stored
    assert main(["annotate", "label", "two", *words[3:], "--out", "three"]) == 0
    rows = [list(open_tables(Path(out))["judgements"].records()) for out in ("one", "two", "three")]
    assert rows[0] == rows[1] == rows[2]


def test_rankings(folder: Path, url: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["annotate", "rank", "tables", "--endpoint", url, "--model", "m", "--model", "n", "--store", "s.sqlite"]
    assert main([*words, "--axes", "single,better", "--flips", "person", "--out", "ranked"]) == 0
    told = report("ranked")["raters"]
    assert [rater["answers"] for rater in told] == [{"done": 32}] * 2 and sent() == 64
    flipped = sum(axis["flipped"] for rater in told for axis in rater["axes"].values())
    assert 0 < flipped < 32 and len(Path("ranked/people.jsonl").read_text().splitlines()) == flipped
    assert "flip rate 0." in capsys.readouterr().out
    assert main(["data", "validate", "ranked"]) == 0


@pytest.mark.parametrize(
    ("more", "code", "said"),
    [
        (["--budget-requests", "5"], 4, "the budget is spent; 39 requests are not asked yet"),
        (["--budget-cost", "5"], 2, "--budget-cost without prices"),
        (["--price-prompt", "5"], 2, "one price of two"),
        (["--key-env", "POISE_NO_SUCH_KEY"], 3, "environment variable POISE_NO_SUCH_KEY"),
        (["--key-env", "A", "--key-file", "b"], 2, "together"),
        (["--model", "m"], 2, "named twice"),
    ],
)
def test_what_stops_it(
    folder: Path, url: str, capsys: pytest.CaptureFixture[str], more: list[str], code: int, said: str
) -> None:
    words = ["annotate", "label", "tables", "--endpoint", url, "--model", "m", "--store", "s.sqlite", "--out", "out"]
    assert main([*words, *more]) == code
    assert said in capsys.readouterr().err
    assert not Path("out").exists()


def test_other_faults_of_the_command_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["annotate", "rank", "tables", "--model", "m", "--store", "s.sqlite", "--out", "out"]
    assert main([*words, "--endpoint", "http://127.0.0.1:9/v1", "--axes", "better,nicer"]) == 2
    assert "name any of better, safer, single" in capsys.readouterr().err
    assert main(words) == 2


def test_a_key_is_in_nothing_that_is_written(folder: Path, url: str, capsys: pytest.CaptureFixture[str]) -> None:
    secret = Path("key")
    secret.write_text("very-secret-word\n")
    secret.chmod(0o644)
    words = ["annotate", "rank", "tables", "--endpoint", url, "--model", "m", "--store", "s.sqlite", "--out", "out"]
    assert main([*words, "--axes", "better", "--key-file", "key", "--rpm", "60000", "--tpm", "1e9"]) == 0
    assert "other users may read this key" in capsys.readouterr().err
    kept = [path for path in Path().rglob("*") if path.is_file() and path.name not in ("key", "log.jsonl")]
    assert kept and not any(b"very-secret-word" in path.read_bytes() for path in kept)
