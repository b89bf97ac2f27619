"""How much one request may bring, and which texts are none that a guard can read.

A text is limited before and after Unicode normalisation, as one character may become eighteen (U+FDFA). What is left
out: tokens; a guard reads long texts in windows, and time is bounded by the queue.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from poise.errors import PoiseError
from poise.guard.verdict import Item
from poise.serve.faults import ApiError

TEXT_PATTERN = (
    r"^[^\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f]*[^\s\x00-\x1f\x7f-\x9f][^\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f]*$"
)
"""For the OpenAPI document: no control characters but white space, and something beside it."""

_CHUNK, _LONGEST_LIST, _MOST_PARTS = 128, 2048, 10_000
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_ESCAPED_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


@dataclass(frozen=True)
class Limits:
    """Bounds of a server.

    Args:
        body_bytes: of one request.
        items: texts of one request.
        text_characters: of one text, before and after normalisation.
        request_characters: of all texts of a request, likewise.
        queue_items: texts that may wait.
        wait_s: longest time a new text may be expected to wait; beyond it the answer is 429.
        deadline_s: from when on a request that was accepted is given up with 503.
        body_s: for a body to arrive.

    Raises:
        PoiseError: one is not positive, or they contradict each other.
    """

    body_bytes: int = 1 << 20
    items: int = 256
    text_characters: int = 100_000
    request_characters: int = 400_000
    queue_items: int = 512
    wait_s: float = 5.0
    deadline_s: float = 30.0
    body_s: float = 10.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value > 0:
                raise PoiseError(f"{name} {value}", where="limits", do="give a positive number")
        for smaller, larger in (("items", "queue_items"), ("text_characters", "request_characters")):
            if getattr(self, smaller) > getattr(self, larger):
                raise PoiseError(
                    f"{smaller} {getattr(self, smaller)} is above {larger} {getattr(self, larger)}",
                    where="limits",
                    do=f"raise {larger} or lower {smaller}",
                )


def parse(body: bytes) -> Any:
    """The JSON value of a body: valid UTF-8, no NaN, no lone surrogate.

    Raises:
        ApiError: it is something else.
    """
    try:
        value = json.loads(body.decode("utf-8"), parse_constant=_refuse_constant)
        if _ESCAPED_SURROGATE.search(body):
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        raise ApiError("characters", "a string holds a lone surrogate, which is no character") from None
    except UnicodeDecodeError:
        raise ApiError("json", "the body is not UTF-8") from None
    except RecursionError:
        raise ApiError("json", "the body is nested too deeply") from None
    except json.JSONDecodeError as error:
        raise ApiError("json", f"the body is no JSON: {error.msg} at character {error.pos}") from None
    except ValueError as error:
        raise ApiError("json", f"the body is no JSON: {str(error)[:60]}") from None
    return value


def check_size(value: Any, limits: Limits) -> None:
    """Raise when a JSON value has so many parts that looking at each would hold up others.

    Raises:
        ApiError: more than `limits.items` (or 2,048) entries in a list, or more than ten thousand parts in all.
    """
    longest, parts, left = max(limits.items, _LONGEST_LIST), 0, [value]
    while left:
        part = left.pop()
        if isinstance(part, list | dict):
            parts += len(part)
            if len(part) > longest:
                raise ApiError("too_many", f"more than {longest} entries in one list")
            if parts > max(_MOST_PARTS, 8 * longest):
                raise ApiError("too_many", "the body has too many parts")
            left += part.values() if isinstance(part, dict) else part


def check_items(items: Sequence[Item], limits: Limits) -> int:
    """Raise when an item is none that a guard may be given; returns the characters of all.

    Raises:
        ApiError: none or too many, an empty text, control characters, too long before or after normalisation.
    """
    if not items:
        raise ApiError("empty", "there is no text to judge")
    if len(items) > limits.items:
        raise ApiError("too_many", f"{len(items)} texts, at most {limits.items} a request")
    total = grown = 0
    for number, item in enumerate(items):
        for text in item:
            if text is not None:
                total += len(text)
                grown += _check_text(text, number, limits)
                if max(total, grown) > limits.request_characters:
                    raise ApiError("too_long", f"more than {limits.request_characters} characters in all")
    return total


def cleaned(text: str) -> str:
    """The text with blanks for what `check_items` would refuse in it."""
    return _SURROGATE.sub(" ", _CONTROL.sub(" ", text)).strip()


def _check_text(text: str, number: int, limits: Limits) -> int:
    """Its characters after normalisation; a bound where that is enough."""
    where = f"text {number}"
    if not text.strip():
        raise ApiError("empty", f"{where} is empty")
    if len(text) > limits.text_characters:
        raise ApiError("too_long", f"{where} has {len(text)} characters, at most {limits.text_characters}")
    if _CONTROL.search(text):
        raise ApiError("characters", f"{where} holds a control character")
    if text.isascii():
        return len(text)
    if _SURROGATE.search(text):
        raise ApiError("characters", f"{where} holds a lone surrogate, which is no character")
    grown = 0
    for start in range(0, len(text), _CHUNK):  # in parts: an exploding text is left early, and accents take n^2
        grown += len(unicodedata.normalize("NFKC", text[start : start + _CHUNK]))
        if grown > limits.text_characters:
            raise ApiError(
                "too_long",
                f"{where} has more than {limits.text_characters} characters after normalisation (NFKC)",
            )
    return grown


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number")
