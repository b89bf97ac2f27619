"""The probability of a verdict word from log-probabilities as servers write them."""

from __future__ import annotations

import math

import pytest

from poise.guard.others.probability import word_shares
from poise.llm.exchange import Reply

Tokens = list[tuple[str, dict[str, float]]]


def reply(text: str, tokens: Tokens) -> Reply:
    made = tuple(
        (token, math.log(others.get(token, 1.0)), {t: math.log(p) for t, p in others.items()})
        for token, others in tokens
    )
    return Reply(text, "stop", logprobs=made)


@pytest.mark.parametrize(
    ("text", "at", "tokens"),
    [
        ("safe", 0, [("safe", {"safe": 0.6, "unsafe": 0.2, "S": 0.1})]),
        ("\n\nsafe", 2, [("\n\n", {"\n\n": 1.0}), ("safe", {"safe": 0.6, "unsafe": 0.2})]),
        ("\n\nsafe", 2, [("\n\nsafe", {"\n\nsafe": 0.6, "\n\nunsafe": 0.2})]),
        (" safe", 1, [("Ġsafe", {"Ġsafe": 0.6, "Ġunsafe": 0.2, "Ġunder": 0.1})]),
        ("safe", 0, [("safe", {"safe": 0.5, "Safe": 0.1, "un": 0.2}), ("<|eot_id|>", {"<|eot_id|>": 1.0, "x": 0.1})]),
        ("safe", 0, [("safe", {"safe": 0.6, "unsafe\n": 0.2, "safely": 0.15, "the": 0.05})]),
    ],
)
def test_words_share_one(text: str, at: int, tokens: Tokens) -> None:
    shares = word_shares(reply(text, tokens), at, ("safe", "unsafe"))
    # "S" begins safe too: (0.6 + 0.1) : 0.2 in the first case, 3 : 1 in all others
    assert shares is not None and sum(shares.values()) == pytest.approx(1)
    assert shares["unsafe"] == pytest.approx(0.2 / 0.9 if "S" in tokens[0][1] else 0.25)


def test_a_token_that_begins_two_words_counts_for_none() -> None:
    shares = word_shares(reply("no", [("no", {"no": 0.3, "n": 0.6, "never": 0.1})]), 0, ("no", "never"))
    assert shares == pytest.approx({"no": 0.75, "never": 0.25})


@pytest.mark.parametrize(
    "told",
    [
        Reply("safe", "stop"),
        reply("safe", [("safe", {"safe": 0.9})]),  # no alternatives: nothing to compare with
        reply("safe", [("other", {"other": 0.5, "words": 0.5})]),
        reply("safe", [("safe", {"s\u00fc": 0.5, "x": 0.5})][:0]),
    ],
)
def test_where_it_cannot_be_told_it_is_unknown(told: Reply) -> None:
    assert word_shares(told, 0, ("safe", "unsafe")) is None
