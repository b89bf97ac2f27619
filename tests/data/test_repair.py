"""Source rows are mended only where nothing is guessed, and mending twice changes nothing more."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poise.data.repair import LONE_SURROGATE, repair_source_row


@pytest.mark.parametrize(
    ("given_row", "mended", "done"),
    [
        ({"prompt": "a\ud800b"}, {"prompt": "a\ufffdb"}, ["prompt: lone surrogate"]),
        (
            {"turns": [{"content": "\udfff"}], "x": {"y": "\ud800"}},
            {"turns": [{"content": "\ufffd"}], "x": {"y": "\ufffd"}},
            ["content: lone surrogate", "y: lone surrogate"],
        ),
        ({"score": math.nan}, {"score": None}, ["score: not a number"]),
        ({"severity": "2"}, {"severity": 2}, ["severity: text to integer"]),
        (
            {"better_response_id": " 1 ", "response_0_severity_level": "-1"},
            {"better_response_id": 1, "response_0_severity_level": -1},
            ["better_response_id: text to integer", "response_0_severity_level: text to integer"],
        ),
        ({"severity_level": 2.0}, {"severity_level": 2}, ["severity_level: float to integer"]),
        (
            {"is_safe": "yes", "is_response_0_safe": "False"},
            {"is_safe": True, "is_response_0_safe": False},
            ["is_safe: text to boolean", "is_response_0_safe: text to boolean"],
        ),
    ],
)
def test_what_is_mended(given_row: dict[str, Any], mended: dict[str, Any], done: list[str]) -> None:
    assert repair_source_row(given_row) == (mended, done)


@pytest.mark.parametrize(
    "row",
    [
        {"source_id": "0042"},
        {"severity": "2.5"},
        {"severity": 2.5},
        {"severity": "high"},
        {"severity": "²"},
        {"better_response_id": "9" * 5000},
        {"id": "5"},
        {"response": "yes"},
        {"prompt": "2"},
        {"is_safe": "perhaps"},
        {"is_safe": 1},
        {"score": 0.5},
    ],
)
def test_what_would_be_a_guess_is_left(row: dict[str, Any]) -> None:
    assert repair_source_row(row) == (row, [])


_NAMES = st.sampled_from(["prompt", "severity", "better_response_id", "is_safe", "x"])
_VALUES = st.recursive(
    st.one_of(
        st.text(st.characters(exclude_categories=()), max_size=8), st.integers(), st.floats(), st.booleans(), st.none()
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(_NAMES, inner, max_size=3)),
    max_leaves=6,
)


def _leaves(value: object) -> list[object]:
    if isinstance(value, dict):
        return [leaf for inner in value.values() for leaf in _leaves(inner)]
    return [leaf for inner in value for leaf in _leaves(inner)] if isinstance(value, list) else [value]


@given(st.dictionaries(_NAMES, _VALUES, max_size=4))
def test_a_mended_row_needs_no_mending(row: dict[str, Any]) -> None:
    mended, done = repair_source_row(row)
    assert mended.keys() == row.keys()
    assert (not done) == (repr(mended) == repr(row))
    assert repair_source_row(mended) == (mended, [])
    for leaf in _leaves(mended):
        assert not (isinstance(leaf, str) and LONE_SURROGATE.search(leaf))
        assert not (isinstance(leaf, float) and math.isnan(leaf))
