"""Data at rest: a folder of immutable Parquet tables, one for each unit, with a manifest.

    <folder>/data/<unit>/<split or part>-00000.parquet    columns of poise.data.columns.TABLES
    <folder>/manifest.json    files with sha256 and rows, schema and policy version, parents
    <folder>/quarantine.jsonl    rows that were kept out, where there are any
    <folder>/repairs.jsonl    rows that were mended and what was done, where there are any

`open_tables` also opens a release, or any folder of public files in that layout: a column that is not there reads as
null and a split is taken from the file name. Everything streams: a `Table` is read batch by batch as often as wanted,
and `TableWriter` holds one buffer a unit. The folder appears under its name only when all of it is written.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from poise.data.columns import TABLES, UNITS
from poise.data.corpus import canonical_json
from poise.data.folders import disk_error, manifest_of, partial_folder, refuse_used, write_json
from poise.data.from_columns import record_of
from poise.data.records import Record
from poise.errors import PoiseError

BATCH = 8192
"""Rows read or written at a time; bounds memory to some tens of megabytes."""

SHARD_BYTES = 400_000_000
"""A file is closed when it has reached this size."""


@dataclass(frozen=True)
class Table:
    """One unit of a data set: Parquet files, read in order."""

    unit: str
    files: tuple[Path, ...]

    @property
    def rows(self) -> int:
        """Number of rows, from the files' footers."""
        return sum(pq.read_metadata(file).num_rows for file in self.files)

    def batches(self, columns: Sequence[str] | None = None, size: int = BATCH) -> Iterator[pa.RecordBatch]:
        """All rows as batches of at most `size` rows, with the columns named (default: all of `TABLES[unit]`).

        Raises:
            PoiseError: a file is damaged, or a column has a type that does not fit.
        """
        wanted = TABLES[self.unit] if columns is None else pa.schema([TABLES[self.unit].field(c) for c in columns])
        for file in self.files:
            try:
                with pq.ParquetFile(file, pre_buffer=False) as parquet:
                    there = [name for name in wanted.names if name in parquet.schema_arrow.names]
                    for batch in parquet.iter_batches(batch_size=size, columns=there):
                        yield _conform(batch, wanted, file)
            except (pa.ArrowException, OSError) as error:
                raise PoiseError(
                    f"no readable Parquet file ({error})", where=str(file), do="write or fetch it again"
                ) from error

    def records(self) -> Iterator[Record]:
        """All rows as typed records.

        Raises:
            PoiseError: as `batches`, or a text is not valid UTF-8.
        """
        for batch in self.batches():
            for row in batch.to_pylist():
                yield record_of(self.unit, row)


def _conform(batch: pa.RecordBatch, schema: pa.Schema, file: Path) -> pa.RecordBatch:
    """The batch with the columns of `schema`: what is missing is null, `split` comes from the file name."""
    columns = []
    for field in schema:
        if field.name in batch.schema.names:
            column = batch.column(field.name)
            columns.append(column if column.type.equals(field.type) else _cast(column, field, file))
        elif field.name == "split" and (split := file.name.split("-")[0].split(".")[0]) in ("train", "test"):
            columns.append(pa.repeat(split, batch.num_rows))
        else:
            columns.append(pa.nulls(batch.num_rows, field.type))
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _cast(column: pa.Array, field: pa.Field, file: Path) -> pa.Array:
    """A column as another writer may have typed it (large strings, 32-bit integers, struct fields in another order)."""
    try:
        if pa.types.is_struct(field.type) and pa.types.is_struct(column.type):
            names = [inner.name for inner in column.type]
            parts = [
                _cast(column.field(inner.name), inner, file)
                if inner.name in names
                else pa.nulls(len(column), inner.type)
                for inner in field.type
            ]
            return pa.StructArray.from_arrays(parts, fields=list(field.type), mask=column.is_null())
        return column.cast(field.type)
    except pa.ArrowException as error:
        raise PoiseError(
            f"column {field.name!r} is {column.type}, not {field.type}",
            where=str(file),
            do="read it with `poise data read`, which reports the rows that do not fit",
        ) from error


class Tables(Mapping[str, Table]):
    """The units of a data set that hold rows, in the order of `UNITS`."""

    def __init__(self, folder: Path, tables: Mapping[str, Table]) -> None:
        self.folder = folder
        self._tables = {unit: tables[unit] for unit in UNITS if unit in tables}

    def __getitem__(self, unit: str) -> Table:
        return self._tables[unit]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tables)

    def __len__(self) -> int:
        return len(self._tables)

    @property
    def rows(self) -> dict[str, int]:
        """Rows of each unit."""
        return {unit: table.rows for unit, table in self.items()}

    def manifest(self) -> dict[str, Any]:
        """The content of `manifest.json`, empty where there is none."""
        path = self.folder / "manifest.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}

    def digest(self) -> str:
        """Names this state of the data: SHA-256 of its manifest, or "unrecorded" where there is none."""
        path = self.folder / "manifest.json"
        return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "unrecorded"


def open_tables(folder: Path) -> Tables:
    """The tables below `<folder>/data/`.

    Raises:
        PoiseError: no such folder, or it holds no unit of ours.
    """
    if folder.is_file():
        what, do = "is a file; tables are a folder", f"make them of it: poise data read {folder} --out DIR"
        raise PoiseError(what, where=str(folder), do=do)
    if not folder.is_dir():
        raise PoiseError("no such folder", where=str(folder), do="name a folder that `poise data read` has written")
    files = {unit: tuple(sorted((folder / "data" / unit).glob("*.parquet"))) for unit in UNITS}
    tables = {unit: Table(unit, found) for unit, found in files.items() if found}
    if not tables:
        raise PoiseError(
            "no data/<unit>/*.parquet in it", where=str(folder), do="make tables of other files with `poise data read`"
        )
    return Tables(folder, tables)


