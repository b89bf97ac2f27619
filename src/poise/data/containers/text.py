"""Rows of JSON Lines files and of files that hold one JSON list.

Both stream: a list is parsed item by item, so it may be larger than memory.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from poise.data.containers import streams
from poise.data.containers.lines import SHOWN, BadLine, Line, shown
from poise.data.containers.streams import BrokenStreamError, NoLine, read_blocks, read_line_blocks
from poise.errors import PoiseError

_DECODE = json.JSONDecoder().raw_decode
_SPACES = re.compile(r"[ \t\r\n]*")
_EDGE = 16
"""Complaints about the last characters of a window may be about what is only not there yet: "-Infin", "\\ud83"."""


def read_json_lines(path: Path) -> Iterator[Line | BadLine]:
    """One JSON object a line; NaN becomes a float, of a key that comes twice the last one stands."""
    number = 0
    for lines in read_line_blocks(path):
        for line in lines:
            number += 1
            if isinstance(line, NoLine):
                yield BadLine(line.rule, line.reason, path, number, shown(line.head))
                continue
            raw = line.strip()
            if not raw:
                continue
            try:
                text = raw.decode()
                row, end = _DECODE(text)
            except UnicodeDecodeError as error:
                yield BadLine("encoding", f"byte {error.start + 1} is not UTF-8", path, number, shown(raw))
            except (ValueError, RecursionError) as error:
                place = f" at character {error.pos + 1}" if isinstance(error, json.JSONDecodeError) else ""
                yield BadLine("broken-json", _why(error) + place, path, number, shown(raw))
            else:
                if end != len(text):
                    yield BadLine("broken-json", f"more text from character {end + 1} on", path, number, shown(raw))
                elif isinstance(row, dict):
                    yield Line(row, path, number)
                else:
                    yield BadLine("not-an-object", f"a {type(row).__name__}", path, number, shown(raw))


def read_json_list(path: Path) -> Iterator[Line | BadLine]:
    """The objects of a list, or of lines under the wrong suffix; where the list breaks it is not read further.

    Raises:
        PoiseError: it is neither.
    """
    text = _Text(path)
    first = text.next_character()
    if first == "{":
        yield from _lines_after_all(path)
        return
    if first != "[":
        reason = text.fault[1] if text.fault else "a list of objects is needed"
        raise PoiseError(f"no valid JSON ({reason})", where=str(path), do="save a list, or JSON lines as .jsonl")
    text.at += 1
    number, following = 0, ","
    if text.next_character() == "]":
        following, text.at = "]", text.at + 1
    while following == ",":
        number += 1
        try:
            row = text.next_value()
        except (ValueError, RecursionError) as error:
            rule, reason = text.fault or ("broken-json", _why(error))
            yield BadLine(rule, f"{reason}; the list is not read further", path, number, text.rest())
            return
        if isinstance(row, dict):
            yield Line(row, path, number)
        else:
            yield BadLine("not-an-object", f"a {type(row).__name__}", path, number, str(row)[:SHOWN])
        following = text.next_character()
        text.at += 1
    if following != "]" or text.next_character():
        rule, reason = text.fault or ("broken-json", "the list does not end where it should")
        yield BadLine(rule, f"{reason}; the list is not read further", path, number + 1, text.rest())


def _lines_after_all(path: Path) -> Iterator[Line | BadLine]:
    """JSON lines named .json, as many public sets have them."""
    lines = read_json_lines(path)
    if isinstance(first := next(lines), BadLine):
        reason = f"line {first.number} is no object, and the file no list"
        raise PoiseError(f"no valid JSON ({reason})", where=str(path), do="save a list, or JSON lines as .jsonl")
    yield first
    yield from lines


class _Text:
    """A window that moves over the text of a file.

    Attributes:
        at: where the next character is in the window.
        fault: rule and reason once the file can't be read further before its end.
    """

    def __init__(self, path: Path) -> None:
        self.at, self.fault = 0, None  # type: int, tuple[str, str] | None
        self._blocks, self._window, self._ended = self._decoded(path), "", False

    def next_character(self) -> str:
        """The next character that is no space, which stays in the window; "" at the end."""
        while True:
            self.at = _SPACES.match(self._window, self.at).end()  # type: ignore[union-attr]  # it matches anything
            if self.at < len(self._window):
                return self._window[self.at]
            if not self._grow():
                return ""

    def next_value(self) -> Any:
        """The next JSON value.

        Raises:
            ValueError, RecursionError: there is none, or it is longer than a line may be.
        """
        self.next_character()
        while True:
            try:
                value, end = _DECODE(self._window, self.at)
            except json.JSONDecodeError as error:
                if error.pos < len(self._window) - _EDGE and not error.msg.startswith("Unterminated string"):
                    raise
                if len(self._window) - self.at > streams.MAX_LINE:
                    self.fault = "too-long", f"over {streams.MAX_LINE:,} characters in one item"
                    raise
                if not self._grow():
                    raise
                continue
            if end < len(self._window) or not self._grow():  # a number at the window's edge may go on behind it
                self.at = end
                return value

    def rest(self) -> str:
        """What comes next, for the quarantine file."""
        return self._window[self.at : self.at + SHOWN]

    def _grow(self) -> bool:
        """At least double what is left in the window, so that a long item is not parsed over and over."""
        parts, wanted = [self._window[self.at :]], len(self._window) - self.at
        while not self._ended and sum(map(len, parts[1:])) <= wanted:
            if (block := next(self._blocks, None)) is None:
                self._ended = True
            else:
                parts.append(block)
        self._window, self.at = "".join(parts), 0
        return len(parts) > 1

    def _decoded(self, path: Path) -> Iterator[str]:
        decoder, before = codecs.getincrementaldecoder("utf-8")(), 0
        try:
            for block in read_blocks(path):
                waiting = len(decoder.getstate()[0])
                yield decoder.decode(block)
                before += waiting + len(block) - len(decoder.getstate()[0])
            decoder.decode(b"", final=True)
        except UnicodeDecodeError as error:
            self.fault = "encoding", f"byte {before + error.start + 1} is not UTF-8"
            yield error.object[: error.start].decode()
        except BrokenStreamError as error:
            self.fault = "broken-file", str(error)


def _why(error: Exception) -> str:
    """The parser's complaint without the text it complains of."""
    if isinstance(error, json.JSONDecodeError):
        return error.msg
    return "nested too deep" if isinstance(error, RecursionError) else "a number of too many digits"
