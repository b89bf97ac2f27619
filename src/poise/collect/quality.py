"""Cheap tests for text that is not worth labelling."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from functools import cache
from typing import Any

_REFUSAL = re.compile(
    r"^\W*(i'?m (really |very )?sorry|sorry(?=,)|i can(no|')t|i can not|i cannot|i won'?t|i'?m unable|i am unable"
    r"|i'?m not able|as an ai|as a language model)\b",
    re.IGNORECASE,
)
_NO_SPACES = re.compile(r"[\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff]")
"""Scripts that put no blanks between words; there a character counts as a word."""


@cache
def _word() -> re.Pattern[str]:
    """Letters with the marks on them, such as the vowels of Devanagari, and apostrophes between letters."""
    marks = "".join(c for c in map(chr, range(0x300, 0x20000)) if _is_mark(c))
    letters = rf"(?:[^\W\d_][{marks}]*)+"
    return re.compile(f"{letters}(?:'{letters})*")


def _is_mark(character: str) -> bool:
    return unicodedata.category(character).startswith("M")


def words_of(text: str) -> list[str]:
    """Lower-case words; single letters where the script has no blanks."""
    found: list[str] = []
    for word in _word().findall(text.lower()):
        found += filter(str.isalpha, word) if _NO_SPACES.search(word) else [word]
    return found


def garbled(text: str) -> str | None:
    """Why a text is garbled, or None when it is fine.

    Reasons: "too-short" (under three words), "not-text" (less than 60 % letters, their marks and spaces), "repeats"
    (of at least ten words, one word 3-gram occurs more than twice and more than once in nine words, or one word makes
    up 40 %).
    """
    words = words_of(text)
    if len(words) < 3:
        return "too-short"
    if sum(c.isalpha() or c.isspace() or _is_mark(c) for c in text) < 0.6 * len(text):
        return "not-text"
    trigrams = Counter(zip(words, words[1:], words[2:], strict=False))
    if len(words) >= 10:
        top_trigram, top_word = max(trigrams.values()), max(Counter(words).values())
        if top_trigram > max(2, len(words) / 9) or top_word > 0.4 * len(words):
            return "repeats"
    return None


def refuses(text: str) -> bool:
    """Whether a reply that should be something else begins like a refusal."""
    return _REFUSAL.search(text) is not None


@cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def language_of(text: str, sure: float = 0.8) -> str | None:
    """ISO 639-1 code of the language, None when the identifier is less sure than `sure` (short texts often are)."""
    code, probability = _identifier().classify(text)
    return str(code) if probability >= sure else None


def other_language(text: str, allowed: tuple[str, ...]) -> bool:
    """Whether the text is surely in none of the languages; with none given all are allowed."""
    return bool(allowed) and (code := language_of(text)) is not None and code not in allowed
