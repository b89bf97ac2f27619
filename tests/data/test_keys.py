"""What rows are known by."""

from __future__ import annotations

import hashlib

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from poise.data.columns import TABLES
from poise.data.keys import KeyMap, conversations, hash_keys
from poise.data.records import QARecord, Turn


def test_a_key_is_the_first_eight_bytes_of_the_hash() -> None:
    digest = hashlib.sha256(b"x").hexdigest()
    keys = hash_keys(pa.array([digest, None, "no hash", digest.upper()]))
    assert keys.tolist() == [int(digest[:16], 16), 0, 0, 0]
    assert hash_keys(pa.array([], type=pa.string())).shape == (0,)


def test_a_conversation_is_its_turns_and_the_prompt() -> None:
    turn = Turn(role="user", content="first")
    rows = [
        QARecord(prompt="second", response="r", turns=(turn,)).columns(),
        QARecord(prompt="alone", response="r").columns(),
    ]
    batch = pa.RecordBatch.from_pylist(rows, schema=TABLES["qa"])
    assert conversations(batch, "qa") == ["first\nsecond", "alone"]
    assert conversations(batch.slice(1), "qa") == ["alone"]


@given(st.lists(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 1)), max_size=5), max_size=4))
def test_the_map_gives_the_largest_value_of_each_key(parts: list[list[tuple[int, int]]]) -> None:
    found, truth = KeyMap(), dict[int, int]()
    for part in parts:
        found.add(np.array([key for key, _ in part], dtype=np.uint64), [value for _, value in part])
        for key, value in part:
            truth[key] = max(value, truth.get(key, 0))
        wanted = np.arange(11, dtype=np.uint64)
        assert found.find(wanted, missing=-1).tolist() == [truth.get(key, -1) for key in range(11)]
