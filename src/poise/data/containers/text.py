"""Rows of text files: JSON Lines, a JSON list, CSV and TSV."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path

from poise.data.containers.lines import SHOWN, BadLine, Line, shown
from poise.data.containers.streams import MAX_LINE, BrokenStreamError, read_blocks, read_text_lines
from poise.errors import PoiseError

MAX_JSON = 1 << 30
"""Bytes of a JSON list: it has to fit into memory whole."""


def read_json_lines(path: Path) -> Iterator[Line | BadLine]:
    """One JSON object a line; NaN becomes a float, of a key that comes twice the last one stands."""
    loads, number = json.loads, 0
    try:
        for number, raw in enumerate(read_text_lines(path), start=1):
            if raw is None:
                yield BadLine("too-long", f"over {MAX_LINE >> 20} MiB", path, number)
                continue
            if number == 1:
                raw = raw.removeprefix(b"\xef\xbb\xbf")  # noqa: PLW2901 - byte-order mark
            if not raw or raw.isspace():
                continue
            try:
                row = loads(raw)
            except UnicodeDecodeError as error:
                yield BadLine("encoding", f"byte {error.start + 1} is not UTF-8", path, number, shown(raw))
            except (ValueError, RecursionError) as error:
                yield BadLine("broken-json", _why(error), path, number, shown(raw))
            else:
                if isinstance(row, dict):
                    yield Line(row, path, number)
                else:
                    yield BadLine("not-an-object", f"a {type(row).__name__}", path, number, shown(raw))
    except BrokenStreamError as error:
        yield BadLine("broken-file", str(error), path, number + 1)


def read_json_list(path: Path) -> Iterator[Line | BadLine]:
    """A list of objects, or an object a line under the wrong suffix.

    Raises:
        PoiseError: no JSON, no list, or over 1 GiB.
    """
    parts, size = [], 0
    try:
        for block in read_blocks(path):
            parts.append(block)
            size += len(block)
            if size > MAX_JSON:
                raise PoiseError("a JSON list of over 1 GiB", where=str(path), do="save it as JSON lines (.jsonl)")
        rows = json.loads(b"".join(parts).removeprefix(b"\xef\xbb\xbf"))
    except BrokenStreamError as error:
        raise PoiseError(str(error), where=str(path), do="fetch it again") from error
    except UnicodeDecodeError as error:
        raise PoiseError(f"byte {error.start + 1} is not UTF-8", where=str(path), do="save as UTF-8") from error
    except (ValueError, RecursionError) as error:
        raise PoiseError(
            f"no valid JSON ({_why(error)})", where=str(path), do="is it JSON lines? Name it .jsonl"
        ) from error
    if not isinstance(rows, list):
        raise PoiseError(f"a list of objects is needed, not a {type(rows).__name__}", where=str(path), do="use .jsonl")
    for number, row in enumerate(rows, start=1):
        if isinstance(row, dict):
            yield Line(row, path, number)
        else:
            yield BadLine("not-an-object", f"a {type(row).__name__}", path, number, str(row)[:SHOWN])


def read_csv(path: Path) -> Iterator[Line | BadLine]:
    """Comma- or tab-separated values with a header; all values are texts, an empty one stays an empty text."""
    csv.field_size_limit(MAX_LINE)
    delimiter = "\t" if path.suffixes[-1] == ".tsv" or path.suffixes[-2:-1] == [".tsv"] else ","
    number = 0
    try:
        reader = csv.reader(_decoded(path), delimiter=delimiter, strict=True)
        header = next(reader, [])
        if len(set(header)) < len(header):
            raise PoiseError("two columns have one name", where=f"{path}:1", do="rename one of them")
        for cells in reader:
            number = reader.line_num
            if not cells:
                continue
            if len(cells) == len(header):
                yield Line(dict(zip(header, cells, strict=True)), path, number)
            else:
                reason = f"{len(cells)} cells under {len(header)} columns"
                yield BadLine("broken-row", reason, path, number, delimiter.join(cells)[:SHOWN])
    except (BrokenStreamError, csv.Error) as error:
        yield BadLine("broken-file", str(error), path, number + 1)
    except UnicodeDecodeError as error:
        yield BadLine("encoding", f"not UTF-8 ({error.reason})", path, number + 1)


def _decoded(path: Path) -> Iterator[str]:
    for number, raw in enumerate(read_text_lines(path)):
        if raw is None:
            raise BrokenStreamError(f"a line of over {MAX_LINE >> 20} MiB")
        yield raw.removeprefix(b"\xef\xbb\xbf" if number == 0 else b"").decode("utf-8") + "\n"


def _why(error: Exception) -> str:
    """The parser's complaint without the text it complains of."""
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at character {error.pos + 1}"
    return type(error).__name__
