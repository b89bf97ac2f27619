"""The logical order: exactly one safe response is the safer one, and nothing else is forced."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from poise.harm import CATEGORIES, SAFE, Label, Severity, decided_safer, violates_order

unsafe_labels = st.builds(
    Label,
    st.frozensets(st.sampled_from(CATEGORIES), min_size=1, max_size=3),
    st.sampled_from([Severity.MINOR, Severity.MODERATE, Severity.SEVERE]),
)
labels = st.just(SAFE) | unsafe_labels


@given(unsafe_labels, unsafe_labels)
def test_the_four_cases(harm: Label, other: Label) -> None:
    assert decided_safer(SAFE, harm) == 0
    assert decided_safer(harm, SAFE) == 1
    assert decided_safer(SAFE, SAFE) is None
    assert decided_safer(harm, other) is None


@given(labels, labels)
def test_swapping_the_responses_swaps_the_answer(label_0: Label, label_1: Label) -> None:
    answer = decided_safer(label_0, label_1)
    assert decided_safer(label_1, label_0) == (None if answer is None else 1 - answer)


@given(labels, labels)
def test_a_choice_violates_the_order_only_where_the_order_decides_otherwise(label_0: Label, label_1: Label) -> None:
    wrong = [safer for safer in (0, 1) if violates_order(label_0, label_1, safer)]
    answer = decided_safer(label_0, label_1)
    assert wrong == ([] if answer is None else [1 - answer])
