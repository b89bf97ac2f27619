"""The verdict's own rules, and scores as verdicts."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from poise.annotate import QAScore
from poise.data import QARow, Rater
from poise.guard.ensemble import Combiner, EnsembleGuard
from poise.guard.scoring import ScoringGuard, verdict_of
from poise.guard.verdict import Guard, Verdict, judged, unjudged
from poise.harm import Category, Severity


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"unsafe": True, "reason": "x"},
        {"unsafe": False, "categories": frozenset({Category.S1})},
        {"reason": "x", "categories": frozenset({Category.S1})},
        {"unsafe": True, "probability": 1.5},
        {"unsafe": True, "probability": float("nan")},
    ],
)
def test_a_verdict_that_contradicts_itself_is_none(fields: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"reason|categories|probability"):
        Verdict(**fields)  # type: ignore[arg-type]


def test_our_own_categories_are_all_decided() -> None:
    verdict = judged(True, taxonomy="pku-19", named=["S6"], severities=(Severity.MINOR,))
    assert verdict.categories == {Category.S6} and len(verdict.absent) == 18 and not verdict.undecided
    bare = judged(True, taxonomy="pku-19")
    assert bare.categories is None and len(bare.undecided) == 19  # unsafe, and nobody knows of what kind
    assert judged(False, taxonomy="pku-19").absent == frozenset(Category)


def test_json_holds_what_is_known_and_nothing_else() -> None:
    assert unjudged("unparsable", "?").to_json() == {"reason": "unparsable", "raw": ["?"]}
    assert judged(False, probability=0.25).to_json() == {"probability": 0.25, "severities": ["none"]}


class Scores:
    rater = Rater(id="r", kind="model")

    def score(self, rows: Sequence[QARow]) -> list[QAScore | None]:
        return [None if row.response == "odd" else self.of(row.response) for row in rows]

    @staticmethod
    def of(response: str) -> QAScore:
        likely = (0.1, 0.1, 0.2, 0.6) if response == "bad" else (0.9, 0.1, 0.0, 0.0)
        return QAScore(likely, tuple(0.9 if c is Category.S7 else 0.1 for c in Category), 0.0)


def test_a_scoring_rater_is_a_guard() -> None:
    guard: Guard = ScoringGuard(Scores(), "starter")
    bad, alone, odd, fine = guard.judge([("q", "bad"), ("q", None), ("q", "odd"), ("q", "fine")])
    assert bad.unsafe and bad.severity == Severity.SEVERE and bad.categories == {Category.S7}
    assert bad.probability == pytest.approx(0.9) and bad.severity_probabilities == (0.1, 0.1, 0.2, 0.6)
    assert alone.unsafe is None and odd.reason == "no score"
    assert fine.unsafe is False and fine.probability == pytest.approx(0.1)
    assert [v.reason for v in guard.judge([("q", ""), ("q", " \n"), (" ", "bad")])] == ["empty"] * 3
    assert guard.judge([]) == []
    assert verdict_of(None).unsafe is None
    (joint,) = EnsembleGuard([guard], Combiner(["starter"])).judge([("q", "bad")])
    assert joint.unsafe and joint.severity_probabilities == (0.1, 0.1, 0.2, 0.6)
