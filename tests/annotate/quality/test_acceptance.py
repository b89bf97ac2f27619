"""Bounds, sample sizes and decisions against hand values, the definition, and simulated batches."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest

from poise.annotate.quality.acceptance import (
    batch_bounds,
    binomial_cdf,
    clopper_pearson,
    decide,
    hypergeometric_cdf,
    sample_size,
)


def test_binomial_tail_by_hand() -> None:
    # n = 3, p = 1/4: P(X <= 1) = 27/64 + 3 * 9/64 = 54/64
    assert binomial_cdf(1, 3, 0.25) == pytest.approx(54 / 64)
    assert [binomial_cdf(1, 3, 0.0), binomial_cdf(1, 3, 1.0), binomial_cdf(3, 3, 1.0)] == [1.0, 0.0, 1.0]
    assert binomial_cdf(50_000, 100_000, 0.5) == pytest.approx(0.50126, abs=1e-5)  # no overflow


def test_hypergeometric_tail_by_counting_all_samples() -> None:
    for wrong in range(8):
        draws = [sum(place < wrong for place in sample) for sample in combinations(range(7), 3)]
        for errors in range(4):
            share = sum(found <= errors for found in draws) / len(draws)
            assert hypergeometric_cdf(errors, 3, wrong, 7) == pytest.approx(share)


def test_upper_bound_without_errors_is_the_closed_form() -> None:
    # (1 - p)^n = .05, p = 1 - .05^(1/n): 59 is the first n with p < .05
    for n in (1, 58, 59, 300):
        assert clopper_pearson(0, n).upper == pytest.approx(1 - 0.05 ** (1 / n), abs=1e-12)
    assert clopper_pearson(0, 59).upper < 0.05 < clopper_pearson(0, 58).upper
    assert clopper_pearson(0, 1000).upper == pytest.approx(3 / 1000, rel=0.01)  # the rule of three


def test_bounds_of_the_table_and_their_symmetry() -> None:
    # the two-sided 95 % interval of 1 in 10 in the tables: 0.0025, 0.4450
    bounds = clopper_pearson(1, 10, 0.975)
    assert (bounds.rate, round(bounds.lower, 4), round(bounds.upper, 4)) == (0.1, 0.0025, 0.4450)
    mirror = clopper_pearson(9, 10, 0.975)
    assert (1 - mirror.upper, 1 - mirror.lower) == pytest.approx((bounds.lower, bounds.upper), abs=1e-12)
    assert (clopper_pearson(0, 10).lower, clopper_pearson(10, 10).upper) == (0.0, 1.0)
    nothing = clopper_pearson(0, 0)
    assert math.isnan(nothing.rate)
    assert nothing[1:] == (0.0, 1.0)


def test_batch_bounds_are_the_inverted_test_and_narrower() -> None:
    batch, checked, tail = 40, 15, 0.05
    for errors in range(checked + 1):
        fit_above = [d for d in range(batch + 1) if hypergeometric_cdf(errors, checked, d, batch) > tail]
        fit_below = [
            d for d in range(batch + 1) if not errors or 1 - hypergeometric_cdf(errors - 1, checked, d, batch) > tail
        ]
        possible = range(errors, batch - checked + errors + 1)
        bounds = batch_bounds(errors, checked, batch)
        assert bounds.upper == max(d for d in fit_above if d in possible) / batch
        assert bounds.lower == min(d for d in fit_below if d in possible) / batch
        wide = clopper_pearson(errors, checked)
        assert wide.lower <= bounds.lower <= bounds.rate <= bounds.upper <= wide.upper
    assert batch_bounds(3, 40, 40) == (3 / 40, 3 / 40, 3 / 40)  # checked whole
    assert batch_bounds(2, 100, 10**7).upper == pytest.approx(clopper_pearson(2, 100).upper, abs=1e-5)


@pytest.mark.parametrize(
    ("batch", "limit", "errors"), [(10**7, 0.05, 0), (500, 0.02, 0), (500, 0.02, 3), (50, 0.02, 1)]
)
def test_sample_size_is_the_first_that_passes(batch: int, limit: float, errors: int) -> None:
    size = sample_size(batch, limit, errors)
    assert size is not None
    assert batch_bounds(errors, size, batch).upper <= limit
    assert size == errors or batch_bounds(errors, size - 1, batch).upper > limit


def test_sample_sizes_of_the_tables() -> None:
    # zero, one and two allowed at 5 % and 95 %: 59, 93, 124 for an endless batch
    assert [sample_size(10**8, 0.05, c) for c in range(3)] == [59, 93, 124]
    assert sample_size(50, 0.02, 2) is None  # 2 of 50 are 4 %
    assert sample_size(100, 0.29, 29) is not None  # .29 * 100 is below 29 in floats
    assert sample_size(30, 0.0) == 29  # with one wrong label, 29 of 30 find it with 29/30 > .95; 28 with .933


def test_decisions() -> None:
    assert decide(0, 59, 10**6, 0.05).verdict == "accept"
    assert decide(0, 58, 10**6, 0.05)[::2] == ("check more", 1)
    assert decide(0, 0, 10**6, 0.05)[::2] == ("check more", 59)
    assert decide(20, 59, 10**6, 0.05).verdict == "reject"
    assert decide(2, 2, 2, 0.5).verdict == "reject"
    # 1 wrong of 10 of 20 is above the limit of 0 for sure
    assert decide(1, 10, 20, 0.0).verdict == "reject"
    # three planned looks: each at 1 - .05/3, and then 59 are not enough
    assert decide(0, 59, 10**6, 0.05, looks=3)[::2] == (
        "check more",
        math.ceil(math.log(0.05 / 3) / math.log(0.95)) - 59,
    )


def test_coverage_and_false_acceptance_over_simulated_batches() -> None:
    rng = np.random.default_rng(5)
    batch, wrong, runs = 1000, 30, 4000  # 3 % wrong
    found = rng.hypergeometric(wrong, batch - wrong, 120, runs)
    bounds = {int(k): batch_bounds(int(k), 120, batch) for k in np.unique(found)}
    above = np.mean([bounds[int(k)].upper >= wrong / batch for k in found])
    below = np.mean([bounds[int(k)].lower <= wrong / batch for k in found])
    assert above >= 0.95 - 0.01
    assert below >= 0.95 - 0.01
    assert min(above, below) < 0.995  # not so wide that all of them cover


def test_looking_again_without_a_plan_passes_too_many_bad_batches() -> None:
    rng = np.random.default_rng(6)
    batch, limit, steps = 1000, 0.05, (60, 100, 150, 210, 280)
    passed = {1: 0, len(steps): 0}
    known: dict[tuple[int, int, int], bool] = {}
    for _ in range(2000):
        order = rng.permutation(batch) < 51  # 5.1 % are wrong: it must not pass
        for looks in passed:
            for n in steps:
                key = looks, n, int(order[:n].sum())
                if key not in known:
                    known[key] = decide(key[2], n, batch, limit, looks=looks).verdict == "accept"
                if known[key]:
                    passed[looks] += 1
                    break
    assert passed[len(steps)] / 2000 <= 0.05
    assert passed[1] / 2000 > 0.08


@pytest.mark.parametrize("call", [(3, 2, 5), (0, 6, 5), (-1, 2, 5)])
def test_impossible_counts_are_refused(call: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="each must be in"):
        batch_bounds(*call)


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="confidence 1"):
        clopper_pearson(0, 5, 1.0)
    with pytest.raises(ValueError, match="limit of 1"):
        sample_size(5, 1.0)
    with pytest.raises(ValueError, match="0 looks"):
        decide(0, 5, 5, 0.1, looks=0)


def test_batch_bounds_are_hardly_ever_wider_than_those_of_an_endless_batch() -> None:
    for batch in (5, 10, 23):
        for checked in range(1, batch + 1):
            for errors in range(checked + 1):
                found, wide = batch_bounds(errors, checked, batch), clopper_pearson(errors, checked)
                assert wide.lower - 0.001 < found.lower <= found.rate <= found.upper < wide.upper + 0.001
