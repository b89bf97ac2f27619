"""The choice of what to check and the estimates from it, by hand and over simulated batches."""

from __future__ import annotations

import math

import numpy as np
import pytest

from poise.annotate.quality.screening import choose, estimate


def test_the_top_is_by_doubt_and_unjudged_comes_first() -> None:
    items = [f"item-{n}" for n in range(50)]
    doubt = np.linspace(0, 1, 50)
    doubt[7] = np.nan
    chosen = choose(items, doubt, 5, seed=3)
    assert chosen.top.tolist() == [7, 49, 48, 47, 46]
    assert len(chosen.rest) == 5
    assert not set(chosen.top) & set(chosen.rest)


def test_the_choice_does_not_depend_on_the_order_of_the_batch() -> None:
    items = [f"item-{n}" for n in range(60)]
    doubt = np.array([n % 3 for n in range(60)], float)  # many ties
    there = choose(items, doubt, 8)
    order = np.random.default_rng(0).permutation(60)
    again = choose([items[i] for i in order], doubt[order], 8)
    for before, after in zip(there, again, strict=True):
        assert [items[i] for i in before] == [items[order[i]] for i in after]
    other = choose(items, doubt, 8, seed=1)
    assert other.rest.tolist() != there.rest.tolist()


def test_small_batches_and_wrong_input() -> None:
    chosen = choose(["a", "b", "c"], [0, 1, 2], 2)
    assert (chosen.top.tolist(), chosen.rest.tolist()) == ([2, 1], [0])
    assert choose(["a", "b", "c"], [0, 1, 2], 2, random=0).rest.tolist() == []
    with pytest.raises(ValueError, match="1 different"):
        choose(["a", "a"], [0, 1], 1)
    with pytest.raises(ValueError, match="negative"):
        choose(["a"], [0], -1)
    with pytest.raises(ValueError, match="at least one"):
        estimate(10, [True], [])
    with pytest.raises(ValueError, match="at most all"):
        estimate(3, [True, False], [True, False])


def test_estimates_by_hand() -> None:
    # N = 110: top 10 with 6 wrong; 20 of the other 100 checked, 1 wrong, which stands for 100/20 = 5
    found = estimate(110, [True] * 6 + [False] * 4, [True] + [False] * 19)
    assert found.precision == (0.6, 0.6, 0.6, 10)
    assert found.recall.mean == pytest.approx(6 / 11)
    assert found.error_rate.mean == pytest.approx(11 / 110)
    assert found.rest_rate.mean == 0.05
    # the interval of the rest, 1..D wrong of 100, carries over
    low, high = found.rest_rate.low * 100, found.rest_rate.high * 100
    assert found.recall[1:] == pytest.approx((6 / (6 + high), 6 / (6 + low), 30))
    assert found.error_rate[1:3] == pytest.approx(((6 + low) / 110, (6 + high) / 110))


def test_none_found_is_not_none_there() -> None:
    found = estimate(1000, [True] * 5, [False] * 20)
    assert (found.recall.mean, found.recall.high) == (1.0, 1.0)
    assert found.recall.low < 0.05  # up to 16 % of 995 may be wrong
    nothing = estimate(1000, [False] * 5, [False] * 20)
    assert math.isnan(nothing.recall.mean)
    assert nothing.error_rate.high > 0.1
    blind = estimate(1000, [False] * 5, [True] * 20)
    assert blind.recall[:3] == (0.0, 0.0, 0.0)


def test_unjudged_checks_widen_the_interval_both_ways() -> None:
    nan = math.nan
    # top 4 of 24: 1 wrong, 1 right, 2 unjudged; all 20 others drawn, 2 wrong, 8 right, 10 unjudged
    found = estimate(24, [1, 0, nan, nan], [1, 1, *[0] * 8, *[nan] * 10])
    assert found.precision == (0.5, 0.25, 0.75, 2)
    assert found.rest_rate == (0.2, 0.1, 0.6, 10)
    assert found.error_rate == (6 / 24, 3 / 24, 15 / 24, 12)  # 2 + 4; 1 + 2; 3 + 12
    assert found.recall == (2 / 6, 1 / 13, 3 / 5, 12)


def test_a_batch_that_is_checked_whole_is_known() -> None:
    found = estimate(4, [True, False, False, True], [])
    assert found.error_rate == (0.5, 0.5, 0.5, 4)
    assert found.recall[:3] == (1.0, 1.0, 1.0)
    assert found.rest_rate.n == 0
    assert estimate(3, [True, False], [True]).error_rate[:3] == pytest.approx((2 / 3, 2 / 3, 2 / 3))


def test_estimates_over_simulated_batches_are_unbiased_and_cover() -> None:
    rng = np.random.default_rng(8)
    size, runs, k = 2000, 400, 100
    wrong = rng.random(size) < 0.06
    doubt = wrong * 1.2 + rng.normal(size=size)  # a screener that knows a little
    items = [f"label-{n}" for n in range(size)]
    top = choose(items, doubt, k).top
    true_rate, true_recall = wrong.mean(), wrong[top].sum() / wrong.sum()
    rates, covered_rate, covered_recall = [], 0, 0
    for seed in range(runs):
        chosen = choose(items, doubt, k, seed)
        assert set(chosen.top) == set(top)
        found = estimate(size, wrong[chosen.top], wrong[chosen.rest])
        rates.append(found.error_rate.mean)
        covered_rate += found.error_rate.low <= true_rate <= found.error_rate.high
        covered_recall += found.recall.low <= true_recall <= found.recall.high
    spread = np.std(rates) / math.sqrt(runs)
    assert abs(np.mean(rates) - true_rate) < 3.5 * spread
    assert 0.93 <= covered_rate / runs < 1
    assert covered_recall == covered_rate
    assert wrong[top].mean() > 1.5 * true_rate  # what a plain mean over all checks would have reported is biased
