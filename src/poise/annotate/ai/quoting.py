"""Texts under judgement, quoted so that they stay data: between lines that they can't close.

Each quotation begins and ends with a line that carries a mark, a hash of everything quoted in the message. A text that
contains a mark has another hash, so no text can carry its own. Words that chat templates read as control tokens
("<|im_end|>", "[INST]") are broken with a backslash, because a server may take them for the end of the message. What is
left out: whether the judge obeys the text all the same; that is measured, not assumed.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

_CONTROL = re.compile(
    r"(?:<(?=[|｜])|<(?=/?(?:s|bos|eos|pad|unk|think|start_of_turn|end_of_turn|start_of_image)>)|<(?=</?SYS>>)"
    r"|\[(?=/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|THINK)\]))",
    re.IGNORECASE,
)

Parts = Sequence[tuple[str, str]]
"""(what it is, text) in the order in which they are shown."""


def mark_of(parts: Parts) -> str:
    """The mark of a message: 16 hex digits that stand in none of its texts."""
    told, number = "\x1f".join(f"{name}\x1e{text}" for name, text in parts), 0
    while True:
        mark = hashlib.sha256(f"{number}\x1d{told}".encode("utf-8", "surrogatepass")).hexdigest()[:16]
        if mark not in told.casefold():
            return mark
        number += 1


def quoted(parts: Parts) -> tuple[str, str]:
    """(the mark, all texts one after the other, each between its two lines)."""
    mark = mark_of(parts)
    blocks = [f"<<{name} {mark}>>\n{defused(text)}\n<<end of {name} {mark}>>" for name, text in parts]
    return mark, "\n".join(blocks)


def defused(text: str) -> str:
    """The text with a backslash in every word that a chat template may read as a control token."""
    return _CONTROL.sub(lambda found: found.group() + "\\", text)
