"""Rows of CSV and TSV files with a header.

All values are texts, an empty one stays an empty text; a mapping file says what they mean. Left out: guessing of
delimiters and types.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from poise.data.containers import streams
from poise.data.containers.lines import SHOWN, BadLine, Line, shown
from poise.data.containers.streams import NoLine, read_line_blocks
from poise.errors import PoiseError


def read_csv(path: Path) -> Iterator[Line | BadLine]:
    """The rows below the header; a row's number is that of its first line.

    Raises:
        PoiseError: a header that can't be read, or that names two columns alike.
    """
    csv.field_size_limit(streams.MAX_LINE)
    delimiter = "\t" if ".tsv" in path.suffixes[-2:] else ","
    source = _Source(path)
    reader = csv.reader(source, delimiter=delimiter, strict=True)
    if not (header := _header(reader, source, path)):
        return
    while not source.ended:
        number = source.number + 1
        source.start_row()
        try:
            cells = next(reader, [])
        except _NoRowError as error:
            yield BadLine(error.line.rule, error.line.reason, path, number, shown(error.line.head))
            continue
        except csv.Error:
            rule, reason = ("broken-file", "a quote is not closed") if source.ended else ("broken-row", "a stray quote")
            yield BadLine(rule, reason, path, number, shown(source.head))
            continue
        if source.not_utf8:
            yield BadLine("encoding", source.not_utf8, path, number, shown(source.head))
        elif len(cells) == len(header):
            yield Line(dict(zip(header, cells, strict=True)), path, number)
        elif cells:
            reason = f"{len(cells)} cells under {len(header)} columns"
            yield BadLine("broken-row", reason, path, number, delimiter.join(cells)[:SHOWN])


def _header(reader: Iterator[list[str]], source: _Source, path: Path) -> list[str]:
    try:
        header = next((cells for cells in reader if cells), [])
    except (csv.Error, _NoRowError) as error:
        raise PoiseError("no readable header", where=str(path), do="write the file again") from error
    if source.not_utf8:
        raise PoiseError(f"header: {source.not_utf8}", where=str(path), do="save as UTF-8")
    if len(set(header)) < len(header):
        raise PoiseError("two columns have one name", where=f"{path}:1", do="rename one of them")
    return header


class _NoRowError(Exception):
    """A row in which a line can't be read."""

    def __init__(self, line: NoLine) -> None:
        super().__init__(line.reason)
        self.line = line


class _Source:
    """Lines for `csv.reader`, which starts a new row with the next line after any error.

    Attributes:
        number: of the last line read, from 1.
        ended: whether it was the last.
        not_utf8: what is wrong with the text of the row that is being read, "" if nothing is.
        head: the beginning of that row.
    """

    def __init__(self, path: Path) -> None:
        self._lines = chain.from_iterable(read_line_blocks(path))
        self.number, self.ended = 0, False
        self.start_row()

    def start_row(self) -> None:
        self._size, self.not_utf8, self.head = 0, "", b""

    def __iter__(self) -> _Source:
        return self

    def __next__(self) -> str:
        if (line := next(self._lines, None)) is None:
            self.ended = True
            raise StopIteration
        self.number += 1
        if isinstance(line, NoLine):
            raise _NoRowError(line)
        if not self._size:
            self.head = line[: 4 * SHOWN]
        self._size += len(line) + 1
        if self._size > streams.MAX_LINE:
            raise _NoRowError(NoLine("too-long", f"over {streams.MAX_LINE:,} bytes", self.head))
        try:
            return line.decode() + "\n"
        except UnicodeDecodeError as error:
            self.not_utf8 = f"byte {error.start + 1} of line {self.number} is not UTF-8"
            return line.decode("utf-8", "replace") + "\n"
