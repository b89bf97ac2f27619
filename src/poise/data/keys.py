"""What rows of tables are known by, a batch at a time: the conversation of a prompt, 64-bit keys of hashes.

A key is the first 8 bytes of a SHA-256: at ten million rows two of them are equal by chance once in 300,000 data sets,
and a column of them is 25 times smaller than the texts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from poise.data.columns import RESPONSES, hash_column, prompt_column
from poise.data.tables import Tables

Keys = NDArray[np.uint64]


def conversations(batch: pa.RecordBatch, unit: str) -> list[str]:
    """What the user asked in each row: the prompt, after the contents of the turns before it where there are any."""
    prompts: list[str] = batch.column(prompt_column(unit) or "").to_pylist()
    turns = batch.column("turns")
    if turns.null_count == len(turns):
        return prompts
    before = turns.to_pylist()
    return [
        "\n".join([*(turn["content"] for turn in said or ()), prompt])
        for said, prompt in zip(before, prompts, strict=True)
    ]


def conversation_columns(unit: str) -> list[str]:
    """The columns that `conversations` reads."""
    return [prompt_column(unit) or "", "turns"]


def distinct_conversations(tables: Tables) -> list[str]:
    """Each different conversation of the data set once, in order of first appearance."""
    found: dict[str, None] = {}
    for unit, table in tables.items():
        if prompt_column(unit):
            for batch in table.batches(conversation_columns(unit)):
                found.update(dict.fromkeys(conversations(batch, unit)))
    return list(found)


def hash_keys(hashes: pa.Array) -> Keys:
    """64-bit keys of hexadecimal SHA-256 hashes, shape (N,); null and malformed hashes give 0."""
    good = pc.fill_null(pc.match_substring_regex(hashes, "^[0-9a-f]{64}$"), False)
    texts = pc.if_else(good, hashes, "0" * 64)
    digits = "".join(pc.utf8_slice_codeunits(texts, 0, 16).to_pylist())
    return np.frombuffer(bytes.fromhex(digits), dtype=">u8").astype(np.uint64)


def response_keys(batch: pa.RecordBatch, unit: str) -> list[Keys]:
    """Keys of each response column of a unit (judgements: of the first response judged)."""
    if unit == "judgements":
        return [hash_keys(batch.column("response_0_sha256"))]
    return [hash_keys(batch.column(hash_column(unit, response))) for response in RESPONSES[unit]]


class KeyMap:
    """Key -> small integer, built in parts and looked up by binary search; 9 bytes a key."""

    def __init__(self) -> None:
        self._parts: list[tuple[Keys, NDArray[np.int8]]] = []
        self._keys: Keys = np.empty(0, dtype=np.uint64)
        self._values: NDArray[np.int8] = np.empty(0, dtype=np.int8)

    def add(self, keys: Keys, values: Sequence[int] | NDArray[np.int8]) -> None:
        """Remember values; of one key the largest value stands."""
        self._parts.append((keys, np.asarray(values, dtype=np.int8)))

    def find(self, wanted: Keys, missing: int) -> NDArray[np.int8]:
        """The value of each key, `missing` where there is none."""
        if self._parts:
            known = [(self._keys, self._values), *self._parts]
            keys, values = (np.concatenate(part) for part in zip(*known, strict=True))
            order = np.lexsort((-values, keys))
            self._keys, where = np.unique(keys[order], return_index=True)
            self._values = values[order][where]
            self._parts = []
        if not len(self._keys):
            return np.full(len(wanted), missing, dtype=np.int8)
        place = np.minimum(np.searchsorted(self._keys, wanted), len(self._keys) - 1)
        return np.where(self._keys[place] == wanted, self._values[place], np.int8(missing))


def text_column(values: Iterable[str | None]) -> pa.Array:
    """A column of texts."""
    return pa.array(values, type=pa.string())
