"""Undo disguises before a text is read, so that the guard sees what a person would.

Compatibility forms (Unicode NFKC), invisible characters, stacked accents, letters of other scripts that only look Latin
(Unicode Technical Standard 39, as confusable-homoglyphs carries it), letters set apart, digits for letters, and base64.
A word is changed only where it can't be meant as it stands: one that mixes scripts, or digits that spell a word of the
vocabulary which the word itself is not. What is left out: translation, ciphers, and words hidden across sentences.
"""

from __future__ import annotations

import base64
import binascii
import re
import unicodedata
from collections.abc import Callable, Iterator
from functools import cache
from itertools import islice, product

Known = Callable[[str], bool]
"""Whether a lower-case word is in the vocabulary."""

_WORD = re.compile(r"\w+")
_APART = re.compile(r"(?<!\w)\w([ .\-_*])\w(?:\1\w)*(?!\w)")
_AMOUNT = re.compile(r"\d+(am|pm|in|ft|k|m)", re.IGNORECASE)
_LEET_WORD = re.compile(r"(?<![\w@$!])(?=[\w@$!]*[A-Za-z])(?=[\w@$!]*[0-9@$!])[A-Za-z0-9@$!]{3,24}(?![\w@$])")
_BASE64 = re.compile(r"(?<![A-Za-z0-9+/=])[A-Za-z0-9+/]{16,}={0,2}(?![A-Za-z0-9+/=])")
_LETTERS = {"0": "o", "1": "il", "3": "e", "4": "a", "5": "s", "7": "t", "@": "a", "$": "s", "!": "i"}
_READINGS = 16
"""Of a word with digits that are tried at most."""
_MARKS, _JOINER = 30, "\u034f"
_RUN = re.compile(rf"(?:[^\w\x00-\x7f]|[\uff9e\uff9f]){{{_MARKS + 1},}}")  # of accents and other signs


def normalise(text: str, known: Known) -> str:
    """The text without its disguises; a plain text comes back as it is, but for compatibility forms.

    Args:
        text: any string, lone surrogates included.
        known: the vocabulary of the model that will read it.
    """
    if text.isascii():
        plain = text
    else:
        plain = unicodedata.normalize("NFKC", stream_safe(text))
        plain = _fold(_bare(plain))
    plain = _BASE64.sub(_decoded, plain)
    plain = _joined(plain, known)
    return _LEET_WORD.sub(lambda found: _spelled(found[0], known), plain)


def stream_safe(text: str) -> str:
    """The text with a joiner (U+034F) after every 30 accents in a row, Unicode's Stream-Safe form.

    To be called before any normalisation of what strangers send: it sorts the accents of one letter, in time that is
    quadratic in their number (16,000 take seconds), and lets no other thread run meanwhile.

    Source: Unicode Standard Annex 15, Stream-Safe Text Process.
    """
    return text if text.isascii() else _RUN.sub(lambda found: "".join(_parted(found[0])), text)


def _parted(run: str) -> Iterator[str]:
    """The characters of a run, and the joiners between them."""
    marks = 0
    for c in run:
        marks = marks + 1 if unicodedata.combining(unicodedata.normalize("NFKD", c)[0]) else 0
        if marks > _MARKS:
            marks = 1
            yield _JOINER
        yield c


def _bare(text: str) -> str:
    """Without format characters, marks on ASCII characters that NFKC could not put there, and stacked accents.

    The vowels and tones of scripts that write them as marks (Thai, Hebrew, Devanagari) stay, however many.
    """
    kept = []
    base, before = "", ""  # what the marks stand on, the category of the character before
    for c in text:
        kind = unicodedata.category(c)
        if kind == "Cf":
            continue
        if kind != "Mn":
            base = c
        stacked = before == "Mn" and unicodedata.name(c, "").startswith("COMBINING ")
        if kind != "Mn" or not (stacked or (base and base.isascii())):
            kept.append(c)
        before = kind
    return "".join(kept)


@cache
def _lookalikes() -> dict[int, str]:
    """Code point of a letter of another script -> the Latin letter that it looks like."""
    from confusable_homoglyphs.confusables import confusables_data

    table = {}
    for letter, others in confusables_data.items():
        if len(letter) == 1 and ord(letter) > 127 and letter.isalpha():
            latin = [o["c"] for o in others if len(o["c"]) == 1 and o["c"].isascii() and o["c"].isalpha()]
            if latin:
                table[ord(letter)] = next((c for c in latin if c.islower() == letter.islower()), latin[0])
    return table


def _fold(text: str) -> str:
    """Words that mix Latin with lookalikes, and whole words of lookalikes in a text that is mostly Latin."""
    if text.isascii():
        return text
    table = _lookalikes()
    latin = sum(c.isascii() and c.isalpha() for c in text)
    mostly = 2 * latin > sum(c.isalpha() for c in text)

    def fold(found: re.Match[str]) -> str:
        word = found[0]
        if word.isascii():
            return word
        alike = [c.isascii() or ord(c) in table for c in word]
        mixed = any(c.isascii() and c.isalpha() for c in word) and any(ord(c) in table for c in word)
        return word.translate(table) if mixed or (mostly and all(alike)) else word

    return _WORD.sub(fold, text)


def _decoded(found: re.Match[str]) -> str:
    """What a run of base64 says, where it is text; else the run."""
    run = found[0]
    try:
        said = base64.b64decode(run + "=" * (-len(run) % 4), validate=True).decode("utf-8")
    except (binascii.Error, ValueError):
        return run
    fine = sum(c.isprintable() or c.isspace() for c in said)
    spaced = " " in said or (len(said) >= 8 and said.isalpha())
    return said if said and fine == len(said) and spaced else run


def _joined(text: str, known: Known) -> str:
    """Words whose letters were set apart: four letters and more, and in a text that has such also shorter words."""
    spaced = any(len(found[0]) >= 7 for found in _APART.finditer(text))

    def join(found: re.Match[str]) -> str:
        word = found[0].replace(found[1], "")
        return word if not word.isdecimal() and (len(word) >= 4 or known(word.lower())) else found[0]

    return _APART.sub(join, text) if spaced else text


def _spelled(word: str, known: Known) -> str:
    """The word that digits and signs spell, where it is one and the word itself is not."""
    tail = word[len(word.rstrip("!")) :]
    core = word[: len(word) - len(tail)]
    if known(core.lower()) or _AMOUNT.fullmatch(core) or not any(c in _LETTERS for c in core):
        return word
    choices = [_LETTERS.get(c, c) for c in core.lower()]
    for letters in islice(product(*choices), _READINGS):
        if known(said := "".join(letters)):
            return said + tail
    return word
