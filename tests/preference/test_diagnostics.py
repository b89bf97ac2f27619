"""Hits of the preference models on judged pairs, counted by hand."""

from __future__ import annotations

import numpy as np

from poise.preference.diagnostics import diagnose
from poise.preference.pairs import Example, Pair, PreferenceData


def example(unsafe: bool | None) -> Example:
    return Example([1], [2], unsafe)


DATA = PreferenceData(
    examples=[example(False), example(True), example(True), example(None)],
    pairs=[
        Pair((0, 1), better=0, safer=0, rung="boundary"),
        Pair((1, 2), better=1, safer=1, rung="severity"),
        Pair((2, 0), better=None, safer=1, rung="boundary"),
        Pair((0, 3), better=1, safer=None, rung="none"),
    ],
    prompts=[[0, 1, 2, 3]],
)


def test_hits_by_hand() -> None:
    # reward (1, 0, -1, 2): pair 0 better 0: 1 > 0 hit; pair 1 better row 2: -1 > 0 miss; pair 3 better row 3: 2 > 1 hit
    # cost (-1, 2, 3, 0): pair 0 harmful row 1: 2 > -1 hit; pair 1 harmful row 1: 2 > 3 miss; pair 2 row 2: 3 > -1 hit
    d = diagnose(DATA, np.array([1.0, 0.0, -1.0, 2.0]), np.array([-1.0, 2.0, 3.0, 0.0]))
    assert d.reward_pairs.tolist() == [True, False, True]
    assert sorted(d.by_rung) == ["boundary", "severity"]
    assert d.by_rung["boundary"].tolist() == [True, True]
    assert d.by_rung["severity"].tolist() == [False]
    assert d.cost_pairs.sum() == 2
    assert len(d.cost_pairs) == 3
    assert d.signs.tolist() == [True, True, True], "the example of unknown safety does not count"


def test_signs_are_wrong_on_the_wrong_side() -> None:
    d = diagnose(DATA, np.zeros(4), np.array([0.5, -0.5, 1.0, -9.0]))
    assert d.signs.tolist() == [False, False, True]


def test_an_unsafe_example_on_the_boundary_is_no_hit_and_a_tie_ranks_nothing() -> None:
    d = diagnose(DATA, np.zeros(4), np.zeros(4))
    assert not d.reward_pairs.any()
    assert not d.cost_pairs.any()
    assert d.signs.tolist()[1:] == [False, False]


def test_a_safe_example_on_the_boundary_is_no_hit() -> None:
    assert not diagnose(DATA, np.zeros(4), np.zeros(4)).signs.any()


def test_without_judgements_there_is_nothing_to_count() -> None:
    d = diagnose(PreferenceData([example(None)], [], []), np.zeros(1), np.zeros(1))
    assert [len(part) for part in (d.reward_pairs, d.cost_pairs, d.signs)] == [0, 0, 0]
    assert d.by_rung == {}
    assert d.reward_pairs.dtype == bool
