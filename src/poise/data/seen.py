"""What validation remembers across batches: rows that came before, labels of responses, what judgements are about."""

from __future__ import annotations

import hashlib
from bisect import bisect_right

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from poise.data.columns import RESPONSES, hash_column, prompt_column
from poise.data.keys import Keys, hash_keys, response_keys
from poise.data.rules import Mask, View

_UNKNOWN = -1


class RowBook:
    """The rows of one unit so far, by 128-bit keys.

    The chance that two of ten million different rows meet is 10^-25.
    """

    def __init__(self) -> None:
        self._seen: set[int] = set()

    def repeats(self, view: View, asked: Mask) -> Mask:
        """Which of the rows asked came before, shape (N,).

        Only rows asked are remembered, so that of a broken row and a good copy the good one stays.
        """
        repeated = view.nothing.copy()
        rows = np.flatnonzero(asked)
        chosen = view if len(rows) == len(asked) else View(view.unit, view.batch.take(pa.array(rows)), view.strict)
        for row, text in zip(rows.tolist(), _identities(chosen), strict=True):
            key = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest())
            repeated[row] = key in self._seen
            self._seen.add(key)
        return repeated


def _identities(view: View) -> list[str]:
    """What makes each row the row it is. A response's hash alone does not tell where the prompt ends."""
    if view.unit == "judgements":
        columns = [view.column(name).to_pylist() for name in ("item", "question", "rater", "round")]
        return ["\x1f".join(map(str, row)) for row in zip(*columns, strict=True)]
    if not RESPONSES[view.unit]:
        columns = [view.column(name).to_pylist() for name in ("image", "turns", "prompt")]
        return ["\x1f".join(map(str, row)) for row in zip(*columns, strict=True)]
    lengths = pc.binary_length(view.column(prompt_column(view.unit) or "")).to_pylist()
    sides = zip(*(view.hashes[response] for response in RESPONSES[view.unit]), strict=True)
    pair = view.unit != "corrections"
    return [f"{length} {' '.join(sorted(row) if pair else row)}" for length, row in zip(lengths, sides, strict=True)]


class LabelBook:
    """The safe flag and severity of every labelled response, to find those that have two; 18 bytes a response.

    A label that contradicts itself is left to its own rule.
    """

    def __init__(self) -> None:
        self._keys: list[Keys] = []
        self._facts: list[NDArray[np.int8]] = []
        self._rows: list[NDArray[np.int64]] = []
        self._starts: list[int] = []
        self._names: list[tuple[str, int]] = []
        self._count = 0

    def add(self, view: View, name: str, before: int) -> None:
        """Note the labels of a batch; `before` rows of `name` came before it."""
        if not view.labels:
            return
        for response, label in zip(RESPONSES[view.unit], view.labels, strict=True):
            known = np.flatnonzero((label.safe_known | label.severity_known) & ~label.torn)
            safe = np.where(label.safe_known, label.safe, _UNKNOWN)
            severity = np.where(label.severity_known, label.severity, _UNKNOWN)
            self._keys.append(hash_keys(view.column(hash_column(view.unit, response)))[known])
            self._facts.append(np.stack([safe, severity])[:, known].astype(np.int8))
            self._rows.append(known + self._count)
        self._starts.append(self._count)
        self._names.append((name, before))
        self._count += len(view.nothing)

    def conflicts(self, limit: int) -> tuple[int, list[str]]:
        """(rows with a response of which another row said otherwise before, places of the first ones)."""
        if not self._keys:
            return 0, []
        keys, rows = np.concatenate(self._keys), np.concatenate(self._rows)
        wrong: Mask = np.zeros(len(keys), dtype=np.bool_)
        for fact in np.concatenate(self._facts, axis=1):
            told = np.flatnonzero((fact != _UNKNOWN) & (keys != 0))
            if len(told):
                wrong[told] |= _differs_from_first(keys[told], fact[told])
        found = np.unique(rows[wrong])
        return len(found), [self._place(int(row)) for row in found[:limit]]

    def _place(self, row: int) -> str:
        part = bisect_right(self._starts, row) - 1
        name, before = self._names[part]
        return f"{name}/{before + row - self._starts[part]}"


class TargetBook:
    """The responses that stand in the data and the judgements about others; 8 bytes a response, 16 a judgement.

    A judgement that names no response (about a prompt, or a foreign item) breaks nothing.
    """

    def __init__(self) -> None:
        self._there: list[Keys] = []
        self._named: list[tuple[Keys, Keys, str, int]] = []

    def add(self, view: View, name: str, before: int) -> None:
        """Note a batch; `before` rows of `name` came before it."""
        if view.unit != "judgements":
            self._there += response_keys(view.batch, view.unit)
            return
        first, second = (hash_keys(view.column(f"response_{i}_sha256")) for i in (0, 1))
        self._named.append((first, second, name, before))

    def missing(self, limit: int) -> tuple[int, list[str]]:
        """(judgements about a response that is not there, places of the first ones)."""
        if not self._named:
            return 0, []
        there = np.unique(np.concatenate([np.zeros(1, dtype=np.uint64), *self._there]))
        count, places = 0, list[str]()
        for first, second, name, before in self._named:
            rows = np.flatnonzero(~(np.isin(first, there) & np.isin(second, there)))
            count += len(rows)
            places += [f"{name}/{before + row}" for row in rows[: limit - len(places)].tolist()]
        return count, places


def _differs_from_first(keys: Keys, values: NDArray[np.int8]) -> Mask:
    """Which values are not the first one of their key."""
    order = np.argsort(keys, kind="stable")
    starts = np.concatenate([[True], keys[order][1:] != keys[order][:-1]])
    first = values[order][np.flatnonzero(starts)][np.cumsum(starts) - 1]
    different: Mask = np.zeros(len(keys), dtype=np.bool_)
    different[order] = values[order] != first
    return different
