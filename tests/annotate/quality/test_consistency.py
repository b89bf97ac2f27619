"""Raters against themselves, from judgement records."""

from __future__ import annotations

from typing import Any

import numpy as np

from poise.annotate.quality.consistency import left_share, repeats, swaps
from poise.data.records import JudgementRecord
from poise.metrics import wilson_interval


def pair(item: int, value: Any, left: int | None, round_: int = 0, **others: Any) -> JudgementRecord:
    shown = {} if left is None else {"shown": {"left": left}}
    fields: dict[str, Any] = {
        "item": f"a{item}:b{item}",
        "question": "better",
        "value": value,
        "rater": "ann",
        "rater_kind": "person",
        "round": round_,
        "responses": (f"a{item}", f"b{item}"),
        "provenance": shown,
    }
    return JudgementRecord(**fields | others)


def label(item: int, severity: int | None, round_: int = 0, categories: tuple[str, ...] = ()) -> JudgementRecord:
    value = None if severity is None else {"categories": categories, "severity": severity, "safe": severity == 0}
    fields: dict[str, Any] = {"item": f"a{item}", "responses": (f"a{item}",), "rater": "ann", "question": "label"}
    return JudgementRecord(**fields, value=value, round=round_)


def test_repeats_compare_the_first_two_answers_part_by_part() -> None:
    rows = [
        *(label(0, 1, 0, ("S1", "S2")), label(0, 2, 1, ("S2", "S1")), label(0, 0, 2)),
        *(label(1, 0, 4), label(1, 0, 3)),
        *(label(2, 1, 0, ("S1",)), label(2, None, 1)),  # unjudged is no answer
        label(3, 0),
        *(pair(0, 1, 0), pair(0, 0, 0, 1)),
    ]
    assert repeats(rows) == {
        ("ann", "better"): wilson_interval(0, 1),
        ("ann", "label: categories"): wilson_interval(2, 2),
        ("ann", "label: safe"): wilson_interval(2, 2),
        ("ann", "label: severity"): wilson_interval(1, 2),
    }


def test_what_is_no_answer_of_ones_own_is_left_out() -> None:
    revealed = {"shown": {"left": 0, "arm": "revealed", "suggestion": {"choice": 1}}}
    rows = [
        pair(0, 0, 0),
        pair(0, 1, 0, 1, provenance=revealed),
        pair(9, 1, 0, provenance={"kind": "adjudicate", "shown": {"left": 0}}),
        *(pair(1, 0, 0, rater="m", rater_version="1"), pair(1, 1, 0, 1, rater="m", rater_version="2")),
        *(
            pair(2, 0, 0, rater="logical-order", rater_kind="rule"),
            pair(2, 0, 0, 1, rater="logical-order", rater_kind="rule"),
        ),
    ]
    assert repeats(rows) == {}
    assert left_share(rows) == {("ann", "better"): wilson_interval(1, 1), ("m", "better"): wilson_interval(1, 2)}


def test_left_share_counts_sides_not_responses() -> None:
    rows = [pair(0, 0, 0), pair(1, 1, 1), pair(2, 0, 1), pair(3, None, 0), pair(4, 1, None), pair(5, True, 1)]
    assert left_share(rows) == {("ann", "better"): wilson_interval(2, 3)}
    assert left_share([pair(0, 0, 0, responses=("x", "x"))]) == {}  # one text twice has no side


def test_swaps_by_hand() -> None:
    rows = [
        *(pair(0, 0, 0), pair(0, 0, 1, 1)),  # the same response
        *(pair(1, 0, 0), pair(1, 1, 1, 1)),  # left twice
        *(pair(2, 1, 0), pair(2, 0, 1, 1)),  # right twice
        *(pair(3, 1, 0), pair(3, 1, 1, 1), pair(3, 0, 1, 2)),  # the third answer comes too late
        *(pair(4, 1, 0), pair(4, 0, 0, 1)),  # one order only
    ]
    assert swaps(rows) == {("ann", "better"): (wilson_interval(2, 4), 1, 1)}


def test_a_pair_listed_the_other_way_round_is_the_same_pair() -> None:
    turned = pair(0, 1, 0).model_copy(update={"item": "b0:a0", "responses": ("b0", "a0")})  # b0 on the left, a0 chosen
    assert swaps([pair(0, 0, 0), turned]) == {("ann", "better"): (wilson_interval(1, 1), 0, 0)}


def test_a_known_bias_is_recovered() -> None:
    rng = np.random.default_rng(4)
    rows = []
    for item in range(1000):
        liked = int(rng.integers(2))
        for round_, left in enumerate(rng.permutation(2).tolist()):
            value = left if rng.random() < 0.3 else liked  # takes the left one unread in 30 %
            rows.append(pair(item, value, left, round_))
    # P(left) = .3 + .7 / 2; P(same) = 1 - .3 (both rounds: left unread in exactly the round where it is not liked)
    shares, both = left_share(rows)["ann", "better"], swaps(rows)["ann", "better"]
    assert shares.low < 0.65 < shares.high
    assert both.same.low < 0.7 < both.same.high
    assert both.right == 0
    assert both.left > 200
