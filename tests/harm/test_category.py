"""The 19 categories: order, codes, and reading them from text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poise.harm import CATEGORIES, Category


def test_card_order() -> None:
    assert len(CATEGORIES) == 19
    assert [c.code for c in CATEGORIES] == [f"S{i}" for i in range(1, 20)]
    assert [c.index for c in CATEGORIES] == list(range(19))
    assert len({c.value for c in CATEGORIES}) == 19
    assert Category.S1.value == "Endangering National Security"
    assert Category.S19.value == "Animal Abuse"


@given(st.sampled_from(CATEGORIES), st.sampled_from([str.lower, str.upper, str.title, " {}\n".format]))
def test_parse_reads_codes_and_names_in_any_case(category: Category, spell: object) -> None:
    assert callable(spell)
    assert Category.parse(category) is category
    assert Category.parse(spell(category.code)) is category
    assert Category.parse(spell(category.value)) is category


@pytest.mark.parametrize(
    ("wrong", "suggestion"),
    [("Violense", "'Violence'"), ("Drug", "'Drugs'"), ("s 6", "'S6'"), ("White Collar Crime", "'White-Collar Crime'")],
)
def test_parse_suggests_the_nearest(wrong: str, suggestion: str) -> None:
    with pytest.raises(ValueError, match="is no harm category") as caught:
        Category.parse(wrong)
    assert str(caught.value).startswith(repr(wrong))
    assert str(caught.value).endswith(f"; did you mean {suggestion}?")


@pytest.mark.parametrize("wrong", ["", "qqqqqq", None, 6, "S0", "S20", "S06"])
def test_parse_refuses_what_it_does_not_know(wrong: object) -> None:
    with pytest.raises(ValueError, match="is no harm category"):
        Category.parse(wrong)


def test_parse_suggests_nothing_for_nonsense() -> None:
    with pytest.raises(ValueError, match=r"^'qqqqqq' is no harm category$"):
        Category.parse("qqqqqq")
