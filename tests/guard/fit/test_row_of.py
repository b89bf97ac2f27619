"""A judgement as a training row: each source teaches only what it knows."""

from __future__ import annotations

import math
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from poise.data import Judgement, Provenance, QARow
from poise.data.rows import label_value
from poise.guard.fit.rows import Row, row_of
from poise.harm import CATEGORIES, SAFE, Label, Severity

ANSWER = QARow(id="x", prompt_id="p", prompt="Why?", response="So.", provenance=Provenance(source="made"))


def taught(question: str, value: Any) -> Row:
    told = {"item": "x", "question": question, "value": value, "rater": "r"}
    return row_of(ANSWER, Judgement.model_validate(told), "train")


def test_a_label_teaches_severity_and_all_categories() -> None:
    row = taught("label", label_value(Label.of(["S6", "S19"], 2)))
    assert row.at_least == (1, 1, 0) and row.unsafe is True
    assert [k for k, value in enumerate(row.categories) if value] == [5, 18]
    assert not any(map(math.isnan, row.categories)) and math.isnan(row.refusal)
    assert (row.prompt, row.response, row.source, row.part) == ("Why?", "So.", "made", "train")


def test_a_safe_label_and_a_safe_flag_teach_the_same() -> None:
    for row in (taught("label", label_value(SAFE)), taught("safe", True)):
        assert row.at_least == (0, 0, 0) and row.unsafe is False
        assert row.categories == (0,) * 19


def test_an_unsafe_flag_teaches_only_that_it_is_unsafe() -> None:
    row = taught("safe", False)
    assert row.at_least[0] == 1 and all(map(math.isnan, (*row.at_least[1:], *row.categories)))


@settings(deadline=None)
@given(st.frozensets(st.sampled_from(CATEGORIES), min_size=1), st.integers(1, 3))
def test_rows_agree_with_the_label(categories: frozenset[Any], severity: int) -> None:
    row = taught("label", label_value(Label(categories, Severity(severity))))
    assert sum(row.at_least) == severity and list(row.at_least) == sorted(row.at_least, reverse=True)
    assert {c for c in CATEGORIES if row.categories[c.index] == 1} == categories
