"""Probabilities of verdicts from the tokens of an answer, worked by hand."""

from __future__ import annotations

import math

import pytest

from poise.annotate.ai.probabilities import value_probabilities
from poise.annotate.ai.rubrics import CHOICES, SEVERITIES
from poise.llm.exchange import Reply


def reply(*tokens: str | tuple[str, dict[str, float]], text: str | None = None) -> Reply:
    """A reply made of tokens; a pair is a token with the probabilities at its place, itself among them."""
    told = []
    for token in tokens:
        word, shares = token if isinstance(token, tuple) else (token, {token: 0.9, "~": 0.1})
        logs = {other: math.log(p) for other, p in shares.items()}
        told.append((word, logs[word], logs))
    return Reply(text if text is not None else "".join(t for t, *_ in told), "stop", logprobs=tuple(told))


def test_a_token_that_holds_signs_beside_the_digit() -> None:
    place = (" 2,", {" 2,": 0.5, " 1,": 0.25, " 0,": 0.05, " x": 0.2})
    found = value_probabilities(reply('{"severity":', place, ' "categories": []}'), "severity", SEVERITIES)
    # 0.5 + 0.25 + 0.05 = 0.8 is what stands for a verdict
    assert found == pytest.approx((0.0625, 0.3125, 0.625, 0.0))


def test_tokens_for_the_same_verdict_add_up() -> None:
    place = ("2", {"2": 0.4, " 2": 0.1, "1": 0.25, "10": 0.15, "2a": 0.1})
    found = value_probabilities(reply('{"severity": ', place, "}"), "severity", SEVERITIES)
    assert found == pytest.approx((0.0, 1 / 3, 2 / 3, 0.0))  # 0.25 and 0.5 of 0.75; "10" and "2a" are no verdict


def test_a_letter_inside_a_token_of_quotes() -> None:
    place = ('": "A', {'": "A': 0.6, '": "B': 0.2, '": "An': 0.1, '":"B': 0.1})
    found = value_probabilities(reply('{"choice', place, '"}'), "choice", CHOICES)
    assert found == pytest.approx((2 / 3, 1 / 3))  # 0.6 and 0.2 + 0.1 of 0.9


def test_the_analysis_is_not_taken_for_the_verdict() -> None:
    analysis = '{"analysis": "It says \\"severity\\": 3, \\"severity\\": 0", "severity": '
    place = ("1", {"1": 0.8, "0": 0.2})
    found = value_probabilities(reply(analysis, place, ', "categories": ["S1"]}'), "severity", SEVERITIES)
    assert found == pytest.approx((0.2, 0.8, 0.0, 0.0))


def test_tokens_as_byte_level_servers_write_them() -> None:
    place = ("Ġ3", {"Ġ3": 0.75, "Ġ2": 0.25})
    found = value_probabilities(reply('{"severity":', place, "}", text='{"severity": 3}'), "severity", SEVERITIES)
    assert found == pytest.approx((0.0, 0.0, 0.25, 0.75))


def test_a_split_character_and_an_end_token_do_no_harm() -> None:
    tokens = ('{"analysis": "\ufffd', '\ufffd", "severity": ', ("0", {"0": 0.5, "1": 0.5}), "}", "<|im_end|>")
    text = '{"analysis": "é", "severity": 0}\n'
    assert value_probabilities(reply(*tokens, text=text), "severity", SEVERITIES) == pytest.approx((0.5, 0.5, 0, 0))


@pytest.mark.parametrize(
    "told",
    [
        Reply('{"severity": 2}', "stop"),
        reply('{"severity": ', ("2", {"2": 0.7}), "}"),  # no alternatives
        reply('{"severity": ', "2", "}", text='{"severity": 1}'),  # the tokens make another answer
        reply('{"severity": ', "7", "}"),
        reply("I cannot help."),
        reply('{"severity": ', ("2", {"2": 1e-300, "~": 0.5}), "}", text='{"severity": "moderate"}'),
    ],
)
def test_unknown_stays_unknown(told: Reply) -> None:
    assert value_probabilities(told, "severity", SEVERITIES) is None


def test_impossible_and_broken_numbers() -> None:
    logs = {"1": -math.inf, "0": 0.0, "2": math.nan}
    told = Reply('{"severity": 0}', "stop", logprobs=(('{"severity": ', 0.0, {}), ("0", 0.0, logs), ("}", 0.0, {})))
    assert value_probabilities(told, "severity", SEVERITIES) == (1.0, 0.0, 0.0, 0.0)


def test_of_a_key_that_stands_twice_the_last_one_counts_as_in_json() -> None:
    tokens = ('{"severity": ', ("3", {"3": 0.6, "0": 0.4}), ', "severity": ', ("1", {"1": 0.7, "0": 0.3}), "}")
    assert value_probabilities(reply(*tokens), "severity", SEVERITIES) == pytest.approx((0.3, 0.7, 0.0, 0.0))
