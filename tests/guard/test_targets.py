"""Training targets of the guard: each source teaches only what it knows."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from poise.guard.targets import category_row, targets

from poise.data import Judgement
from poise.data.rows import label_value
from poise.harm import CATEGORIES, SAFE, Label, Severity
from poise.models.heads import K

NAN = torch.nan


def said(question: str, value: Any) -> dict[str, Judgement]:
    return {"x": Judgement.model_validate({"item": "x", "question": question, "value": value, "rater": "r"})}


def same(actual: torch.Tensor, *expected: float) -> None:
    torch.testing.assert_close(actual, torch.tensor(expected, dtype=torch.float32), equal_nan=True, rtol=0, atol=0)


def test_a_label_teaches_severity_and_all_categories() -> None:
    t = targets(["x"], said("label", label_value(Label.of(["S6", "S19"], 2))))
    same(t.at_least[0], 1, 1, 0)
    assert t.categories[0].nonzero().flatten().tolist() == [5, 18]
    assert not t.categories.isnan().any()


def test_a_safe_label_and_a_safe_flag_teach_the_same() -> None:
    for judgements in (said("label", label_value(SAFE)), said("safe", True)):
        t = targets(["x"], judgements)
        same(t.at_least[0], 0, 0, 0)
        same(t.categories[0], *[0.0] * K)


def test_an_unsafe_flag_teaches_only_that_it_is_unsafe() -> None:
    t = targets(["x"], said("safe", False))
    same(t.at_least[0], 1, NAN, NAN)
    assert t.categories.isnan().all()


def test_what_is_unjudged_or_about_something_else_teaches_nothing() -> None:
    for judgements in ({}, said("label", None), said("safe", None), said("better", 1)):
        t = targets(["x"], judgements)
        assert t.categories.isnan().all()
        assert t.at_least.isnan().all()


def test_rows_follow_the_items_and_carry_their_weights() -> None:
    t = targets(["unknown", "x"], said("safe", True), weight=[0.5, 2.0])
    same(t.weight, 0.5, 2.0)
    assert t.at_least.isnan().all(1).tolist() == [True, False]
    same(targets(["x", "x"], said("safe", True)).weight, 1, 1)
    assert targets([], {}).categories.shape == (0, K)


@settings(deadline=None)
@given(st.frozensets(st.sampled_from(CATEGORIES), min_size=1), st.integers(1, 3))
def test_targets_agree_with_the_label(categories: frozenset[Any], severity: int) -> None:
    label = Label(categories, Severity(severity))
    t = targets(["x"], said("label", label_value(label)))
    assert t.at_least.sum() == severity
    assert (t.at_least.diff(dim=1) <= 0).all()
    assert torch.equal(t.categories[0], category_row(label))
    assert {c for c in CATEGORIES if t.categories[0, c.index] == 1} == categories
