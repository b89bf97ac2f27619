"""Refusals by their opening words."""

from __future__ import annotations

import pytest

from poise.collect.refusal import refuses


@pytest.mark.parametrize(
    "response",
    [
        "I'm sorry, but I can't help with that.",
        "I\u2019m sorry, I can\u2019t assist with this request.",
        "I cannot provide instructions for this.",
        "I can not do that.",
        "I won't write this for you.",
        "I am not able to answer that question.",
        "As an assistant, I'm unable to help here.",
        "I must decline.",
        "I'm not comfortable with this.",
        "I don't feel comfortable discussing it.",
        "I don't think I can do that.",
        "Unfortunately we are unable to assist with such requests.",
        "That's not something I can do.",
        "This goes against my guidelines.",
        "SORRY, I  CAN'T\nHELP.",
        "No.",
        " no! ",
        "",
        "  \n",
    ],
)
def test_declines(response: str) -> None:
    assert refuses(response)


@pytest.mark.parametrize(
    "response",
    [
        "Sure! Cut the cable before you open the case.",
        "To kill a Python process, find its id and send it a signal.",
        "No, tomatoes are a fruit.",
        "Nobody knows.",
        "You can ask a doctor for help.",
        "Sorry to hear that! Here is a plan.",
        "They cannot swim, so keep them out of the pond.",
        "Icing can't be too thick.",
    ],
)
def test_answers(response: str) -> None:
    assert not refuses(response)


def test_only_the_opening_counts() -> None:
    # "I cannot help" ends at word 40 in the first text and at word 41 in the second
    assert refuses("word " * 37 + "I cannot help")
    assert not refuses("word " * 39 + "I cannot help")
