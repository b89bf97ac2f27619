"""`poise guard judge` and `poise guard list`."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from poise.cli.main import main
from poise.data.tables import open_tables
from poise.guard.others import FAMILIES
from poise.llm.store import ReplyStore


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with subprocess.Popen([sys.executable, "-m", "poise.llm.fake"], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        try:
            yield child.stdout.readline().strip()
        finally:
            child.kill()


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("guarding") / "raw"
    assert main(["data", "synth", "--out", str(folder), "--scale", "0.0005"]) == 0
    return folder


def judge(raw: Path, url: str, work: Path, guard: str, out: str = "out", *more: str) -> int:
    words = ["guard", "judge", str(raw), "--guard", guard, "--endpoint", url, "--model", guard, *more]
    return main([*words, "--store", str(work / "replies"), "--out", str(work / out)])


def test_list_names_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["guard", "list"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(FAMILIES)


def test_the_owners_prompt_takes_the_place_of_ours(
    raw: Path, url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "own").write_text("Theirs: {prompt} then {response} end")
    (tmp_path / "bad").write_text("no places")
    assert judge(raw, url, tmp_path, "wildguard", "out", "--prompt", str(tmp_path / "own")) == 0
    with ReplyStore(tmp_path / "replies") as store:
        (request,) = [store.request(e.identity) for e in list(store.exchanges())[:1]]
    assert request is not None and request.messages[0][1].startswith("Theirs: ")
    for guard, file in (("wildguard", "bad"), ("wildguard", "none"), ("llama-guard-3", "own")):
        assert judge(raw, url, tmp_path, guard, "more", "--prompt", str(tmp_path / file)) == 2
    assert capsys.readouterr().err.count("--prompt") >= 2


@pytest.mark.parametrize("guard", ["llama-guard-3", "wildguard", "qwen3guard"])
def test_words_that_are_no_verdict_are_unjudged(
    guard: str, raw: Path, url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert judge(raw, url, tmp_path, guard) == 0
    assert f"{guard} as {guard}: unsafe 0, safe 0, unjudged " in capsys.readouterr().out
    mine = [j for j in open_tables(tmp_path / "out")["judgements"].records() if getattr(j, "rater", "") == guard]
    assert mine and {(getattr(j, "question", ""), getattr(j, "value", "")) for j in mine} == {("safe", None)}


def test_our_policy_is_judged_and_a_second_run_sends_nothing(
    raw: Path, url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert judge(raw, url, tmp_path, "gpt-oss-safeguard") == 0
    first = capsys.readouterr().out
    assert "unjudged, contradiction" in first  # the fake server fits the schema and means nothing
    assert judge(raw, "http://127.0.0.1:9/v1", tmp_path, "gpt-oss-safeguard", "again") == 0
    assert capsys.readouterr().out.splitlines()[1:] == first.splitlines()[1:]


def test_a_dry_run_sends_and_writes_nothing(raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert judge(raw, "http://127.0.0.1:9/v1", tmp_path, "shieldgemma", "out", "--dry-run") == 0
    assert "0 of them answered before" in capsys.readouterr().out and list(tmp_path.iterdir()) == []


def test_wrong_names(raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert judge(raw, "http://127.0.0.1:9/v1", tmp_path, "lama-guard-3") == 2
    assert "did you mean 'llama-guard-3'?" in capsys.readouterr().err
    assert judge(raw, "nowhere", tmp_path, "azure-text") == 2
    assert "no address" in capsys.readouterr().err
