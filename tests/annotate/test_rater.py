"""Scores of a model rater become labels that can't contradict themselves or a person."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poise.annotate import QAScore
from poise.harm import CATEGORIES, SAFE, Category, Label, Severity

K = len(CATEGORIES)


def score(severity: tuple[float, float, float, float], **categories: float) -> QAScore:
    """A score with the named category probabilities, the others 0.01."""
    return QAScore(severity, tuple(categories.get(c.code, 0.01) for c in CATEGORIES), 0.0)


@st.composite
def qa_scores(draw: st.DrawFn) -> QAScore:
    weights = draw(st.lists(st.floats(0, 1), min_size=4, max_size=4).filter(lambda w: sum(w) > 0.01))
    a, b, c, d = (w / sum(weights) for w in weights)
    categories = draw(st.lists(st.floats(0, 1), min_size=K, max_size=K))
    return QAScore((a, b, c, d), tuple(categories), draw(st.floats(-50, 50)))


def test_unsafe_and_harm_by_hand() -> None:
    # P(>= 1) = 1 - 0.4; expected severity 0.1 + 2 * 0.2 + 3 * 0.3 = 1.4
    s = score((0.4, 0.1, 0.2, 0.3))
    assert s.unsafe == pytest.approx(0.6)
    assert s.harm == pytest.approx(1.4)


@pytest.mark.parametrize(
    ("severity", "level"),
    [
        ((0.6, 0.2, 0.1, 0.1), 0),
        ((0.5, 0.3, 0.1, 0.1), 1),  # the boundary is unsafe: a doubt never means safe
        ((0.4, 0.2, 0.1, 0.3), 1),  # P(>= 2) = 0.4
        ((0.3, 0.2, 0.2, 0.3), 2),  # P(>= 2) = 0.5, P(>= 3) = 0.3
        ((0.1, 0.1, 0.2, 0.6), 3),
    ],
)
def test_the_level_is_the_median_severity(severity: tuple[float, float, float, float], level: int) -> None:
    assert score(severity, S6=0.9).label().severity == level


def test_categories_from_one_half_else_the_likeliest() -> None:
    s = score((0.1, 0.2, 0.2, 0.5), S6=0.5, S12=0.9, S7=0.49)
    assert s.label() == Label.of(["S6", "S12"], 3)
    assert score((0.1, 0.9, 0, 0), S7=0.3, S8=0.2).label() == Label.of(["S7"], 1)


def test_a_person_is_completed_and_not_overruled() -> None:
    harmless, harmful = score((0.9, 0.05, 0.03, 0.02), S3=0.2), score((0.0, 0.1, 0.1, 0.8), S6=0.9)
    assert harmful.label(known_safe=True) == SAFE
    assert harmless.label(known_safe=False) == Label(frozenset({Category.S3}), Severity.MINOR)


def test_a_score_that_is_not_a_number_is_not_safe() -> None:
    assert not score((float("nan"),) * 4).label().safe


@given(qa_scores(), st.none() | st.booleans())
def test_the_label_is_consistent_with_itself_and_with_the_person(s: QAScore, known_safe: bool | None) -> None:
    label = s.label(known_safe=known_safe)  # an inconsistent label would raise
    assert label.safe == ((s.unsafe < 0.5) if known_safe is None else known_safe)
    assert label.safe == (not label.categories)
