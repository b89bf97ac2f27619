"""The store of the stage `annotate`, and the copy in which people work."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from poise.annotate import QAScore
from poise.annotate.store import AnnotationStore, status
from poise.cli.main import main
from poise.data import Corpus, Judgement, PairRow, PromptRow, Provenance, QARow, Rater
from poise.errors import PoiseError
from poise.pipeline import RunResult, Stage, StageContext, load_recipe, plan, run
from poise.pipeline.annotations import open_run
from poise.pipeline.stages import annotate
from poise.pipeline.stages.common import Settings, write_corpus

MADE = Provenance(source="test")


class SourceSettings(Settings):
    """How many prompts."""

    prompts: int = 3


def sources(ctx: StageContext, settings: SourceSettings) -> dict[str, Any]:
    """Prompts with two answers each; the first answer was judged by people."""
    corpus = Corpus(raters=[Rater(id="poise-authors", kind="person")])
    for n in range(settings.prompts):
        corpus.prompts.append(PromptRow(id=f"p{n}", prompt=f"question {n}", provenance=MADE))
        for side in (0, 1):
            text = f"answer {side}"
            corpus.qa.append(
                QARow(id=f"q{n}{side}", prompt_id=f"p{n}", prompt=f"question {n}", response=text, provenance=MADE)
            )
        corpus.pairs.append(PairRow(id=f"x{n}", prompt_id=f"p{n}", qa_0=f"q{n}0", qa_1=f"q{n}1"))
        label = {"categories": [], "severity": 0}
        corpus.judgements.append(Judgement(item=f"q{n}0", question="label", value=label, rater="poise-authors"))
    return write_corpus(ctx, corpus)


class FakeRater:
    """Second answers are of moderate severity; one has no score."""

    rater = Rater(id="starter-rater", kind="model", version="1")

    def score(self, rows: Sequence[QARow], tell: object = None) -> list[QAScore | None]:
        """Scores that depend on the side alone."""
        categories = tuple(0.9 if n == 1 else 0.0 for n in range(19))
        scores = [
            QAScore((0.1, 0.1, 0.7, 0.1) if row.id[-1] == "1" else (0.9, 0.1, 0.0, 0.0), categories, 0.5)
            for row in rows
        ]
        return [None if row.id == "q21" else score for row, score in zip(rows, scores, strict=True)]


STAGES = {
    "sources": Stage("sources", SourceSettings, (), sources),
    "annotate": Stage("annotate", annotate.AnnotateSettings, ("sources",), annotate.run),
}


@pytest.fixture
def go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs the two stages in a folder."""
    monkeypatch.setattr("poise.guard.starter.StarterRater", FakeRater)
    monkeypatch.setattr(annotate, "read_corpus", lambda ctx, *names: Corpus.read(ctx.input("sources") / "corpus"))
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("name: tiny\nseed: 1\nmodels: {policy: a/b, encoder: c/d}\nsources: {}\nannotate: {}\n")

    def start(out: str, *more: str) -> RunResult:
        return run(load_recipe(recipe, STAGES, more), STAGES, tmp_path / out, console=lambda line: None)

    start.recipe = recipe  # type: ignore[attr-defined]
    return start


def test_the_stage_writes_a_store_with_the_same_judgements(go: Any) -> None:
    done = go("a").stages["annotate"]
    assert sorted(path.name for path in done.folder.iterdir()) == ["annotations.db", "corpus", "manifest.json"]
    corpus = Corpus.read(done.folder / "corpus")
    assert {j.rater for j in corpus.judgements} == {"poise-authors", "starter-rater", "logical-order"}
    log = done.manifest.summary["log"]
    expected = sum(j.rater != "logical-order" for j in corpus.judgements)
    assert (log["qa"], log["pair"], log["single"], log["events"]) == (6, 3, 3, expected)
    assert go("b").stages["annotate"].manifest.outputs_sha256 == done.manifest.outputs_sha256


CHROMIUM = Path("/usr/bin/chromium")
PASSWORD = "a long password"


@contextmanager
def served(run_folder: Path) -> Iterator[str]:
    """The address of `poise annotate serve --run`, in a process of its own."""
    words = [sys.executable, "-m", "poise", "annotate", "serve", "--run", str(run_folder), "--port", "0"]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as child:
        assert child.stderr is not None
        try:
            log = ""
            while "running on" not in log:
                line = child.stderr.readline()
                assert line, log
                log += line
            yield re.findall(r"http://[\d.:]+", log)[-1]
        finally:
            child.terminate()


