"""How sure a model was of its verdict, from the log-probabilities of the tokens where the verdict stands.

The answer is JSON, so the verdict is one character after its key. The token that holds it is found by the text that the
tokens make together, whatever signs a token holds beside it. At that place each alternative that would have been
another verdict counts with its probability, and the verdicts add up to one. Unknown (None) where the server gave no
log-probabilities or no alternatives, or where the tokens do not make the answer.

What this is: the probability of the verdict after the analysis that the model wrote, as the server's `logprobs` state
it. It is not calibrated. A verdict that is not among the alternatives reported counts as 0.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

from poise.llm.exchange import Reply

_BYTE_LEVEL = str.maketrans({"Ġ": " ", "▁": " ", "Ċ": "\n"})
"""How some servers write blanks inside tokens."""
_BEFORE_VALUE = " \t\r\n:\"'"


def value_probabilities(reply: Reply, key: str, values: Sequence[str]) -> tuple[float, ...] | None:
    """P(each value of `key` in the answer), summing to one; None where it can't be told.

    Args:
        reply: its text is a JSON object with `key`.
        values: all verdicts, one character each, as they stand in JSON (digits, or letters in quotes).
    """
    place = _value_place(reply.text, key, values)
    if place is None or not reply.logprobs:
        return None
    start, at = place
    tail = reply.text[start:].rstrip()
    tokens = [token for token, _, _ in reply.logprobs]
    joined = "".join(tokens)
    found = joined.rfind(tail)
    if found < 0:
        tokens = [token.translate(_BYTE_LEVEL) for token in tokens]
        found = "".join(tokens).rfind(tail)
    if found < 0:
        return None
    goal, begin = found + at - start, 0
    for token, (raw, own, alternatives) in zip(tokens, reply.logprobs, strict=True):
        if goal < begin + len(token):
            return _shares(token[: goal - begin], {raw: own, **alternatives}, values)
        begin += len(token)
    return None


def _value_place(text: str, key: str, values: Sequence[str]) -> tuple[int, int] | None:
    """(where the key begins, where its value stands); the last such key, since the last one counts in JSON.

    Inside a JSON string a quotation mark has a backslash before it, so no text of the analysis is taken for the key.
    """
    matches = list(re.finditer(rf'"{re.escape(key)}"\s*:\s*"?', text))
    if not matches:
        return None
    at = matches[-1].end()
    return (matches[-1].start(), at) if _verdict(text[at : at + 2], values) else None


def _verdict(text: str, values: Sequence[str]) -> str | None:
    """The value with which a text begins, unless it goes on as another word or number."""
    return text[0] if text[:1] in values and not text[1:2].isalnum() else None


def _shares(before: str, logprobs: Mapping[str, float], values: Sequence[str]) -> tuple[float, ...] | None:
    """The probability of each value among the tokens that could have stood at its place.

    Args:
        before: what the token holds before the value.
        logprobs: of each token, the one that stands there included.
    """
    if len(logprobs) < 2:
        return None
    mass = dict.fromkeys(values, 0.0)
    for raw, logprob in logprobs.items():
        token = raw.translate(_BYTE_LEVEL)
        rest = token.removeprefix(before) if token.startswith(before) else token.lstrip(_BEFORE_VALUE)
        value = _verdict(rest.lstrip(_BEFORE_VALUE), values)
        if value is not None and not math.isnan(logprob):
            mass[value] += math.exp(min(logprob, 0.0))
    total = sum(mass.values())
    return tuple(mass[value] / total for value in values) if total > 0 else None
