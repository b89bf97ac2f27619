"""Diagnostics, threshold and scale on numbers worked by hand."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from poise.errors import PoiseError
from poise.metrics import bootstrap_clusters, bootstrap_mean
from poise.preference.figure import draw
from poise.preference.measures import measure, pearson, ranks
from poise.preference.normaliser import fit_scale
from poise.preference.pairs import Example, Pair, PreferenceData
from poise.preference.threshold import threshold_at_safe_quantile, threshold_for_violation_rate


def data() -> PreferenceData:
    """Two prompts; lengths 1..4 then 2, 2."""
    lengths, flags = (1, 2, 3, 4, 2, 2), (False, True, True, True, False, None)
    examples = [Example([1 + i // 4], [7] * n, flag) for i, (n, flag) in enumerate(zip(lengths, flags, strict=True))]
    pairs = [
        Pair((0, 1), 0, 0, "boundary"),
        Pair((2, 3), 1, 0, "severity"),
        Pair((4, 5), 1, None, "unlabelled"),
    ]
    return PreferenceData(examples, pairs, [[0, 1], [2]])


REWARD = np.array([1.0, 0.0, 0.0, 2.0, 5.0, 4.0])
COST = np.array([-1.0, 2.0, 3.0, 1.0, 0.5, 9.0])


def test_numbers_by_hand() -> None:
    # reward: 0 over 1 yes (better is shorter), 3 over 2 yes (longer), 5 over 4 no (equal length): 2 of 3
    # cost: 1 over 0 yes (longer), 3 over 2 no (longer); signs of 0..4: -1 2 3 1 right, 0.5 for a safe one wrong: 4 of 5
    # AUROC of {2, 3, 1} against {-1, 0.5}: all above = 1
    got = measure(data(), REWARD, COST, seed=0)
    reward, cost = got["reward"], got["cost"]
    assert reward["pair_accuracy"]["mean"] == pytest.approx(2 / 3)
    assert (reward["pairs"], reward["pair_accuracy"]["n"]) == (3, 2)
    assert reward["length"]["higher_is_shorter"]["pair_accuracy"]["mean"] == 1
    assert reward["length"]["higher_is_longer"]["pairs"] == 1
    assert cost["pair_accuracy"]["mean"] == 0.5
    assert {rung: part["pair_accuracy"]["mean"] for rung, part in cost["by_rung"].items()} == {
        "boundary": 1,
        "severity": 0,
    }
    assert cost["sign_accuracy"]["mean"] == pytest.approx(0.8)
    assert cost["auroc"]["mean"] == 1
    assert cost["labels"] == {"safe": 2, "unsafe": 3}
    # costs of pairs 0, 1, 2, 3 against lengths 1, 2, 3, 4: ranks 1, 3, 4, 2: rho = 1 - 6 (0 + 1 + 1 + 4) / 60 = 0.4
    assert cost["length"]["spearman"]["mean"] == pytest.approx(0.4)
    assert sum(entry["n"] for entry in cost["reliability"]) == 5


def test_calibration_by_hand() -> None:
    # cost 0 is P = 0.5; one of two is unsafe: no error. Cost ln 3 is P = 0.75, both safe: 0.75
    examples = [Example([i], [1], flag) for i, flag in enumerate((True, False, False, False))]
    cost = np.array([0.0, 0.0, math.log(3), math.log(3)])
    got = measure(PreferenceData(examples, [], []), cost, cost, 0)["cost"]
    assert got["ece"]["mean"] == pytest.approx(0.375)
    assert got["pair_accuracy"]["mean"] is None


def test_ranks_and_correlation() -> None:
    assert ranks(np.array([3.0, 1.0, 3.0])).tolist() == [2.5, 1, 2.5]
    assert pearson(np.array([1.0, 2.0, 3.0]), np.array([2.0, 4.0, 6.0])) == pytest.approx(1)
    assert math.isnan(pearson(np.array([1.0, 2.0]), np.array([5.0, 5.0])))


def test_clusters_widen_the_interval() -> None:
    """Ten copies of each of six values are six items, not sixty."""
    values = np.repeat([0.0, 1.0, 0.0, 1.0, 1.0, 0.0], 10)
    groups = [list(range(at, at + 10)) for at in range(0, 60, 10)]
    whole = bootstrap_clusters(lambda at: float(values[at].mean()), groups, seed=1)
    single = bootstrap_mean(values, seed=1)
    assert whole.mean == single.mean == 0.5
    assert whole.n == 6
    assert whole.high - whole.low > 2 * (single.high - single.low)
    assert bootstrap_clusters(lambda at: math.nan, groups, 1).n == 6
    assert bootstrap_clusters(lambda at: 1.0, [], 1).n == 0


def test_thresholds_by_hand() -> None:
    costs, unsafe = [-3.0, -2.0, -1.0, 2.0, 4.0], [False, False, False, True, True]
    assert threshold_at_safe_quantile(costs, unsafe, 0.5) == -2
    assert threshold_for_violation_rate(costs, unsafe, 0.0) == -2
    assert threshold_for_violation_rate(costs, unsafe, 0.2) == pytest.approx(0.8 * -2 + 0.2 * 3)
    with pytest.raises(PoiseError, match="none of 1 responses is safe"):
        threshold_at_safe_quantile([1.0], [True], 0.5)
    with pytest.raises(PoiseError, match="no response is unsafe"):
        threshold_for_violation_rate([1.0], [False], 0.5)


def test_the_scale_keeps_the_sign_of_the_cost() -> None:
    scale = fit_scale([1.0, 3.0], [4.0, 8.0])
    assert scale == {"reward_mean": 2, "reward_std": 1, "cost_std": 2}
    with pytest.raises(PoiseError, match="cost_std of 2 responses is 0"):
        fit_scale([1.0, 3.0], [4.0, 4.0])


def test_the_picture_is_the_same_twice(tmp_path: Path) -> None:
    got = measure(data(), REWARD, COST, seed=0)
    for name in ("a.svg", "b.svg"):
        draw(tmp_path / name, got, COST[:5], np.array([0, 1, 1, 1, 0], dtype=float), -0.5)
    first = (tmp_path / "a.svg").read_text()
    assert first == (tmp_path / "b.svg").read_text()
    for word in ("threshold -0.50", "labelled unsafe (3)", "boundary", "sigmoid(cost)"):
        assert word in first
