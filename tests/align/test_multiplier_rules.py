"""The other rules of the multiplier: steps by hand, bounds, direction, state; several at once; several processes."""

from __future__ import annotations

import json
import math
import socket
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poise.align.multiplier import (
    CostWindow,
    FixedMultiplier,
    LinearMultiplier,
    LogMultiplier,
    Multiplier,
    Multipliers,
    PIDMultiplier,
    RectifiedMultiplier,
    bounded_budget,
    gathered,
    paper_from_threshold,
    threshold_from_paper,
)

quick = settings(deadline=None, max_examples=25)
costs = st.lists(st.floats(-5, 5), min_size=1, max_size=20)
RULES: dict[str, Callable[[], Any]] = {
    "log": lambda: LogMultiplier(0.3, 1.5, window=6, delay=1),
    "linear": lambda: LinearMultiplier(0.3, 1.5, 0.2, 4.0, window=6, delay=1),
    "pid": lambda: PIDMultiplier(0.3, 0.5, 0.2, 0.7, 1.5, 4.0, window=6, delay=1),
    "bounded": bounded_budget,
    "fixed": lambda: FixedMultiplier(1.5, window=6),
    "rectified": lambda: RectifiedMultiplier(0.3, 1.5, 0.2, 4.0, window=6, delay=1),
}


def test_linear_by_hand() -> None:
    # 0 + 0.5 (3 - 1) = 1; -9 and two of 3 make mean -1: 1 + 0.5 (-1 - 1) = 0; then it stays at 0, then leaves it
    multiplier = LinearMultiplier(threshold=1.0, initial=0.0, lr=0.5, maximum=1.5, window=3)
    assert multiplier.update([3.0, 3.0]) == 1.0
    assert multiplier.measured_cost == 3.0
    assert multiplier.update([-9.0]) == 0.0
    assert multiplier.update([-9.0]) == 0.0
    assert multiplier.update([3.0, 3.0, 3.0]) == 1.0
    assert multiplier.update([3.0]) == 1.5  # the maximum


def test_pid_by_hand() -> None:
    # K = (2, 0.5, 1), d = 1. J = 3: D = 2, I = 2, no rise yet: 4 + 1 = 5
    # J = 4: D = 3, I = 5, rise 1: 6 + 2.5 + 1 = 9.5; J = 0: D = -1, I = 4, no rise: -2 + 2 = 0
    # J = 0.5: I = 3.5, rise 0.5: -1 + 1.75 + 0.5 = 1.25
    multiplier = PIDMultiplier(1.0, 2.0, 0.5, 1.0, window=1)
    assert [multiplier.update([j]) for j in (3.0, 4.0, 0.0, 0.5)] == pytest.approx([5.0, 9.5, 0.0, 1.25])


def test_pid_starts_where_it_is_told_and_does_not_wind_up() -> None:
    multiplier = PIDMultiplier(0.0, 0.0, 0.5, 0.0, initial=2.0, maximum=3.0, window=1)
    assert multiplier.value == 2.0
    for _ in range(9):
        assert multiplier.update([10.0]) == 3.0
    assert multiplier.update([-1.0]) == 2.5  # from 3 at once, not from 2 + 0.5 * 90


@quick
@given(st.lists(costs, min_size=1, max_size=6), st.floats(0, 3))
def test_pid_with_its_integral_alone_is_the_linear_rule(rollouts: list[list[float]], initial: float) -> None:
    pid = PIDMultiplier(0.2, 0.0, 0.25, 0.0, initial, 4.0, window=9)
    linear = LinearMultiplier(0.2, initial, 0.25, 4.0, window=9)
    for batch in rollouts:
        assert pid.update(batch) == pytest.approx(linear.update(batch), abs=1e-9)


@quick
@given(st.lists(costs, min_size=1, max_size=12))
def test_the_bounded_budget_starts_at_ten_waits_once_and_stays_below_twenty(rollouts: list[list[float]]) -> None:
    multiplier = bounded_budget()
    assert multiplier.value == pytest.approx(10.0) and multiplier.threshold == -0.5
    multiplier.update([100.0])
    assert multiplier.value == pytest.approx(10.0)
    multiplier.update([100.0])
    assert multiplier.value == pytest.approx(20.0)
    for batch in rollouts:
        assert 0 <= multiplier.update(batch) <= 20.0 + 1e-9


def test_rectified_by_hand() -> None:
    # prompts (1, -9, 0.5) with d = 0.5: excess (0.5, 0, 0), mean 1/6, lr 3: 0.5; slack prompts pay for nothing
    multiplier = RectifiedMultiplier(0.5, 0.0, 3.0, 0.8, window=3)
    assert multiplier.update([1.0, -9.0, 0.5]) == pytest.approx(0.5)
    assert multiplier.measured_excess == pytest.approx(1 / 6)
    assert multiplier.update([-9.0, -9.0, -9.0]) == pytest.approx(0.5)
    assert multiplier.update([9.0, 9.0, 9.0]) == 0.8


def test_a_fixed_weight_measures_and_stays() -> None:
    multiplier = FixedMultiplier(2.5, window=2)
    assert multiplier.update([1.0, 3.0, 5.0]) == multiplier.value == 2.5
    assert multiplier.measured_cost == 3.0


