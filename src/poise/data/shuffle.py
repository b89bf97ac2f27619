"""Put any number of rows into the order of their keys, out of core.

Rows are spilled into one Arrow file in buckets of neighbouring keys; a bucket is then read back whole and sorted. Two
passes over the data, memory for one bucket, and rows with equal keys stay in the order they came in. A database's
ORDER BY does the same, but the order of equal keys there depends on its threads.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from poise.data.corpus import canonical_json
from poise.data.keys import Keys

BUCKET_ROWS = 16_384
BUCKET_BYTES = 8_000_000
"""Wanted size of a bucket; bytes are of compressed Parquet."""

MAX_BUCKETS = 64
_SLICE_ROWS = 512  # rows of a bucket are spilled so many at a time on average; far fewer make Arrow's overhead dominate


def row_keys(batch: pa.RecordBatch, columns: Sequence[str], salt: str) -> Keys:
    """A hash of (salt, values) as a 64-bit integer for each row, shape (N,); null counts as empty."""
    values = []
    for name in columns:
        column = batch.column(name)
        if pa.types.is_list(column.type):
            values.append([canonical_json(value).encode() if value else b"" for value in column.to_pylist()])
        else:
            values.append(pc.cast(pc.cast(column, pa.string()), pa.binary()).to_pylist())
    start = salt.encode()
    rows = (b"\x1f".join((start, *(value or b"" for value in row))) for row in zip(*values, strict=True))
    digests = b"".join(hashlib.sha256(row).digest()[:8] for row in rows)
    return np.frombuffer(digests, dtype=">u8").astype(np.uint64)


def bucket_count(rows: int, size: int) -> int:
    """Buckets for a number of rows that take `size` bytes of compressed Parquet."""
    return int(np.clip(max(rows // BUCKET_ROWS, size // BUCKET_BYTES), 1, MAX_BUCKETS))


class Shuffle:
    """Rows spilled into buckets by key.

    Args:
        path: of the spill file.
        buckets: bucket b holds the keys from b/buckets to (b+1)/buckets of the range of 64-bit integers.
    """

    def __init__(self, path: Path, buckets: int) -> None:
        self.path, self.buckets = path, buckets
        self.rows = 0
        self._parts: dict[int, list[int]] = defaultdict(list)
        self._written = 0
        self._waiting: list[pa.RecordBatch] = []
        self._writer: pa.RecordBatchFileWriter | None = None
        self._reader: pa.RecordBatchFileReader | None = None

    def add(self, batch: pa.RecordBatch, keys: Keys) -> None:
        """Append N rows with their keys, shape (N,); all batches have the same columns."""
        self._waiting.append(batch.append_column("key", pa.array(keys)))
        self.rows += batch.num_rows
        if sum(part.num_rows for part in self._waiting) >= _SLICE_ROWS * self.buckets:
            self._spill()

    def _spill(self) -> None:
        rows = pa.Table.from_batches(self._waiting).combine_chunks()
        self._waiting = []
        bucket = ((rows["key"].to_numpy() >> np.uint64(32)) * np.uint64(self.buckets)) >> np.uint64(32)
        order = np.argsort(bucket, kind="stable")
        rows = rows.take(pa.array(order))
        if self._writer is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            options = pa.ipc.IpcWriteOptions(compression="lz4")
            self._writer = pa.ipc.new_file(str(self.path), rows.schema, options=options)
        numbers, starts = np.unique(bucket[order], return_index=True)
        for number, start, end in zip(numbers, starts, [*starts[1:], len(rows)], strict=True):
            for part in rows.slice(start, end - start).to_batches():
                self._writer.write_batch(part)
                self._parts[int(number)].append(self._written)
                self._written += 1

    def finish(self) -> list[int]:
        """End writing; returns the numbers of the buckets that hold rows, in the order of keys."""
        if any(part.num_rows for part in self._waiting):
            self._spill()
        if self._writer is not None:
            self._writer.close()
            self._reader = pa.ipc.open_file(pa.OSFile(str(self.path)))
        return sorted(self._parts)

    def bucket(self, number: int) -> pa.Table:
        """The rows of a bucket in the order of their keys, which are in the last column, "key"."""
        assert self._reader is not None  # finish() comes first
        table = pa.Table.from_batches([self._reader.get_batch(i) for i in self._parts[number]]).combine_chunks()
        order = np.argsort(table.column("key").to_numpy(), kind="stable")
        return table.take(pa.array(order))

    @property
    def size(self) -> int:
        """Bytes of the spill file; fast compression, so about twice what the rows take in a release."""
        return self.path.stat().st_size if self._parts else 0

    def remove(self) -> None:
        """Delete the spill file."""
        self._reader = None
        self.path.unlink(missing_ok=True)