class TableWriter:
    """Writes tables into a folder that appears when the `with` block ends without an error.

    Args:
        folder: must not exist or be empty.
        step: what is being done ("read", "validate", ...), with its settings, for the manifest.
        parents: the tables that this step reads.
        replace: allow the folder to be an earlier result, which is then replaced at the end.
        sources: what else this step reads.

    Raises:
        PoiseError: the folder is in use, or with `replace` holds no earlier result or what is read; the disk is full
            (exit code 3).
    """

    def __init__(
        self,
        folder: Path,
        step: Mapping[str, Any],
        parents: Sequence[Tables] = (),
        *,
        replace: bool = False,
        sources: Sequence[Path] = (),
    ) -> None:
        self.folder, self.replace = folder, replace
        refuse_used(folder, replace, [*(tables.folder for tables in parents), *sources])
        self.parts = partial_folder(folder)
        self.left_out: Counter[str] = Counter()
        self.rows: Counter[str] = Counter()
        self._step, self._parents = dict(step), [tables.digest() for tables in parents]
        self._open: dict[str, tuple[pq.ParquetWriter, Path, int]] = {}
        self._buffer: dict[str, list[dict[str, Any]]] = {}
        self._logs: dict[str, IO[str]] = {}

    def __enter__(self) -> Self:
        shutil.rmtree(self.parts, ignore_errors=True)
        self.parts.mkdir(parents=True)
        return self

    def add(self, record: Record) -> None:
        """Append one record."""
        self.rows[record.unit] += 1
        rows = self._buffer.setdefault(record.unit, [])
        rows.append(record.columns())
        if len(rows) >= BATCH:
            self._flush(record.unit)

    def write(self, unit: str, batch: pa.RecordBatch, part: str = "part") -> None:
        """Append a batch with the columns of `TABLES[unit]`; `part` begins the file's name.

        Raises:
            PoiseError: no space left on the disk, or another fault of the file system (exit code 3).
        """
        self.rows[unit] += batch.num_rows
        self._write(unit, batch, part)

    def _write(self, unit: str, batch: pa.RecordBatch, part: str = "part") -> None:
        if not batch.num_rows:
            return
        try:
            writer, path, shard = self._open.get(f"{unit}/{part}") or self._start(unit, part, batch.schema, 0)
            writer.write_batch(batch, row_group_size=BATCH)
            if path.stat().st_size >= SHARD_BYTES:
                writer.close()
                self._start(unit, part, batch.schema, shard + 1)
        except OSError as error:
            raise disk_error(error, self.folder) from error

    def quarantine(self, rule: str, reason: str, where: str, row: object) -> None:
        """Keep a row out: it goes to `quarantine.jsonl` with the rule it breaks, and is counted under that rule."""
        self.left_out[rule] += 1
        self._log("quarantine.jsonl", {"rule": rule, "reason": reason, "where": where, "row": _finite(row)})

    def repaired(self, where: str, done: Sequence[str]) -> None:
        """List a row that was mended, and what was done to it, in `repairs.jsonl`; no text stands there."""
        self._log("repairs.jsonl", {"where": where, "done": list(done)})

    def _log(self, name: str, entry: dict[str, Any]) -> None:
        try:
            if name not in self._logs:
                self._logs[name] = (self.parts / name).open("w", encoding="utf-8", newline="\n")
            self._logs[name].write(canonical_json(entry) + "\n")
        except OSError as error:
            raise disk_error(error, self.folder) from error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                for unit in list(self._buffer):
                    self._flush(unit)
            self._close()
            if kind is None:
                self._finish()
        except OSError as fault:
            raise disk_error(fault, self.folder) from fault
        finally:
            shutil.rmtree(self.parts, ignore_errors=True)

    def _start(self, unit: str, part: str, schema: pa.Schema, shard: int) -> tuple[pq.ParquetWriter, Path, int]:
        path = self.parts / "data" / unit / f"{part}-{shard:05d}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        writer = pq.ParquetWriter(path, schema, compression="zstd", compression_level=1)
        self._open[f"{unit}/{part}"] = writer, path, shard
        return self._open[f"{unit}/{part}"]

    def _flush(self, unit: str) -> None:
        rows, self._buffer[unit] = self._buffer[unit], []
        self._write(unit, pa.RecordBatch.from_pylist(rows, schema=TABLES[unit]))

    def _close(self) -> None:
        for writer, path, _ in self._open.values():
            with contextlib.suppress(OSError):  # the fault that matters has been raised by a write
                writer.close()
                if not pq.read_metadata(path).num_rows:
                    path.unlink()
        for log in self._logs.values():
            log.close()

    def _finish(self) -> None:
        left_out = dict(sorted(self.left_out.items()))
        manifest = manifest_of(self.parts, self._step | {"rows": dict(self.rows), "left_out": left_out}, self._parents)
        write_json(self.parts / "manifest.json", manifest)
        if self.folder.exists():
            shutil.rmtree(self.folder) if self.replace else self.folder.rmdir()
        self.parts.rename(self.folder)


def _finite(value: object) -> object:
    """A value as JSON can hold it: "nan" and "inf" as text."""
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_finite(inner) for inner in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def merge_tables(parts: Sequence[Tables], out: Path, *, replace: bool = False) -> Tables:
    """All rows of several tables in one folder, in the order given; nothing is compared, see `poise data dedup`."""
    with TableWriter(out, {"name": "merge"}, parts, replace=replace) as writer:
        for tables in parts:
            for unit, table in tables.items():
                for batch in table.batches():
                    writer.write(unit, batch)
    return open_tables(out)
