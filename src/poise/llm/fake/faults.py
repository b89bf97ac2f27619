"""Which requests go wrong, and how: by their number, by a share drawn from the seed, or by a mark in the request.

A mark is a header `X-Fake-Fault: drop` or the words `[[drop]]` anywhere in a message. A share is drawn from the seed,
the request and how often it came before, so it does not depend on the order of arrival, and a repeated request may
succeed.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from poise.errors import PoiseError

KINDS: Mapping[str, str] = {
    "429": "too many requests, with Retry-After",
    "429-bare": "too many requests, without a hint when to come back",
    "500": "internal error",
    "503": "overloaded",
    "silence": "the request is taken and never answered",
    "length": "the answer is cut, finish_reason length",
    "broken-body": "status 200 and a body that is no JSON",
    "empty": "status 200 and no body",
    "invalid-json": "an answer that is nearly JSON, whatever schema was asked for",
    "off-schema": "an answer that is JSON of another shape",
    "refusal": "the refusal field",
    "content-filter": "the answer is cut by a filter, finish_reason content_filter",
    "filter-error": "status 400, the prompt was filtered",
    "whitespace": "blanks without end",
    "drop": "the connection is closed before the answer",
    "half-body": "the connection is closed in the middle of the answer",
    "half-stream": "the stream ends in order, but before finish_reason and [DONE]; without a stream as half-body",
    "html": "status 200 and a page for people",
    "too-long": "status 400, the prompt is longer than the context",
    "unknown-model": "status 404, no such model",
    "wrong-key": "status 401",
    "no-schema": "status 400, structured output is not supported",
}
"""What can go wrong, by name."""
_EXAMPLE = '{"at": {"3": "drop", "10-19": "500"}, "share": {"429": 0.01}, "retry_after_s": 1}'


@dataclass
class Faults:
    """The schedule.

    Args:
        at: number of the request, counted from 1 in order of arrival -> kind.
        share: kind -> share of requests, 0..1; together at most 1.
        retry_after_s: what "429" asks for.

    Raises:
        PoiseError: an unknown kind, or shares that are no shares.
    """

    at: Mapping[int, str] = field(default_factory=dict)
    share: Mapping[str, float] = field(default_factory=dict)
    retry_after_s: float = 1.0
    _seen: Counter[bytes] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        for kind in (*self.at.values(), *self.share):
            if kind not in KINDS:
                raise PoiseError(f"unknown fault {kind!r}", where="faults", do=f"use one of {', '.join(KINDS)}")
        shares = self.share.values()
        if any(not 0 <= part <= 1 for part in shares) or sum(shares) > 1 + 1e-9:
            raise PoiseError("shares must be 0..1 and at most 1 together", where="faults", do="make them smaller")

    @classmethod
    def read(cls, path: Path) -> Faults:
        """Read a JSON object with any of `at` (numbers or ranges), `share`, `retry_after_s`.

        Raises:
            PoiseError: no such file, no JSON, or no schedule.
        """
        try:
            told = json.loads(path.read_text(encoding="utf-8"))
            at = {
                number: kind
                for numbers, kind in told.get("at", {}).items()
                for number in range(int(numbers.split("-")[0]), int(numbers.split("-")[-1]) + 1)
            }
            share = {kind: float(part) for kind, part in told.get("share", {}).items()}
            retry_after_s = float(told.get("retry_after_s", 1.0))
            unknown = set(told) - {"at", "share", "retry_after_s"}
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise PoiseError(
                f"no schedule of faults ({type(error).__name__})", where=str(path), do=f"write it like {_EXAMPLE}"
            ) from error
        if unknown:
            raise PoiseError(f"unknown key {min(unknown)!r}", where=str(path), do="use at, share, retry_after_s")
        return cls(at, share, retry_after_s)

    def pick(self, number: int, seed: int, request: bytes, raw: bytes, headers: Mapping[str, str]) -> str | None:
        """The fault of one request, None when all goes well.

        Args:
            number: in order of arrival, from 1.
            request: hash of what determines the answer.
            raw: the body as it came.
            headers: lower-case names.
        """
        if (marked := _mark(raw, headers)) is not None:
            return marked
        if number in self.at:
            return self.at[number]
        if not self.share:
            return None
        short = request[:12]
        self._seen[short] += 1
        drawn = hashlib.sha256(b"%d:%d:%s" % (seed, self._seen[short], short)).digest()
        left = int.from_bytes(drawn[:6], "big") / 2**48
        for kind, part in self.share.items():
            left -= part
            if left < 0:
                return kind
        return None


def _mark(raw: bytes, headers: Mapping[str, str]) -> str | None:
    marked: Any = headers.get("x-fake-fault")
    if marked is None and b"[[" in raw:
        marked = next((kind for kind in KINDS if b"[[%s]]" % kind.encode() in raw), None)
    return marked if marked in KINDS else None
