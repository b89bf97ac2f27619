"""Rows to a file, by suffix. The file appears when it is complete; the same rows give the same bytes."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from poise.data.corpus import canonical_json
from poise.errors import PoiseError

Rows = Iterable[Mapping[str, Any]]
_CHUNK = 8192


def write_lines(path: Path, rows: Rows, schema: pa.Schema | None = None) -> int:
    """Write rows to .jsonl, .jsonl.gz, .jsonl.zst, .json, .csv, .tsv, .parquet or .arrow; returns their number.

    Args:
        schema: of a Parquet or Arrow file; without one it is that of the first 8,192 rows, and a later row that does
            not fit is an error.

    Raises:
        PoiseError: unknown suffix, a row that does not fit, or a full disk (exit code 3); then nothing is left behind.
    """
    write = _WRITERS.get(path.suffix) or _WRITERS.get("".join(path.suffixes[-2:]))
    if write is None:
        raise PoiseError(f"unknown suffix {path.suffix!r}", where=str(path), do=f"use one of {', '.join(_WRITERS)}")
    counted = _Counted(rows)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            write(file, counted, schema)
        temporary.replace(path)
    except OSError as error:
        raise PoiseError(
            f"cannot be written ({error.strerror or error}); nothing was left behind",
            where=str(path),
            do="free some space or choose another place",
            exit_code=3,
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
    return counted.number


class _Counted:
    def __init__(self, rows: Rows) -> None:
        self._rows, self.number = rows, 0

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        for row in self._rows:
            self.number += 1
            yield row


def _json_lines(file: IO[bytes], rows: Rows, _: pa.Schema | None) -> None:
    for row in rows:
        file.write(canonical_json(row).encode() + b"\n")


def _gzip(file: IO[bytes], rows: Rows, _: pa.Schema | None) -> None:
    with gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as packed:
        _json_lines(packed, rows, None)


def _zstd(file: IO[bytes], rows: Rows, _: pa.Schema | None) -> None:
    with pa.CompressedOutputStream(pa.PythonFile(file, mode="w"), "zstd") as packed:
        for row in rows:
            packed.write(canonical_json(row).encode() + b"\n")


def _json_list(file: IO[bytes], rows: Rows, _: pa.Schema | None) -> None:
    opened = b"[\n"
    for row in rows:
        file.write(opened + canonical_json(row).encode())
        opened = b",\n"
    file.write(b"[]\n" if opened == b"[\n" else b"\n]\n")


def _csv(delimiter: str) -> Callable[[IO[bytes], Rows, pa.Schema | None], None]:
    def write(file: IO[bytes], rows: Rows, _: pa.Schema | None) -> None:
        text = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)
        table = None
        for row in rows:
            if table is None:
                table = csv.DictWriter(text, list(row), delimiter=delimiter, lineterminator="\n")
                table.writeheader()
            try:
                table.writerow({name: _cell(value) for name, value in row.items()})
            except ValueError as error:
                raise PoiseError("a row has other columns than the first", do="write .jsonl instead") from error
        text.detach()

    return write


def _cell(value: object) -> object:
    """Lists and objects as JSON, true and false in small letters, nothing as an empty text."""
    if isinstance(value, bool | list | dict | tuple):
        return json.dumps(value, ensure_ascii=False)
    return "" if value is None else value


def _columnar(file: IO[bytes], rows: Rows, schema: pa.Schema | None, parquet: bool) -> None:
    waiting, writer = iter(rows), None
    sink = pa.PythonFile(file, mode="w")
    with _closing(lambda: writer):
        while chunk := list(islice(waiting, _CHUNK)):
            try:
                table = pa.Table.from_pylist([dict(row) for row in chunk], schema=schema)
            except (pa.ArrowException, TypeError, UnicodeEncodeError) as error:
                raise PoiseError(f"a row does not fit the columns ({error})", do="write .jsonl instead") from error
            if writer is None:
                schema = table.schema
                writer = (
                    pq.ParquetWriter(sink, schema, compression="zstd") if parquet else pa.ipc.new_file(sink, schema)
                )
            writer.write_table(table)


@contextmanager
def _closing(writer: Callable[[], Any]) -> Iterator[None]:
    yield
    if writer() is not None:
        writer().close()


_WRITERS: dict[str, Callable[[IO[bytes], Rows, pa.Schema | None], None]] = {
    ".jsonl": _json_lines,
    ".jsonl.gz": _gzip,
    ".jsonl.zst": _zstd,
    ".json": _json_list,
    ".csv": _csv(","),
    ".tsv": _csv("\t"),
    ".parquet": lambda file, rows, schema: _columnar(file, rows, schema, True),
    ".arrow": lambda file, rows, schema: _columnar(file, rows, schema, False),
}