@pytest.mark.parametrize("name", RULES)
@quick
@given(first=st.lists(costs, max_size=4), second=st.lists(costs, min_size=1, max_size=4))
def test_a_resumed_rule_goes_on_as_if_never_stopped(
    name: str, first: list[list[float]], second: list[list[float]]
) -> None:
    multiplier, resumed = RULES[name](), RULES[name]()
    for batch in first:
        multiplier.update(batch)
    resumed.update([4.0])  # state that loading must replace
    resumed.load_state_dict(json.loads(json.dumps(multiplier.state_dict())))
    assert resumed.value == multiplier.value
    assert [resumed.update(batch) for batch in second] == [multiplier.update(batch) for batch in second]


@pytest.mark.parametrize("name", RULES)
@quick
@given(rollouts=st.lists(costs, min_size=1, max_size=5))
def test_the_order_of_a_rollouts_rows_has_no_effect(name: str, rollouts: list[list[float]]) -> None:
    """Rows come sorted by length and by process; a window that cuts a rollout must not prefer the long ones."""
    one, other = RULES[name](), RULES[name]()
    for batch in rollouts:
        assert one.update(batch) == pytest.approx(other.update(sorted(batch)), rel=1e-9, abs=1e-12)


def test_the_window_weighs_a_rollout_that_it_cuts_by_what_there_is_room_for() -> None:
    # window 5: rollout means 1 (of 4), 3 (of 2), 7 (of 2): 2 * 7 + 2 * 3 + 1 * 1 over 5
    window = CostWindow(5)
    assert math.isnan(window.mean)
    means = []
    for batch in ([0.0, 2.0, 0.0, 2.0], [3.0, 3.0], [5.0, 9.0], [1.0] * 9):
        window.push(batch)
        means.append(window.mean)
    assert means == pytest.approx([1.0, (6 + 3) / 5, (14 + 6 + 1) / 5, 1.0])


@pytest.mark.parametrize("name", RULES)
def test_costs_must_be_numbers(name: str) -> None:
    multiplier: Multiplier = RULES[name]()
    before = multiplier.state_dict()
    for batch in ([], [math.nan], [1.0, math.inf]):
        with pytest.raises(ValueError, match="at least one cost, and all of them finite"):
            multiplier.update(batch)
    assert multiplier.state_dict() == before


@pytest.mark.parametrize(
    "make",
    [
        lambda: LinearMultiplier(initial=-1.0),
        lambda: LinearMultiplier(maximum=-1.0),
        lambda: PIDMultiplier(proportional=-1.0),
        lambda: PIDMultiplier(integral=0.0),
        lambda: PIDMultiplier(maximum=-2.0),
        lambda: RectifiedMultiplier(initial=-1.0),
        lambda: FixedMultiplier(-0.1),
        lambda: LinearMultiplier(window=0),
        lambda: LogMultiplier(delay=-1),
        lambda: Multipliers({}),
    ],
)
def test_settings_that_make_no_sense(make: Callable[[], object]) -> None:
    with pytest.raises(ValueError):
        make()


def test_several_constraints_move_apart() -> None:
    both = Multipliers({"severe": LinearMultiplier(0.0, 1.0, 1.0), "minor": LinearMultiplier(0.5, 1.0, 1.0)})
    assert both.names == ["severe", "minor"] and both.values == [1.0, 1.0]
    assert both.update({"minor": [0.0, 0.0], "severe": [0.0, 1.0]}) == [1.5, 0.5]
    resumed = Multipliers({"minor": LinearMultiplier(0.5), "severe": LinearMultiplier(0.0)})
    resumed.load_state_dict(json.loads(json.dumps(both.state_dict())))
    assert dict(zip(resumed.names, resumed.values, strict=True)) == {"severe": 1.5, "minor": 0.5}


def test_several_constraints_move_all_or_none() -> None:
    both = Multipliers({"severe": LinearMultiplier(), "minor": LinearMultiplier()})
    before = both.state_dict()
    with pytest.raises(ValueError, match=r"\['minor'\] differ"):
        both.update({"severe": [1.0]})
    with pytest.raises(ValueError, match="finite"):
        both.update({"severe": [1.0], "minor": [math.nan]})
    assert both.state_dict() == before
    with pytest.raises(ValueError, match="checkpoint has multipliers for"):
        both.load_state_dict({"severe": before["severe"]})


def test_the_paper_writes_the_threshold_with_the_other_sign() -> None:
    # table 4 of Safe RLHF: -d = -3 in round 2, J_C + 3 <= 0, mean cost <= -3
    assert threshold_from_paper(3.0) == -3.0
    assert paper_from_threshold(threshold_from_paper(1.7)) == 1.7


def test_one_process_gathers_its_own_costs() -> None:
    assert gathered([1.0, 2.0]) == [1.0, 2.0]


PROCESS = """
import sys
from torch import distributed
from poise.align.multiplier import LinearMultiplier, gathered
rank = int(sys.argv[1])
distributed.init_process_group("gloo", init_method=sys.argv[2], rank=rank, world_size=2)
multiplier = LinearMultiplier(0.5, 0.0, 1.0)
costs = gathered([[1.0], [0.25, 4.0]][rank])
print(costs, multiplier.update(costs))
distributed.destroy_process_group()
"""


def test_two_processes_have_one_lambda() -> None:
    """The ranks hold 1 and 2 costs: the mean is over the three, not of the two means."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    ranks = [
        subprocess.Popen([sys.executable, "-c", PROCESS, str(rank), address], stdout=subprocess.PIPE, text=True)
        for rank in (0, 1)
    ]
    outputs = [process.communicate(timeout=120)[0].strip() for process in ranks]
    assert outputs[0] == outputs[1] == f"[1.0, 0.25, 4.0] {5.25 / 3 - 0.5}"
