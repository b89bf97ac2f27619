"""Rows to a file, by suffix. The file appears when it is complete; the same rows give the same bytes."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from poise.data.corpus import canonical_json
from poise.errors import PoiseError

_CHUNK = 8192
_ENCODE = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]], schema: pa.Schema | None = None) -> int:
    """Write rows to .jsonl, .jsonl.gz, .jsonl.zst, .json, .csv, .tsv, .parquet or .arrow; returns their number.

    Args:
        rows: of a CSV file the first row names the columns; what another row does not have is an empty text.
        schema: of a Parquet or Arrow file; without one it is that of all rows together, which wait in an unnamed file
            beside `path` until the last one is there.

    Raises:
        PoiseError: unknown suffix, a row that does not fit, or a full disk (exit code 3); then nothing is left behind.
    """
    write = _WRITERS.get(path.suffix) or _WRITERS.get("".join(path.suffixes[-2:]))
    if write is None:
        raise PoiseError(f"unknown suffix {path.suffix!r}", where=str(path), do=f"use one of {', '.join(_WRITERS)}")
    counted = _Rows(rows, path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            write(file, counted, schema)
        with temporary.open("r+b") as file:  # Arrow has closed the first handle
            os.fsync(file.fileno())
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


class _Rows:
    """The rows, counted as they are written."""

    def __init__(self, rows: Iterable[Mapping[str, Any]], path: Path) -> None:
        self._rows, self._path, self.number = rows, path, 0

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for row in self._rows:
            self.number += 1
            yield row if isinstance(row, dict) else dict(row)

    def unfit(self, what: str, last: int | None = None) -> PoiseError:
        """The error of the row that came last, or of the rows up to it."""
        row = self.number if last is None else f"{last}-{self.number}"
        return PoiseError(what, where=f"{self._path}: row {row}", do="mend the row, or write another container")

    def as_json(self) -> Iterator[bytes]:
        """Each row as `canonical_json`, which this is the quick way of for all but lone surrogates."""
        for row in self:
            try:
                yield _ENCODE(row).encode()
            except UnicodeEncodeError:
                yield canonical_json(row).encode()
            except (TypeError, ValueError, RecursionError) as error:
                raise self.unfit(f"has no JSON form ({error})") from error


def _json_lines(file: Any, rows: _Rows, _: pa.Schema | None) -> None:
    for text in rows.as_json():
        file.write(text + b"\n")


def _gzip(file: IO[bytes], rows: _Rows, _: pa.Schema | None) -> None:
    with gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=file, mtime=0) as packed:
        _json_lines(packed, rows, None)


def _zstd(file: IO[bytes], rows: _Rows, _: pa.Schema | None) -> None:
    with pa.CompressedOutputStream(pa.PythonFile(file, mode="w"), "zstd") as packed:
        _json_lines(packed, rows, None)


def _json_list(file: IO[bytes], rows: _Rows, _: pa.Schema | None) -> None:
    before = b"[\n"
    for text in rows.as_json():
        file.write(before + text)
        before = b",\n"
    file.write(b"[]\n" if before == b"[\n" else b"\n]\n")


def _csv(delimiter: str) -> Callable[[IO[bytes], _Rows, pa.Schema | None], None]:
    def write(file: IO[bytes], rows: _Rows, _: pa.Schema | None) -> None:
        text = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)
        table = None
        try:
            for row in rows:
                if table is None:
                    # lines end as RFC 4180 says: csv quotes a carriage return only if line ends have one
                    table = csv.DictWriter(text, list(row), delimiter=delimiter, lineterminator="\r\n")
                    table.writeheader()
                try:
                    table.writerow({name: _cell(value) for name, value in row.items()})
                except UnicodeEncodeError as error:
                    raise rows.unfit("holds a lone surrogate, which UTF-8 has no place for") from error
                except ValueError as error:
                    raise rows.unfit("has other columns than the first") from error
        finally:
            text.detach()

    return write


def _cell(value: object) -> object:
    """Lists and objects as JSON, true and false in small letters, nothing as an empty text."""
    if isinstance(value, bool | list | dict | tuple):
        return json.dumps(value, ensure_ascii=False)
    return "" if value is None else value


def _columnar(
    open_writer: Callable[[pa.PythonFile, pa.Schema], Any],
) -> Callable[[IO[bytes], _Rows, pa.Schema | None], None]:
    def write(file: IO[bytes], rows: _Rows, schema: pa.Schema | None) -> None:
        with tempfile.TemporaryFile(dir=Path(file.name).parent) as spill:
            tables = _tables(rows, schema)
            try:
                if schema is None:
                    schema, tables = _unified(tables, spill)
                with open_writer(pa.PythonFile(file, mode="w"), schema) as writer:
                    for table in tables:
                        writer.write_table(table)
            except pa.ArrowException as error:
                reason = str(error).splitlines()[0]
                raise rows.unfit(f"a column holds what this container can't ({reason})", 1) from error

    return write


def _tables(rows: _Rows, schema: pa.Schema | None) -> Iterator[pa.Table]:
    """A few thousand rows at a time as a table, with the schema's columns or those that any of them has."""
    waiting = iter(rows)
    while chunk := list(islice(waiting, _CHUNK)):
        names = dict.fromkeys(name for row in chunk for name in row)
        if schema is not None and (unknown := [name for name in names if name not in schema.names]):
            raise rows.unfit(f"no column {unknown[0]!r} in the schema", rows.number - len(chunk) + 1)
        types = dict.fromkeys(names) if schema is None else dict(zip(schema.names, schema.types, strict=True))
        columns = []
        for name, kind in types.items():
            try:
                columns.append(pa.array([row.get(name) for row in chunk], kind))
            except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
                reason = f"column {name!r} does not fit one type ({type(error).__name__})"
                raise rows.unfit(reason, rows.number - len(chunk) + 1) from error
        yield pa.table(columns, list(names)) if schema is None else pa.table(columns, schema=schema)


def _unified(tables: Iterable[pa.Table], spill: IO[bytes]) -> tuple[pa.Schema, Iterator[pa.Table]]:
    """The schema that all tables fit into, known after the last of them, and the tables, which wait on the disk."""
    schemas, sink = [], pa.PythonFile(spill, mode="w")
    for table in tables:
        schemas.append(table.schema)
        with pa.ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(table)
    schema = pa.unify_schemas(schemas or [pa.schema([])], promote_options="permissive")
    spill.seek(0)
    source = pa.PythonFile(spill, mode="r")
    return schema, (_filled(pa.ipc.open_stream(source).read_all(), schema) for _ in schemas)


def _filled(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The table with all columns of a schema, those that it lacks empty."""
    columns = [
        table[field.name].cast(field.type) if field.name in table.schema.names else pa.nulls(len(table), field.type)
        for field in schema
    ]
    return pa.table(columns, schema=schema)


_WRITERS: dict[str, Callable[[IO[bytes], _Rows, pa.Schema | None], None]] = {
    ".jsonl": _json_lines,
    ".jsonl.gz": _gzip,
    ".jsonl.zst": _zstd,
    ".json": _json_list,
    ".csv": _csv(","),
    ".tsv": _csv("\t"),
    ".parquet": _columnar(lambda sink, schema: pq.ParquetWriter(sink, schema, compression="zstd")),
    ".arrow": _columnar(pa.ipc.new_file),
}
