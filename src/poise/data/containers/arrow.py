"""Rows of columnar files: Parquet and Arrow IPC (file or stream), a batch at a time.

Arrow trusts what it reads: text may be no UTF-8, offsets of an IPC file may point anywhere. Both are checked here.
Left out: a bound on one compressed IPC batch, which Arrow always unpacks whole, and on a long text that a Parquet
dictionary holds once and many rows name.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from poise.data.containers import streams
from poise.data.containers.lines import SHOWN, BadLine, Line
from poise.errors import PoiseError

_ROWS = 256
"""Rows turned into dictionaries at a time; more is not faster, and a text that a dictionary holds is copied a row."""
_BATCH = 64 << 20
"""Bytes of a batch, as far as the mean row tells: rows with images are a thousand times longer than rows of text."""
_BUFFER = 1 << 16
"""Bytes of a Parquet column chunk in memory at a time; without it a chunk is read whole."""


def read_batches(path: Path, size: int = 8192) -> Iterator[pa.RecordBatch]:
    """The batches of a Parquet or Arrow file, of at most `size` rows; texts may still be no valid UTF-8.

    Raises:
        PoiseError: it is damaged, neither, names two columns alike, or unpacks without end.
    """
    try:
        yield from _parquet_batches(path, size) if path.suffix == ".parquet" else _ipc_batches(path, size)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        kind = "Parquet" if path.suffix == ".parquet" else "Arrow"
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise PoiseError(
            f"no readable {kind} file ({reason})", where=str(path), do="write or fetch it again"
        ) from error


def read_columnar(path: Path) -> Iterator[Line | BadLine]:
    """Rows as dictionaries; one with a text that is not UTF-8 or a value without a Python form is a `BadLine`."""
    number = 0
    for batch in read_batches(path, _ROWS):
        try:
            rows = batch.to_pylist()
        except (ValueError, OverflowError, pa.ArrowException):
            yield from _one_by_one(batch, path, number)
        else:
            for place, row in enumerate(rows, start=number + 1):
                yield Line(row, path, place)
        number += batch.num_rows


def _parquet_batches(path: Path, size: int) -> Iterator[pa.RecordBatch]:
    with pq.ParquetFile(path, pre_buffer=False, buffer_size=_BUFFER, page_checksum_verification=True) as file:
        _refuse_equal_names(file.schema_arrow, path)
        groups = [file.metadata.row_group(index) for index in range(file.metadata.num_row_groups)]
        unpacked, packed = sum(group.total_byte_size for group in groups), path.stat().st_size
        if unpacked > streams.BOMB_FLOOR and unpacked > streams.MAX_RATIO * packed:
            reason = f"unpacks to {unpacked >> 20:,} MiB from {packed:,} bytes, like a bomb"
            raise PoiseError(reason, where=str(path), do="write it again")
        longest = max((group.total_byte_size // max(group.num_rows, 1) for group in groups), default=0)
        yield from file.iter_batches(batch_size=max(1, min(size, _BATCH // max(longest, 1))))


def _ipc_batches(path: Path, size: int) -> Iterator[pa.RecordBatch]:
    with pa.memory_map(str(path)) as source:
        kind = source.read(6)
        source.seek(0)
        if kind == b"ARROW1":
            reader = pa.ipc.open_file(source)
            batches = (reader.get_batch(index) for index in range(reader.num_record_batches))
        else:
            reader = pa.ipc.open_stream(source)
            batches = iter(reader)
        _refuse_equal_names(reader.schema, path)
        for batch in batches:
            _check_offsets(batch)
            for start in range(0, batch.num_rows, size):
                yield batch.slice(start, size)


def _refuse_equal_names(schema: pa.Schema, path: Path) -> None:
    if len(set(schema.names)) < len(schema.names):
        raise PoiseError("two columns have one name", where=str(path), do="rename one of them")


def _check_offsets(batch: pa.RecordBatch) -> None:
    """Refuse a batch whose offsets lead out of its buffers: reading it would end the process.

    Raises:
        pa.ArrowInvalid: it is damaged, or a text within a list or struct is not UTF-8, which hides other damage.
    """
    for column in batch.columns:
        if pa.types.is_string(column.type):
            column.view(pa.binary()).validate(full=True)
        elif pa.types.is_large_string(column.type):
            column.view(pa.large_binary()).validate(full=True)
        else:
            column.validate(full=True)


def _one_by_one(batch: pa.RecordBatch, path: Path, before: int) -> Iterator[Line | BadLine]:
    for index in range(batch.num_rows):
        number, values, bad = before + index + 1, {}, None
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            try:
                values[name] = column[index].as_py()
            except UnicodeDecodeError as error:
                bad = "encoding", f"byte {error.start + 1} of {name!r} is not UTF-8"
                values[name] = error.object.decode("utf-8", "replace")
            except (ValueError, OverflowError, pa.ArrowException):
                bad = "broken-row", f"{name!r} is a {column.type} without a Python form"
                values[name] = None
        if bad is None:
            yield Line(values, path, number)
        else:
            yield BadLine(*bad, path, number, json.dumps(values, ensure_ascii=False, default=str)[:SHOWN])
