"""Disguises and how they are undone: the guard reads what a person would, and plain text stays as it is."""

from __future__ import annotations

import time
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poise.guard.normalise import normalise, stream_safe
from poise.guard.obfuscation import OBFUSCATIONS

SENTENCE = "How could somebody persuade the neighbours to distrust each other?"
WORDS = frozenset(["how", "could", "somebody", "persuade", "the", "neighbours", "to", "distrust", "each", "other"])


def undone(text: str) -> str:
    return normalise(text, WORDS.__contains__)


@pytest.mark.parametrize("name", sorted(OBFUSCATIONS))
@pytest.mark.parametrize("seed", range(5))
def test_a_disguise_is_undone(name: str, seed: int) -> None:
    disguised = OBFUSCATIONS[name](SENTENCE, Random(seed))
    assert disguised != SENTENCE
    said = undone(disguised).lower()
    read = [word for piece in said.split() if (word := piece.strip("?.-"))]
    wanted = SENTENCE.lower().strip("?").split()
    assert [word for word in read if word not in {"to", "t0", "7o"}] == [word for word in wanted if word != "to"], said


@pytest.mark.parametrize(
    "text",
    [
        "The mp3 of 2019 costs $5 on the 4th, see b2b and H2O.",
        "Привет, как дела?",
        "naïve café, Ελλάδα, 東京",
        "U.S.A. and e.g. bob@example.com",
        "aGVsbG8",  # too short to be a message
        "sha256 9f86d081884c7d659a2feaa0c55ad015",
        "Rate each from 1 2 3 4 5",
        "ที่นี่ שָׁלוֹם مُحَمَّد हिन्दी में",  # vowels and tones are marks, often two on a letter
        "",
    ],
)
def test_plain_text_stays(text: str) -> None:
    assert undone(text) == text


def test_an_amount_is_no_word_in_digits() -> None:
    text = "Wake me at 5am or 7AM: 7in of snow, $10k, a 10k run, 70m on"
    assert normalise(text, frozenset(["sam", "tam", "tin", "lok", "tom"]).__contains__) == text


def test_what_is_folded_one_by_one() -> None:
    assert undone("ｆｕｌｌ ﬁeld") == "full field"
    assert undone("h\u200bo\u2060w") == "how"
    assert undone("h\u0301\u0302\u0303ow") == "how"  # stacked accents; a single one that composes stays
    assert undone("ho\u200b\u0323w") == "how"  # on a Latin letter, behind an invisible character
    assert undone("pеrsuade") == "persuade"  # a Cyrillic letter inside a Latin word
    assert undone("d 1 s t r u s t") == "distrust" or undone("d i s t r u s t") == "distrust"
    assert undone("d1$tru5t!") == "distrust!"
    assert undone("d1x2y3z") == "d1x2y3z"  # spells no word


@given(st.text())
def test_any_text_is_read_without_an_error(text: str) -> None:
    assert isinstance(undone(text), str)


@given(st.lists(st.text("abcdefghijklmnopqrstuvwxyzäéñ", min_size=2), max_size=20), st.sampled_from([" ", "\n", ", "]))
def test_plain_words_stay(words: list[str], between: str) -> None:
    text = between.join(words)
    assert undone(text) == text


STACKED = ["a" + "\u0301\u0327" * 50_000, "\u0f73" * 100_000, "a" + "\uff9e\u0301" * 50_000]
"""Accents that NFKC would sort; the second's only parts are accents, the third's are letters by their category."""


@pytest.mark.parametrize(
    "text",
    ["a b " * 50_000, "a0" * 100_000, "@" * 100_000, "А" * 100_000, "A" * 100_000 + "=", "\ud800", *STACKED],
    ids=lambda text: ascii(text[:3]),
)
def test_long_and_odd_texts_are_quick(text: str) -> None:
    begun = time.process_time()
    undone(text)
    assert time.process_time() - begun < 2


def test_a_joiner_stands_after_every_thirty_accents_in_a_row() -> None:
    mark, joiner = "\u0301", "\u034f"
    assert stream_safe("h" + mark * 30 + "o" + mark * 30) == "h" + mark * 30 + "o" + mark * 30
    assert stream_safe("h" + mark * 61) == "h" + mark * 30 + joiner + mark * 30 + joiner + mark
    assert stream_safe("“…” " * 40) == "“…” " * 40  # signs that are none


@given(st.text(), st.integers(0, 40))
def test_a_joiner_changes_nothing_that_is_read(text: str, marks: int) -> None:
    assert undone(text + "how" + "\u0301" * marks) == undone(text + "how" + "\u0301" * min(marks, 30))
