"""A judgement as a training row: each source teaches only what it knows."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poise.data import Judgement, Provenance, QARow
from poise.data.records import JudgementRecord, PartialLabel, QARecord
from poise.data.rows import label_value
from poise.data.tables import TableWriter, open_tables
from poise.guard.fit.rows import Row, labelled_rows, row_of
from poise.harm import CATEGORIES, SAFE, Label, Severity

ANSWER = QARow(id="x", prompt_id="p", prompt="Why?", response="So.", provenance=Provenance(source="made"))
NAN = math.nan
UNSAFE = PartialLabel(safe=False, categories=(CATEGORIES[5].value,), severity=2)


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


@pytest.mark.parametrize(
    ("label", "votes", "at_least", "category"),
    [
        (UNSAFE, (True, True, True), (0, 0, 0), 0.0),
        (UNSAFE, (True, True, False), (1 / 3, 1 / 3, 0), 1 / 3),
        (UNSAFE, (True, False), (0.5, 0.5, 0), 1.0),
        (UNSAFE, (True, False, False), (2 / 3, 2 / 3, 0), 1.0),
        (PartialLabel(safe=True), (True, True, False), (1 / 3, 0, 0), 0.0),
        (PartialLabel(safe=True), (False, False, True), (2 / 3, NAN, NAN), NAN),
    ],
)
def test_people_who_overrule_a_label(
    label: PartialLabel, votes: tuple[bool, ...], at_least: tuple[float, ...], category: float, tmp_path: Path
) -> None:
    """No category is likelier than harm, and what "safe" told of kinds and levels goes with it."""
    record = QARecord(prompt="p", response="r", label=label, dataset="x", split="train")
    with TableWriter(tmp_path / "t", {"name": "t"}) as writer:
        writer.add(record)
        for at, safe in enumerate(votes):
            told = {"item": record.item, "question": "safe", "value": safe, "responses": (record.item,)}
            writer.add(JudgementRecord.model_validate(told | {"rater": f"p{at}", "rater_kind": "person"}))
    (row,) = labelled_rows(open_tables(tmp_path / "t"))
    assert row.at_least == pytest.approx(at_least, nan_ok=True)
    assert row.categories[5] == pytest.approx(category, nan_ok=True)
