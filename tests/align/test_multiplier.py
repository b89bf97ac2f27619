"""The Lagrange multiplier: steps worked by hand, its direction, and its state."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poise.align.multiplier import LogMultiplier, Multiplier, threshold_from_paper

costs = st.lists(st.floats(-5, 5), min_size=1, max_size=20)


def test_two_steps_by_hand() -> None:
    # ln lambda = 0, mean(1, 3) = 2: 0 + 0.1 * 1 * 2 = 0.2
    # window (1, 3, -5, -5), mean -1.5: 0.2 + 0.1 * e^0.2 * -1.5
    multiplier = LogMultiplier(threshold=0.0, initial=1.0, lr=0.1)
    assert math.isnan(multiplier.measured_cost)
    assert multiplier.update([1.0, 3.0]) == pytest.approx(math.exp(0.2))
    assert multiplier.measured_cost == 2.0
    assert multiplier.update([-5.0, -5.0]) == pytest.approx(math.exp(0.2 - 0.15 * math.exp(0.2)))
    assert multiplier.measured_cost == -1.5


def test_the_threshold_is_subtracted() -> None:
    # 0.5 * 2 * (3 - 1) = 2 on ln 2
    multiplier = LogMultiplier(threshold=1.0, initial=2.0, lr=0.5, maximum=None)
    assert multiplier.update([3.0]) == pytest.approx(2 * math.exp(2))


def test_the_window_forgets() -> None:
    # window 2: only (-5, -5) counts, mean -5
    multiplier = LogMultiplier(initial=1.0, lr=0.1, window=2)
    multiplier.update([1.0, 3.0])
    assert multiplier.update([-5.0, -5.0]) == pytest.approx(math.exp(0.2 - 0.5 * math.exp(0.2)))


def test_the_delay_counts_rollouts_but_keeps_their_costs() -> None:
    # two rollouts without a step, then mean(1, 2, 6) = 3: e^0.3
    multiplier = LogMultiplier(lr=0.1, delay=2)
    assert multiplier.update([1.0]) == 1.0
    assert multiplier.update([2.0]) == 1.0
    assert multiplier.update([6.0]) == pytest.approx(math.exp(0.3))


def test_the_maximum_holds_and_does_not_wind_up() -> None:
    multiplier = LogMultiplier(initial=1.0, lr=1.0, maximum=5.0, window=1)
    for _ in range(4):
        multiplier.update([10.0])
    assert multiplier.value == pytest.approx(5.0)
    # the first slack rollout brings it down from 5, not from an unseen height: ln 5 + 1 * 5 * -0.1
    assert multiplier.update([-0.1]) == pytest.approx(5 * math.exp(-0.5))
    assert LogMultiplier(initial=10.0, maximum=5.0).value == pytest.approx(5.0)


@given(costs, st.floats(-3, 3), st.floats(0.1, 4))
def test_lambda_rises_iff_the_constraint_is_violated(batch: list[float], threshold: float, initial: float) -> None:
    multiplier = LogMultiplier(threshold=threshold, initial=initial, maximum=None)
    before = multiplier.value
    after = multiplier.update(batch)
    excess = sum(batch) / len(batch) - threshold
    if abs(excess) > 1e-6:  # smaller steps round away
        assert (after > before) == (excess > 0)
        assert (after < before) == (excess < 0)
    assert after > 0


@given(st.lists(costs, max_size=4), st.lists(costs, min_size=1, max_size=4), st.integers(0, 3), st.integers(1, 8))
def test_a_resumed_multiplier_goes_on_as_if_never_stopped(
    first: list[list[float]], second: list[list[float]], delay: int, window: int
) -> None:
    def build() -> LogMultiplier:
        return LogMultiplier(threshold=0.3, initial=1.5, delay=delay, window=window)

    multiplier = build()
    for batch in first:
        multiplier.update(batch)
    resumed = build()
    resumed.update([4.0])  # state that loading must replace
    resumed.load_state_dict(json.loads(json.dumps(multiplier.state_dict())))
    assert resumed.value == multiplier.value
    assert [resumed.update(batch) for batch in second] == [multiplier.update(batch) for batch in second]


@pytest.mark.parametrize("batch", [[], [math.nan], [1.0, math.inf]])
def test_costs_must_be_numbers(batch: list[float]) -> None:
    multiplier = LogMultiplier()
    with pytest.raises(ValueError, match="at least one cost, and all of them finite"):
        multiplier.update(batch)
    assert math.isnan(multiplier.measured_cost), "a refused rollout leaves no trace"


@pytest.mark.parametrize(("initial", "maximum"), [(0.0, 5.0), (-1.0, None), (1.0, 0.0)])
def test_start_and_maximum_must_be_positive(initial: float, maximum: float | None) -> None:
    with pytest.raises(ValueError, match="both must be positive"):
        LogMultiplier(initial=initial, maximum=maximum)


def test_threshold_from_paper_turns_the_sign() -> None:
    # the paper: J_C + d <= 0 with d = 10 means mean cost <= -10
    assert threshold_from_paper(10.0) == -10.0


def test_it_fits_the_seam() -> None:
    multiplier: Multiplier = LogMultiplier()
    assert multiplier.value == 1.0
