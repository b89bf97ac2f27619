"""Ways in which text is disguised from a guard: what training adds and what the robustness table measures.

Each keeps the meaning for a human reader and changes the characters. They are well known from moderation in practice;
`poise.guard.normalise` undoes most of them before a text is read.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from random import Random

LEET = {"a": "4@", "e": "3", "i": "1!", "o": "0", "s": "5$", "t": "7"}
LOOKALIKES = {"a": "а", "c": "с", "e": "е", "i": "і", "o": "о", "p": "р", "s": "ѕ", "x": "х", "y": "у"}
"""Latin letter -> the Cyrillic one that looks the same."""
ZERO_WIDTH = "\u200b\u200c\u200d\u2060"
SHARE = 0.6
"""Of the letters that can be changed."""


def leetspeak(text: str, chance: Random) -> str:
    """Letters become digits and signs: "k1ll"."""
    return _swap(text, chance, LEET)


def homoglyphs(text: str, chance: Random) -> str:
    """Latin letters become Cyrillic ones of the same shape."""
    return _swap(text, chance, LOOKALIKES)


def zero_width(text: str, chance: Random) -> str:
    """Invisible characters between letters."""
    return "".join(c + (chance.choice(ZERO_WIDTH) if c.isalpha() and chance.random() < SHARE else "") for c in text)


def spacing(text: str, chance: Random) -> str:
    """Letters apart: "l i k e   t h i s"; or with dots or hyphens between them."""
    between = chance.choice(" .-")
    return "   ".join(between.join(word) for word in text.split())


def base64_text(text: str, chance: Random) -> str:
    """The whole text in base64 (RFC 4648)."""
    return base64.b64encode(text.encode("utf-8", "replace")).decode("ascii")


OBFUSCATIONS: dict[str, Callable[[str, Random], str]] = {
    "leetspeak": leetspeak,
    "homoglyphs": homoglyphs,
    "zero-width": zero_width,
    "spacing": spacing,
    "base64": base64_text,
}
"""Name -> function of a text and a source of chance."""


def _swap(text: str, chance: Random, table: dict[str, str]) -> str:
    return "".join(
        chance.choice(table[c.lower()]) if c.lower() in table and chance.random() < SHARE else c for c in text
    )
