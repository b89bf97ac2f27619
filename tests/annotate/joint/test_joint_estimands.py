"""Each estimand on answers that can be counted by hand, and the ends of the intervals."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from poise.annotate.joint import estimands as es
from poise.annotate.joint.estimands import Trial
from poise.annotate.joint.intervals import difference, relative_fall, share
from poise.metrics import wilson_interval

# item, shown, planted, answer, suggestion, before, truth
ROWS = [
    (0, True, False, 1, 1, -1, 0),  # a wrong suggestion is followed
    (0, False, False, 0, 1, -1, 0),
    (1, True, False, 0, 1, -1, 0),  # and overridden
    (1, False, False, 1, 1, -1, 0),  # the same error without it
    (2, True, False, 1, 1, -1, 0),
    (2, False, False, 0, 1, -1, 0),
    (3, True, False, 0, 0, 1, 0),  # a right one corrects a blind error
    (3, False, False, 1, 0, -1, 0),
    (4, True, False, 1, 0, 0, 0),  # a right one is overridden
    (5, True, True, 1, 1, -1, 0),  # a plant is followed
    (6, True, True, 0, 1, -1, 0),
    (7, False, True, 0, 1, -1, 0),
    (8, True, False, 1, 1, -1, -1),  # outside the reference
    (9, True, False, 1, 1, 0, 0),  # right before, wrong after
]


def trial(rows: list[tuple[int, bool, bool, int, int, int, int]] = ROWS) -> Trial:
    item, shown, planted, answer, suggestion, before, truth = (np.array(column) for column in zip(*rows, strict=True))
    return Trial(item, item * 0, shown, planted, answer, suggestion, before, truth)


@pytest.mark.parametrize(
    ("estimate", "value", "answers"),
    [
        (es.accuracy(trial(), shown=False), 2 / 4, 4),
        (es.accuracy(trial(), shown=True), 2 / 6, 6),
        (es.gain(trial()), 2 / 6 - 2 / 4, 4),
        (es.gain_over_model(trial()), 2 / 6 - 2 / 6, 6),  # right suggestions among those shown: items 3 and 4
        (es.override(trial(), right=False), 1 / 4, 4),  # items 0, 1, 2, 9
        (es.override(trial(), right=True), 1 / 2, 2),
        (es.automation_bias(trial()), 3 / 4 - 1 / 3, 3),
        (es.pull(trial()), 1 - (1 / 4) / (2 / 3), 3),
        (es.shift(trial()), 5 / 7 - 1 / 4, 4),
        (es.planted(trial())[0], 1 / 2, 2),
        (es.planted(trial())[1], 1 / 2 - 0, 1),
        (es.ai_reliance(trial()), 1.0, 1),
        (es.self_reliance(trial()), 0.0, 1),
    ],
)
def test_values_by_hand(estimate: es.Estimate, value: float, answers: int) -> None:
    assert estimate.value == pytest.approx(value) and estimate.answers == answers
    assert estimate.low <= estimate.value <= estimate.high or math.isnan(estimate.low)


def test_nothing_speaks_of_nothing() -> None:
    empty = trial().of(np.zeros(len(ROWS), dtype=bool))
    for one in (es.gain(empty), es.override(empty, right=True), es.automation_bias(empty), *es.planted(empty)):
        assert one.to_json() == {"value": None, "low": None, "high": None, "answers": 0, "items": 0}


def test_one_answer_an_item_is_wilson() -> None:
    # between items the variance has n - 1, so 40 answers count as 39: Wilson's interval of the same share at 39
    found, at_40 = share(np.arange(40) % 5 == 0, np.arange(40)), wilson_interval(8, 40)
    z, n, p = 1.959964, 39, 0.2
    half = z / (1 + z**2 / n) * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    assert (found.low, found.high) == pytest.approx((centre - half, centre + half), abs=1e-6)
    assert found.low < at_40.low and found.high > at_40.high and (found.value, found.items) == (0.2, 40)


def test_answers_that_go_together_count_once() -> None:
    hit, item = np.arange(30) % 3 == 0, np.arange(30)
    once, thrice = share(hit, item), share(np.repeat(hit, 3), np.repeat(item, 3))
    assert (once.low, once.high) == pytest.approx((thrice.low, thrice.high)) and thrice.answers == 90


def test_a_share_of_none_or_all_has_an_interval() -> None:
    none = share(np.zeros(20, dtype=bool), np.arange(20))
    assert none.low == 0 and none.high == pytest.approx(wilson_interval(0, 20).high)


def test_pairs_that_differ_little_have_a_narrow_difference() -> None:
    before = np.arange(100) % 2 == 0
    after = before.copy()
    after[:4] = True
    item = np.arange(100)
    paired, apart = difference(after, item, before, item), difference(after, item, before, item + 100)
    assert paired.value == apart.value == pytest.approx(0.02)
    assert paired.high - paired.low < 0.5 * (apart.high - apart.low)


@given(st.lists(st.tuples(st.integers(0, 9), st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_intervals_hold_their_value(rows: list[tuple[int, bool, bool]]) -> None:
    item, side, hit = (np.array(column) for column in zip(*rows, strict=True))
    for one in (
        share(hit, item),
        difference(hit[side], item[side], hit[~side], item[~side]),
        relative_fall(hit[side], item[side], hit[~side], item[~side]),
    ):
        if not math.isnan(one.value):
            assert math.isnan(one.low) or one.low <= one.value + 1e-9
            assert math.isnan(one.high) or one.value <= one.high + 1e-9
