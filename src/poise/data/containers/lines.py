"""What reading a file gives: rows with their place, and what is no row."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

SHOWN = 1000
"""Characters of a broken line that are kept for the quarantine file."""


@dataclass(frozen=True)
class Line:
    """One row of a source file and where it stands: line number of a text file, row number otherwise, from 1."""

    row: dict[str, Any]
    file: Path
    number: int


@dataclass(frozen=True)
class BadLine:
    """Something that is no row.

    Args:
        rule: "broken-json", "encoding", "too-long", "not-an-object", "broken-row" (a table's row with the wrong
            number of cells, a stray quote, a value without a Python form) or "broken-file" (nothing after it is read).
        reason: one line that quotes no text.
        raw: the first 1,000 characters.
    """

    rule: str
    reason: str
    file: Path
    number: int
    raw: str = ""


def shown(raw: bytes) -> str:
    """The beginning of broken bytes as text."""
    return raw[: 4 * SHOWN].decode("utf-8", "replace")[:SHOWN]
