"""The whole quickstart loop on a tiny language model and a few seeds: every stage for real, in well under a minute."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from poise.data import Corpus, load_seeds
from poise.pipeline import RunResult, load_recipe, run
from poise.pipeline.manifest import read_manifest
from poise.pipeline.stages import STAGES

RECIPE = Path(__file__).parents[2] / "recipes" / "quickstart.yaml"
SMALL = (
    "prompts.cells=3",
    "prompts.per_cell=1",
    "prompts.tries=2",
    "prompts.max_new_tokens=12",
    "responses.max_new_tokens=8",
    "guard.epochs=1",
    "guard.max_length=32",
    "preference.adapted_layers=2",
    "preference.prompts_per_step=8",
    "preference.max_prompt_tokens=48",
    "preference.max_response_tokens=24",
    "align.steps=3",
    "align.prompts_per_step=3",
    "align.responses_per_prompt=2",
    "align.max_new_tokens=6",
    "align.checkpoint_every=1",
    "evaluate.samples=1",
    "evaluate.max_new_tokens=6",
)


@pytest.fixture(scope="module")
def few_seeds() -> Corpus:
    """The seeds of three categories and twelve ordinary prompts."""
    whole = load_seeds()
    ordinary = [p for p in whole.prompts if p.kind == "ordinary"][:12]
    prompts = [p for p in whole.prompts if p.category in ("S2", "S6", "S14")] + ordinary
    ids = {p.id for p in prompts}
    qa = [r for r in whole.qa if r.prompt_id in ids]
    pairs = [p for p in whole.pairs if p.prompt_id in ids]
    items = {r.id for r in qa} | {p.id for p in pairs}
    return Corpus(prompts, qa, pairs, [j for j in whole.judgements if j.item in items], whole.raters)


@pytest.fixture
def loop(
    few_seeds: Corpus, tiny_lm: Path, real_model: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., RunResult]:
    """Runs the quickstart recipe, made small, in a folder."""
    real_model("all-minilm-l6-v2")  # of the starter rater
    for module in ("poise.data.seeds", "poise.guard.shipped"):
        monkeypatch.setattr(f"{module}.load_seeds", lambda: few_seeds)

    def go(out: Path, *more: str, until: str | None = None) -> RunResult:
        recipe = load_recipe(RECIPE, STAGES, [*SMALL, f"models.policy={tiny_lm}", *more])
        return run(recipe, STAGES, out, console=lambda line: None, only_until=until)

    return go


def test_the_loop_turns(loop: Callable[..., RunResult], tmp_path: Path) -> None:
    first = loop(tmp_path / "run")
    assert [s.action for s in first.stages.values()] == ["run"] * 9
    folder = {name: stage.folder for name, stage in first.stages.items()}

    from datasets import load_dataset

    pairs = load_dataset(str(folder["release"] / "dataset"), "default", split="train", cache_dir=str(tmp_path / "hf"))
    assert {"is_response_0_safe", "better_response_id", "safer_response_id"} <= set(pairs.column_names)
    mixed = [r for r in pairs if r["is_response_0_safe"] != r["is_response_1_safe"]]
    assert mixed and all(r["safer_response_id"] == (0 if r["is_response_0_safe"] else 1) for r in mixed)

    judgements = Corpus.read(folder["annotate"] / "corpus").judgements
    assert {j.rater for j in judgements} == {"poise-authors", "starter-rater", "logical-order"}
    history = json.loads((folder["align"] / "history.json").read_text())
    assert len(history) == 3 and history[0]["multiplier"] != 1.0
    table = json.loads((folder["evaluate"] / "metrics.json").read_text())
    assert {row["judge"] for row in table} >= {"cost model of this run", "guard of this run", "starter rater"}
    page = (folder["report"] / "report.html").read_text(encoding="utf-8")
    assert "not part of this run" not in page and "http-equiv" in page

    again = loop(tmp_path / "run")
    assert [s.action for s in again.stages.values()] == ["skip"] * 9


def test_same_seed_same_bytes(loop: Callable[..., RunResult], tmp_path: Path) -> None:
    digests = []
    for name in ("a", "b"):
        result = loop(tmp_path / name, until="evaluate")
        manifests = [read_manifest(stage.folder) for stage in result.stages.values()]
        digests.append({m.stage: m.outputs_sha256 for m in manifests if m is not None})
    assert digests[0] == digests[1] and len(digests[0]) == 8


def test_another_seed_other_texts(loop: Callable[..., RunResult], tmp_path: Path) -> None:
    texts = []
    for seed in (0, 1):
        result = loop(tmp_path / str(seed), f"seed={seed}", until="responses")
        corpus = Corpus.read(result.stages["responses"].folder / "corpus")
        texts.append([r.response for r in corpus.qa if r.provenance.sampling is not None])
    assert texts[0] and texts[0] != texts[1]
