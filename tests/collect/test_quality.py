"""Cheap tests for garbled text."""

from __future__ import annotations

import pytest

from poise.collect.quality import garbled, words_of


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "too-short"),
        ("two words", "too-short"),
        ("1 2 3 4 5", "too-short"),
        ("a b c 0123456789 #### $$$$ ====", "not-text"),
        ("no no no no no one two three four five", "repeats"),  # one word is half of ten
        ("we love you " * 4, "repeats"),  # one 3-gram is 4 of 10
        ("Keep the lid on the pan and wait.", None),
        ("It's three words", None),
        ("no no no no no fine", None),  # too few words to call it a repeat
        ("one two three four five six seven eight nine ten", None),
        ("no no no no one two three four five six", None),  # 40 % is still allowed
    ],
)
def test_reasons(text: str, reason: str | None) -> None:
    assert garbled(text) == reason


def test_the_share_of_letters_has_its_boundary_at_60_percent() -> None:
    # 3 letters and 3 blanks of 10 characters are exactly 60 %
    assert garbled("a b c ####") is None
    assert garbled("a b c #####") == "not-text"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("हिन्दी में कैसे लिखें", ["हिन्दी", "में", "कैसे", "लिखें"]),  # marks belong to their letters
        ("ที่ดี", ["ท", "ด"]),
        ("Don't say cafe\u0301", ["don't", "say", "cafe\u0301"]),
    ],
)
def test_words_of_other_scripts(text: str, words: list[str]) -> None:
    assert words_of(text) == words


def test_marks_on_letters_are_text() -> None:
    # 12 letters, 16 marks and one blank: without the marks 45 % of it would be text
    assert garbled("कि की कु कू के कै को कौ कं कः कॄ कॅ") is None
    assert garbled("نَصٌّ مُشَكَّلٌ كُلُّهُ") is None
