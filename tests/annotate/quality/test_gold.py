"""Answers to items whose answer is known: grades, tallies, and when the known answer is to be doubted."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from poise.annotate.quality.gold import Doubt, Tally, doubted, grade, safety_right
from poise.annotate.quality.policy import QualityPolicy

SAFE = {"categories": [], "severity": 0}


def label(severity: int, *codes: str) -> dict[str, object]:
    """A label in the store's form."""
    return {"categories": list(codes), "severity": severity}


def test_grades_and_half_points() -> None:
    """Six exact, two near, two wrong: 6/10 exact, (6 + 2/2)/10 with half points; unjudged ones count for nothing."""
    known = label(2, "S1", "S2")
    assert grade(known, label(2, "S2", "S1")) == "exact"
    assert [grade(known, label(s, "S1", "S2")) for s in (1, 3)] == ["near", "near"]
    assert grade(known, label(2, "S1")) == grade(known, SAFE) == "wrong"
    assert grade(label(1, "S1"), label(3, "S1")) == "wrong"
    assert grade(known, None) == "unjudged"
    assert grade({"choice": 0, "strength": 2}, {"choice": 0, "strength": 1}) == "exact"
    assert grade({"choice": 0, "strength": None}, {"choice": "tie", "strength": None}) == "wrong"
    assert safety_right(known, label(1, "S5")) and not safety_right(known, SAFE)
    tally = Tally(exact=6, near=2, wrong=2, unjudged=5)
    assert (tally.judged, tally.accuracy().mean, tally.partial()) == (10, 0.6, 0.7)
    assert Tally().partial() is None
    assert Tally.of(["exact", "near", "exact", "unjudged"]) == Tally(exact=2, near=1, unjudged=1)


def test_gold_is_doubted_by_good_raters_only() -> None:
    policy = QualityPolicy(doubters=3, good_answers=10, good_accuracy=0.8)
    good, poor, new = Tally(exact=9, wrong=1), Tally(exact=5, wrong=5), Tally(exact=9)
    assert doubted([Doubt("wrong", good)] * 2 + [Doubt("exact", good)], policy)
    assert not doubted([Doubt("wrong", good)] * 2, policy), "too few"
    assert not doubted([Doubt("wrong", good)] * 2 + [Doubt("exact", good)] * 2, policy), "no majority"
    assert not doubted([Doubt("wrong", poor)] * 9 + [Doubt("exact", good)] * 3, policy)
    assert not doubted([Doubt("wrong", new)] * 9, policy), "nine answers are too few to be good"
    assert doubted([Doubt("unjudged", good)] * 9 + [Doubt("near", good)] * 3, policy)


def test_most_tasks_are_no_checks() -> None:
    assert QualityPolicy().serves is False and QualityPolicy(swap_rate=0.1).serves is True
    with pytest.raises(ValidationError, match="more than half"):
        QualityPolicy(gold_rate=0.2, repeat_rate=0.2, swap_rate=0.2)