def test_a_person_labels_an_item_of_a_run_in_a_browser(go: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """From the invitation to the log: `poise annotate serve --run` gives the page, and the stage stays as it was."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    pytest.importorskip("uvicorn", reason="the extra serve is not installed")
    if not CHROMIUM.exists():
        pytest.skip(f"no {CHROMIUM}")
    result = go("a")
    assert main(["annotate", "invite", "--run", str(result.out), "--role", "annotator"]) == 0
    link = capsys.readouterr().out.strip()
    with served(result.out) as url, sync_api.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"], timeout=30_000)
        page = browser.new_page()
        page.set_default_timeout(10_000)
        page.goto(url + link)
        for name, text in (("name", "ann"), ("password", PASSWORD), ("again", PASSWORD)):
            page.fill(f"[name={name}]", text)
        page.keyboard.press("Enter")
        page.wait_for_url(f"{url}/")
        page.goto(f"{url}/next/qa")
        page.wait_for_selector("button:focus")
        page.keyboard.press("Enter")
        page.wait_for_url("**/task/*")
        page.keyboard.press("v")
        told, before = page.inner_text("#texts"), page.url
        for key in ("b", "2", "Enter"):
            page.keyboard.press(key)
        page.wait_for_function("before => location.href !== before", arg=before)
        browser.close()
    with AnnotationStore.open(open_run(result.out)) as opened, opened.database.read() as db:
        query = (
            "select e.value, p.body from event e join item i on i.id = e.item join text p on p.id = i.prompt "
            "join rater r on r.id = e.rater where e.at_ms > 0 and r.kind = 'person'"
        )
        ((value, prompt),) = db.execute(sa.text(query)).all()
    assert value == '{"categories":["S2"],"severity":2}' and prompt.strip('"') in told
    stages = plan(load_recipe(go.recipe, STAGES), STAGES, result.out, verify=True)
    assert [stage.action for stage in stages] == ["skip", "skip"]


def test_people_work_in_a_copy(go: Any, capsys: pytest.CaptureFixture[str]) -> None:
    result = go("a")
    assert main(["annotate", "invite", "--run", str(result.out), "--role", "admin"]) == 0
    assert capsys.readouterr().out.startswith("/join#")
    store = open_run(result.out)
    assert store == result.out / "annotations.db"
    with AnnotationStore.open(store) as opened:
        ann = opened.rater(Rater(id="ann", kind="person"))
        task = opened.next_task(ann, ["qa"])
        assert task is not None and task.prompt.startswith("question")
        opened.submit(ann, task.token, {"label": {"categories": [], "severity": 0}}, token="t")
        assert status(opened).judgements["person", "label"] == 4 and opened.verify().fault is None
    assert open_run(result.out) == store
    with AnnotationStore.open(store) as opened:
        assert status(opened).judgements["person", "label"] == 4
    recipe = load_recipe(go.recipe, STAGES)
    assert [stage.action for stage in plan(recipe, STAGES, result.out, verify=True)] == ["skip", "skip"]
    go("a", "sources.prompts=4")
    with pytest.raises(PoiseError, match="1 answers about texts of an earlier run"):
        open_run(result.out)


def test_a_copy_without_answers_follows_the_run(go: Any) -> None:
    out = go("a").out
    open_run(out)
    go("a", "sources.prompts=4")
    with AnnotationStore.open(open_run(out)) as opened:
        assert sum(count for (stage, _), count in status(opened).tasks.items() if stage == "qa") == 8
    assert not list(out.glob(".annotations*"))


def test_a_killed_attempt_leaves_nothing_that_counts(go: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = go("a").stages["annotate"].manifest.outputs_sha256

    def killed(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(annotate, "write_corpus", killed)
        with pytest.raises(PoiseError):
            go("b")
    partial = next(path for path in (go.recipe.parent / "b").iterdir() if path.name.endswith("annotate.partial"))
    assert (partial / "annotations.db").is_file()
    done = go("b").stages["annotate"]
    assert (done.action, done.manifest.outputs_sha256) == ("continue", whole)


def test_a_run_that_did_not_get_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PoiseError, match="no finished stage"):
        open_run(tmp_path)
