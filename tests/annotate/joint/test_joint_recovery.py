"""Populations of known error and bias label through the store; the report recovers both within its intervals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from poise.annotate.joint import estimands as es
from poise.annotate.joint import report
from poise.annotate.joint.estimands import Trial
from poise.annotate.store import JointPolicy

from .simulate import Population, covers, found, make_store, work

CAREFUL, HASTY = Population(error=0.08, bias=0.15), Population(error=0.2, bias=0.65)
RUNS: list[tuple[Any, int]] = [("assist", 1), ("assist", 2), ("blind_then_reveal", 3)]
MODEL_ERROR = 0.3


def told(folder: Path, mode: Any, population: Population, seed: int) -> dict[str, Any]:
    joint = JointPolicy(mode=mode, suggester="judge", control_share=0.35, plant_share=0.1, audit_share=1, seed=seed)
    store, truth = make_store(folder, joint, items=100, model_error=MODEL_ERROR, seed=seed)
    with store:
        work(store, truth, population, seed)
        assert store.verify().fault is None
        return report(store)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Population, dict[str, Any]]]:
    """Both populations, three stores each."""
    made = []
    for population in (CAREFUL, HASTY):
        for mode, seed in RUNS:
            made.append((population, found(told(tmp_path_factory.mktemp("joint"), mode, population, seed))))
    return made


def test_error_and_bias_are_recovered_within_the_intervals(runs: list[tuple[Population, dict[str, Any]]]) -> None:
    checks = []
    for population, one in runs:
        e, b = population.error, population.bias
        checks += [
            covers(one["accuracy"]["person alone"], 1 - e),
            covers(one["automation_bias"], b * (1 - e)),
            covers(one["pull"], b),
            covers(one["override_wrong"], (1 - b) * (1 - e)),
            covers(one["override_right"], (1 - b) * e),
            covers(one["accuracy"]["model judge"], 1 - MODEL_ERROR),
        ]
    # 36 intervals of 95 %: 1.8 misses are expected, more than 5 have a chance below 1 %
    assert sum(checks) >= len(checks) - 5, checks


def test_the_intervals_tell_the_populations_apart(runs: list[tuple[Population, dict[str, Any]]]) -> None:
    for population, one in runs:
        other = HASTY if population is CAREFUL else CAREFUL
        assert not covers(one["automation_bias"], other.bias * (1 - other.error))
        assert not covers(one["pull"], other.bias)


def test_joint_labels_are_worse_where_people_follow_blindly(runs: list[tuple[Population, dict[str, Any]]]) -> None:
    for population, one in runs:
        if population is HASTY:
            assert one["accuracy"]["joint"]["value"] < one["accuracy"]["person alone"]["value"]
        assert one["override_wrong"]["value"] > one["override_right"]["value"]


def test_the_reveal_is_told_by_the_blind_answer(runs: list[tuple[Population, dict[str, Any]]]) -> None:
    checks = []
    for population, one in runs:
        if "self_reliance" in one:  # a blind answer is changed only by the bias
            checks.append(covers(one["ai_reliance"], population.bias))
            checks.append(covers(one["self_reliance"], 1 - population.bias))
    assert len(checks) == 4 and sum(checks) >= 3


def drawn(rng: np.random.Generator, population: Population, items: int) -> Trial:
    """Answers as the store would hold them, three an item, on items of which some are hard."""
    e, b = population.error, population.bias
    item = np.repeat(np.arange(items), 3)
    shown, wrong = rng.random(len(item)) < 0.7, (rng.random(items) < MODEL_ERROR)[item]
    errs = rng.random(len(item)) < rng.beta(4 * e, 4 * (1 - e), items)[item]
    answer = np.where(shown & (rng.random(len(item)) < b), wrong, errs).astype(np.int64)
    no, unknown = np.zeros(len(item), dtype=bool), np.full(len(item), -1)
    return Trial(
        item, item % 5, shown, no, answer, wrong.astype(np.int64), unknown, np.zeros(len(item), dtype=np.int64)
    )


@pytest.mark.parametrize("population", [CAREFUL, HASTY])
def test_the_intervals_hold_what_they_say_in_95_of_100_cases(population: Population) -> None:
    rng, runs, e, b = np.random.default_rng(7), 400, population.error, population.bias
    held = np.zeros(3)
    for _ in range(runs):
        trial = drawn(rng, population, 120)
        held += [
            covers(es.accuracy(trial, shown=False).to_json(), 1 - e),
            covers(es.automation_bias(trial).to_json(), b * (1 - e)),
            covers(es.pull(trial).to_json(), b),
        ]
    assert (held / runs >= 0.92).all() and (held / runs <= 0.995).all(), held / runs
