"""Rows of columnar files: Parquet and Arrow IPC (file or stream), a few thousand at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from poise.data.containers.lines import BadLine, Line
from poise.errors import PoiseError


def read_batches(path: Path, size: int = 8192) -> Iterator[pa.RecordBatch]:
    """The batches of a Parquet or Arrow file.

    Raises:
        PoiseError: it is damaged, or neither.
    """
    try:
        if path.suffix == ".parquet":
            with pq.ParquetFile(path, pre_buffer=False) as file:
                yield from file.iter_batches(batch_size=size)
            return
        with pa.memory_map(str(path)) as source:
            for batch in _ipc_batches(source):
                for start in range(0, batch.num_rows, size):
                    yield batch.slice(start, size)
    except (pa.ArrowException, OSError) as error:
        kind = "Parquet" if path.suffix == ".parquet" else "Arrow"
        reason = str(error).splitlines()[0]
        raise PoiseError(
            f"no readable {kind} file ({reason})", where=str(path), do="write or fetch it again"
        ) from error


def read_columnar(path: Path) -> Iterator[Line | BadLine]:
    """Rows as dictionaries; one whose text is not valid UTF-8 (Arrow does not check) is a `BadLine`."""
    number = 0
    for batch in read_batches(path):
        try:
            rows: list[dict[str, Any]] = batch.to_pylist()
        except UnicodeDecodeError:
            yield from _one_by_one(batch, path, number)
        else:
            for place, row in enumerate(rows, start=number + 1):
                yield Line(row, path, place)
        number += batch.num_rows


def _ipc_batches(source: pa.NativeFile) -> Iterator[pa.RecordBatch]:
    try:
        reader = pa.ipc.open_file(source)
    except pa.ArrowInvalid:
        source.seek(0)
        yield from pa.ipc.open_stream(source)
        return
    for index in range(reader.num_record_batches):
        yield reader.get_batch(index)


def _one_by_one(batch: pa.RecordBatch, path: Path, before: int) -> Iterator[Line | BadLine]:
    for index in range(batch.num_rows):
        try:
            yield Line(batch.slice(index, 1).to_pylist()[0], path, before + index + 1)
        except UnicodeDecodeError as error:
            reason = f"a text is not UTF-8 ({error.reason})"
            yield BadLine("encoding", reason, path, before + index + 1)
