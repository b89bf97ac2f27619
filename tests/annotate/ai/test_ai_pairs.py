"""Both orders of a pair put together, and what the logical order decides."""

from __future__ import annotations

import pytest

from poise.annotate.ai.pairs import AxisCounts, combine, known_safer
from poise.annotate.ai.verdicts import Verdict
from poise.data.records import DualRecord, PartialLabel, SingleRecord


def verdict(choice: int, first: float | None = None) -> Verdict:
    return Verdict(choice=choice, probabilities=None if first is None else (first, 1 - first))


def test_both_orders_agree_and_the_probability_is_their_mean() -> None:
    # response 0 stands first, then second: P(0) = (0.8 + (1 - 0.4)) / 2 = 0.7
    found = combine((verdict(0, 0.8), verdict(1, 0.4)))
    assert found.value == 0 and found.probability == pytest.approx(0.7) == found.probability_0
    # P(0) = (0.1 + (1 - 0.7)) / 2 = 0.2, so P(1) = 0.8
    found = combine((verdict(1, 0.1), verdict(0, 0.7)))
    assert found.value == 1 and found.probability == pytest.approx(0.8)
    assert found.probability_0 == pytest.approx(0.2)


@pytest.mark.parametrize("place", [0, 1])
def test_the_same_place_twice_is_a_flip(place: int) -> None:
    found = combine((verdict(place, 0.9), verdict(place, 0.9)))
    assert found.value is None and found.flipped and found.reason == "flipped" and found.probability is None
    assert found.probability_0 == pytest.approx(0.5)
    assert combine((verdict(place), verdict(place)), "person").reason == "flipped: for a person"


def test_half_an_answer_is_none_and_half_a_probability_neither() -> None:
    assert combine((verdict(0), Verdict(reason="refused"))).reason == "order 1: refused"
    assert combine((Verdict(reason="truncated"), verdict(0))) == (None, None, None, "order 0: truncated", False)
    found = combine((verdict(0, 0.8), verdict(1)))
    assert found.value == 0 and found.probability is None


def pair(*labels: PartialLabel) -> DualRecord:
    first, second = labels
    return DualRecord(prompt="p", responses=("a", "b"), labels=(first, second))


SAFE, UNSAFE, UNKNOWN = PartialLabel(safe=True), PartialLabel(safe=False), PartialLabel()


def test_exactly_one_safe_response_is_the_safer_one() -> None:
    assert known_safer(pair(SAFE, UNSAFE), "safer") == 0
    assert known_safer(pair(PartialLabel(safe=False, severity=2), SAFE), "safer") == 1
    for labels in ((SAFE, SAFE), (UNSAFE, UNSAFE), (SAFE, UNKNOWN), (UNKNOWN, UNSAFE)):
        assert known_safer(pair(*labels), "safer") is None
    assert known_safer(pair(SAFE, UNSAFE), "better") is None and known_safer(pair(SAFE, UNSAFE), "single") is None
    assert known_safer(SingleRecord(prompt="p", responses=("a", "b")), "safer") is None


@pytest.mark.parametrize(
    "torn",
    [
        PartialLabel(safe=True, severity=1),
        PartialLabel(safe=True, categories=("Violence",)),
        PartialLabel(safe=False, severity=0),
        PartialLabel(safe=False, categories=()),
    ],
)
def test_a_label_that_contradicts_itself_decides_nothing(torn: PartialLabel) -> None:
    other = UNSAFE if torn.safe else SAFE
    assert known_safer(pair(torn, other), "safer") is None


def test_rates() -> None:
    counts = AxisCounts()
    for first, second in ((0, 1), (0, 0), (0, 0), (1, 1)):  # agreed, three flips
        both = verdict(first), verdict(second)
        counts.add(both, combine(both))
    failed = verdict(0), Verdict(reason="refused")
    counts.add(failed, combine(failed))
    counts.settle("logical order")
    counts.settle("same text")
    told = counts.to_json()
    assert (told["pairs"], told["agreed"], told["flipped"], told["by_order"]) == (7, 1, 3, 1)
    assert told["flip_rate"] == pytest.approx(3 / 4)
    assert told["first_rate"] == pytest.approx(6 / 9)  # first: 1 + 2 + 2 + 0, and 1 of the half answered pair
    assert told["unjudged"] == {"order 1: refused": 1, "same text": 1}
    assert AxisCounts().to_json()["flip_rate"] is None and AxisCounts().to_json()["first_rate"] is None
