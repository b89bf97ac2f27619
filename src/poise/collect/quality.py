"""Cheap tests for text that is not worth labelling."""

from __future__ import annotations

import re
from collections import Counter

_WORD = re.compile(r"[A-Za-z']+")


def garbled(text: str) -> str | None:
    """Why a text is garbled, or None when it is fine.

    Reasons: "too-short" (under three words), "not-text" (less than 60 % letters and spaces), "repeats" (of at least
    ten words, one word 3-gram occurs more than twice and more than once in nine words, or one word makes up 40 %).
    """
    words = _WORD.findall(text.lower())
    if len(words) < 3:
        return "too-short"
    if sum(c.isalpha() or c.isspace() for c in text) < 0.6 * len(text):
        return "not-text"
    trigrams = Counter(zip(words, words[1:], words[2:], strict=False))
    if len(words) >= 10:
        top_trigram, top_word = max(trigrams.values()), max(Counter(words).values())
        if top_trigram > max(2, len(words) / 9) or top_word > 0.4 * len(words):
            return "repeats"
    return None
