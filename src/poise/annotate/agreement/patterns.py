"""Items that were judged alike are one pattern with a weight, so that a bootstrap never touches rows.

Chance-corrected agreement among any number of raters needs of an item only how often each value was given. A scale of
few values has few such count vectors, however many items there are. Drawing I items with replacement is drawing how
often each pattern occurs from a multinomial distribution.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

_SMALL_KEYS = 1 << 20
_BLOCK = 4_000_000
"""Numbers held at a time in a bootstrap."""


@dataclass(frozen=True)
class Patterns:
    """P distinct count vectors over K values.

    Args:
        counts: [P, K].
        weights: [P] how many items have them.
    """

    counts: Ints
    weights: Ints

    @property
    def items(self) -> int:
        """Items with a value."""
        return int(self.weights.sum())

    @property
    def pairable_items(self) -> int:
        """Items with two values or more."""
        return int(self.weights[self.counts.sum(1) > 1].sum())

    @property
    def pairable_values(self) -> int:
        """Values on such items."""
        size = self.counts.sum(1)
        return int((self.weights * size)[size > 1].sum())

    def resamples(self, replicates: int, seed: int) -> Iterator[Floats]:
        """Blocks of [b, P] weights of resampled items, `replicates` rows in all."""
        yield from multinomial_blocks(self.weights, replicates, seed)


def patterns_of(counts: Ints) -> Patterns:
    """The patterns of [I, K] counts, without items that have no value."""
    size, base = counts.shape[1], int(counts.max(initial=0)) + 1
    if size * np.log2(max(base, 2)) < 62:
        keys = counts @ (base ** np.arange(size, dtype=np.int64))
        first, _, weights = distinct(keys)
        judged = keys[first] > 0
        return Patterns(counts[first[judged]], weights[judged])
    counts = counts[counts.sum(1) > 0]
    found, weights = np.unique(counts, axis=0, return_counts=True)
    return Patterns(found, weights.astype(np.int64))


def distinct(keys: npt.NDArray[Any]) -> tuple[Ints, Ints, Ints]:
    """As `np.unique`: where each distinct key stands first, which one each is, how many of each; small keys faster."""
    if not len(keys) or int(keys.max()) >= _SMALL_KEYS or int(keys.min()) < 0:
        _, first, inverse, many = np.unique(keys, return_index=True, return_inverse=True, return_counts=True)
        return first, inverse, many.astype(np.int64)
    small = keys.astype(np.int64)
    counted = np.bincount(small)
    there = np.flatnonzero(counted)
    rank, first = np.zeros(len(counted), np.int64), np.zeros(len(counted), np.int64)
    rank[there] = np.arange(len(there))
    first[small[::-1]] = np.arange(len(small))[::-1]  # the last to be written is the first that stands there
    return first[there], rank[small], counted[there].astype(np.int64)


def multinomial_blocks(weights: Ints, replicates: int, seed: int) -> Iterator[Floats]:
    """Blocks of [b, P] resampled weights; the same seed gives the same rows."""
    rng = np.random.default_rng(seed)
    total = int(weights.sum())
    block = max(1, _BLOCK // max(len(weights), 1))
    for start in range(0, replicates if total else 0, block):
        size = min(block, replicates - start)
        yield rng.multinomial(total, weights / total, size=size).astype(float)
