"""Counting integers in NumPy: values and how often each was seen, merged now and then."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]

_MERGE_AT = 1 << 20


class Tally:
    """How often each integer was added; 16 bytes for each different one."""

    def __init__(self) -> None:
        self._values: list[Ints] = []
        self._counts: list[Ints] = []
        self._waiting = 0

    def add(self, values: Ints) -> None:
        """Count integers of shape (N,)."""
        found, counts = np.unique(values, return_counts=True)
        self._values.append(found)
        self._counts.append(counts)
        self._waiting += len(found)
        if self._waiting > _MERGE_AT:
            self._merge()
            self._waiting = 0

    def found(self) -> tuple[Ints, Ints]:
        """(values, counts), both (M,), by value."""
        self._merge()
        return (self._values[0], self._counts[0]) if self._values else (_nothing(), _nothing())

    def _merge(self) -> None:
        if len(self._values) > 1:
            values, place = np.unique(np.concatenate(self._values), return_inverse=True)
            counts = np.zeros(len(values), dtype=np.int64)
            np.add.at(counts, place, np.concatenate(self._counts))
            self._values, self._counts = [values], [counts]


def _nothing() -> Ints:
    return np.empty(0, dtype=np.int64)
