"""What single stages decide, on rows by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from poise.data import Corpus, leaks, load_seeds
from poise.errors import PoiseError
from poise.guard.shipped import seed_splits
from poise.pipeline import RunResult, load_recipe, run
from poise.pipeline.stages import STAGES, align, evaluate, preference, prompts, report
from poise.pipeline.stages.align import AlignSettings, _loop_settings
from poise.preference.pairs import Example, Pair, PreferenceData


def go(folder: Path, text: str) -> RunResult:
    """Run a recipe of a few lines."""
    file = folder / "recipe.yaml"
    file.write_text(f"name: small\n{text}")
    return run(load_recipe(file, STAGES), STAGES, folder / "run", console=lambda line: None)


def test_a_new_prompt_near_a_seed_has_the_split_of_the_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fixed = seed_splits()
    seeds = [row for row in load_seeds().prompts if len(row.prompt) > 60]
    new = [row.model_copy(update={"id": f"n-{row.id}", "prompt": row.prompt + " Now."}) for row in seeds[:40]]
    monkeypatch.setattr(prompts, "_new_prompts", lambda *_: (new, {}))
    result = go(tmp_path, "prompts: {near_duplicate: 0.95}\n")
    corpus = Corpus.read(result.stages["prompts"].folder / "corpus")
    splits = {row.id: row.split for row in corpus.prompts}
    assert {splits[row.id] for row in new} == {"train", "test"}
    assert all(splits[row.id] == fixed[row.id.removeprefix("n-")] for row in new) and not leaks(corpus.prompts)


def response(prompt: int, sample: int, policy: str, **scores: Any) -> dict[str, Any]:
    """A row of `responses.json`."""
    about = {"prompt_id": f"p{prompt}", "prompt": "Why?", "kind": "ordinary", "sample": sample, "policy": policy}
    known = {"reward": 1.0, "cost": -1.0, "guard_unsafe": 0.1, "guard_harm": 0.2, "starter_unsafe": 0.1}
    return {**about, "response": "So.", **known, "starter_harm": 0.2, "refuses": False, **scores}


@pytest.mark.parametrize("missing", [None, math.nan])
def test_a_missing_score_is_left_out_and_not_safe(missing: float | None) -> None:
    rows = [
        response(p, 0, policy, **({"cost": missing, "guard_unsafe": missing} if p < 2 else {}))
        for policy in ("before", "after")
        for p in range(4)
    ]
    table = {(row["judge"], row["metric"]): row["before"] for row in evaluate.compare(rows, 0)}
    for judge, metric in (
        ("cost model of this run", "mean cost"),
        ("cost model of this run", "violation rate"),
        ("guard of this run", "unsafe responses"),
    ):
        assert table[judge, metric]["n"] == 2
    assert table["starter rater", "unsafe responses"]["n"] == 4


@pytest.mark.parametrize(
    ("scores", "folded"),
    [({}, False), ({"guard_unsafe": 0.99}, True), ({"starter_unsafe": None}, True), ({"starter_unsafe": 0.5}, True)],
)
def test_text_is_folded_where_any_judge_says_unsafe_or_nothing(
    tmp_path: Path, scores: dict[str, Any], folded: bool
) -> None:
    rows = [response(0, 0, "before"), response(0, 0, "after", cost=None, **scores)]
    (tmp_path / "responses.json").write_text(json.dumps(rows))
    (tmp_path / "metrics.json").write_text("[]")
    found = report._evaluation(tmp_path, 5)
    assert [sample["harmful"] for sample in found["samples"]] == [folded]
    quadrant = found["evaluation"]["quadrant"]
    assert quadrant == {"before": [(1.0, 1.0)], "after": [(1.0, None)], "prompts": ["p0"]}


def test_a_report_on_nothing_says_so(tmp_path: Path) -> None:
    with pytest.raises(PoiseError, match=r"nothing to report on .add a stage before it"):
        go(tmp_path, "report: {}\n")


def test_without_a_safe_response_a_threshold_must_be_given() -> None:
    with pytest.raises(PoiseError, match=r"no response is labelled safe.*give align.multiplier.threshold"):
        align._threshold(None, align.MultiplierSettings(), [])  # type: ignore[arg-type]
    assert align._threshold(None, align.MultiplierSettings(threshold=0.5), []) == 0.5  # type: ignore[arg-type]


def test_preference_intervals_are_over_prompts() -> None:
    # two prompts of ten pairs each, all right in one and all wrong in the other: the truth may lie anywhere in 0..1
    examples = [Example([i // 20], [1], i % 2 == 1) for i in range(40)]
    pairs = [Pair((i, i + 1), 0, 0, "boundary") for i in range(0, 40, 2)]
    data = PreferenceData(examples, pairs, [list(range(10)), list(range(10, 20))])
    right = np.array([1.0 if (i % 2 == 0) == (i < 20) else -1.0 for i in range(40)])
    found = preference._metrics(data, {"reward": right, "cost": -right}, {"reward": [], "cost": []}, 1.0, 0)
    for interval in (
        found["reward"]["pair_accuracy"],
        found["cost"]["pair_accuracy"],
        found["cost"]["sign_accuracy"],
        found["cost"]["by_rung"]["boundary"],
    ):
        assert interval == {"mean": 0.5, "low": 0.0, "high": 1.0, "n": 2}
    assert found["reward"]["n"] == found["cost"]["n"] == 20


def test_centring_needs_siblings() -> None:
    with pytest.raises(ValueError, match="all advantages would be zero"):
        AlignSettings(responses_per_prompt=1)
    assert AlignSettings(responses_per_prompt=1, center_advantages=False).responses_per_prompt == 1


def test_the_rollouts_have_a_seed_of_their_own_where_one_is_given() -> None:
    assert [_loop_settings(AlignSettings(seed=seed), 5).seed for seed in (None, 0, 7)] == [5, 0, 7]
