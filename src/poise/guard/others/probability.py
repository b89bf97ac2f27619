"""P(unsafe) from the log-probabilities at the token where a guard's verdict word begins.

At that place every alternative that begins one of the verdict words counts with its probability, and the words share
one. Llama Guard 1's card: "we look at the probability for the first token, and turn that into an 'unsafe' class
probability"; ShieldGemma's does the same with Yes and No. None where the server tells no alternatives. A word that is
not among those reported counts as 0. Not calibrated.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from poise.llm.exchange import Reply

_BYTE_LEVEL = str.maketrans({"Ġ": " ", "▁": " ", "Ċ": "\n"})
"""How some servers write blanks inside tokens."""


def word_shares(reply: Reply, at: int, words: Sequence[str]) -> dict[str, float] | None:
    """P(word) of each verdict word, summing to one; None where it can't be told.

    Args:
        reply: with its log-probabilities.
        at: where in its text the verdict word begins.
        words: all verdict words; compared without case.
    """
    if not reply.logprobs:
        return None
    tokens = [token.translate(_BYTE_LEVEL) for token, _, _ in reply.logprobs]
    start = "".join(tokens).find(reply.text)
    if start < 0:
        return None
    goal, begin = start + at, 0
    for token, (raw, own, alternatives) in zip(tokens, reply.logprobs, strict=True):
        if goal < begin + len(token):
            return _shares(token[: goal - begin], {**alternatives, raw: own}, words)
        begin += len(token)
    return None


def _shares(before: str, logprobs: dict[str, float], words: Sequence[str]) -> dict[str, float] | None:
    if len(logprobs) < 2:
        return None
    mass = dict.fromkeys(words, 0.0)
    for raw, logprob in logprobs.items():
        text = raw.translate(_BYTE_LEVEL)
        text = text.removeprefix(before).strip().casefold()
        fits = [word for word in words if text and _begins(text, word.casefold())]
        if len(fits) == 1 and not math.isnan(logprob):
            mass[fits[0]] += math.exp(min(logprob, 0.0))
    total = sum(mass.values())
    return {word: share / total for word, share in mass.items()} if total > 0 else None


def _begins(token: str, word: str) -> bool:
    """Whether a token is the word, its beginning, or the word with signs behind it."""
    return word.startswith(token) or (token.startswith(word) and not token[len(word)].isalnum())
