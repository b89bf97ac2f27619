"""Rows come back in the order of their keys, whatever the batches and buckets."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from poise.data.shuffle import MAX_BUCKETS, Shuffle, bucket_count, row_keys

KEYS = st.lists(st.integers(0, 2**64 - 1) | st.sampled_from([0, 1, 2**63, 2**64 - 1]), max_size=40)


@settings(max_examples=40)
@given(KEYS, st.integers(1, 9), st.integers(1, 7))
def test_rows_come_back_sorted_and_equal_keys_keep_their_order(keys: list[int], buckets: int, size: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        shuffle = Shuffle(Path(folder) / "deep" / "spill.arrow", buckets)
        for start in range(0, len(keys), size):
            part = keys[start : start + size]
            rows = pa.RecordBatch.from_pydict({"row": list(range(start, start + len(part)))})
            shuffle.add(rows, np.array(part, dtype=np.uint64))
        found = [row for number in shuffle.finish() for row in shuffle.bucket(number)["row"].to_pylist()]
        assert shuffle.rows == len(keys) and (shuffle.size > 0) == bool(keys)
        shuffle.remove()
        assert not shuffle.path.exists()
    assert found == sorted(range(len(keys)), key=lambda row: keys[row])


def test_a_key_depends_on_salt_and_values_and_null_is_empty() -> None:
    turns = pa.array([[{"role": "user", "content": "hi"}], [], None, None])
    batch = pa.RecordBatch.from_arrays(
        [pa.array(["a", "a", "a", None]), turns, pa.array([1, 1, 1, 1])], names=["text", "turns", "number"]
    )
    keys = row_keys(batch, ["text", "turns", "number"], "salt").tolist()
    assert keys[1] == keys[2] and len(set(keys)) == 3
    assert row_keys(batch, ["text", "turns", "number"], "pepper").tolist()[0] != keys[0]

    assert row_keys(batch, ["text"], "salt")[0] == int(hashlib.sha256(b"salt\x1fa").hexdigest()[:16], 16)


def test_buckets_grow_with_rows_and_bytes() -> None:
    assert bucket_count(10, 10) == 1
    assert bucket_count(100_000, 0) == 6 and bucket_count(10, 80_000_000) == 10
    assert bucket_count(10**9, 10**12) == MAX_BUCKETS
