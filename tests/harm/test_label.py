"""A label cannot contradict itself: safe <=> severity 0 <=> no category."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poise.data.rows import Judgement, label_value
from poise.harm import CATEGORIES, SAFE, Category, Label, Severity

category_sets = st.frozensets(st.sampled_from(CATEGORIES), max_size=5)


@given(category_sets, st.sampled_from(Severity))
def test_a_label_is_consistent_or_refused(categories: frozenset[Category], severity: Severity) -> None:
    if bool(categories) == (severity > 0):
        label = Label(categories, severity)
        assert label.safe == (severity == Severity.NONE) == (not label.categories)
    else:
        with pytest.raises(ValueError, match="safe means severity none and no category"):
            Label(categories, severity)


@given(category_sets.filter(bool), st.sampled_from([Severity.MINOR, Severity.MODERATE, Severity.SEVERE]))
def test_the_stored_value_round_trips(categories: frozenset[Category], severity: Severity) -> None:
    label = Label(categories, severity)
    value = label_value(label)
    assert value["categories"] == [c.code for c in CATEGORIES if c in categories]
    assert Judgement(item="qa", question="label", value=value, rater="r").label() == label


def test_of_reads_codes_names_and_levels() -> None:
    expected = Label(frozenset({Category.S6, Category.S12}), Severity.MODERATE)
    assert Label.of(["s6", "Physical Harm"], 2) == Label.of({Category.S12, Category.S6}, "moderate") == expected
    assert Label.of() == SAFE
    assert SAFE.safe
    assert not expected.safe


def test_the_message_names_both_sides() -> None:
    with pytest.raises(ValueError, match=r"severity none with categories \['S12', 'S6'\]"):
        Label.of(["S6", "S12"], 0)
    with pytest.raises(ValueError, match=r"severity severe with categories \[\]"):
        Label.of([], 3)


def test_a_label_is_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        SAFE.severity = Severity.SEVERE  # type: ignore[misc]
