"""The same two responses in two tables: dual pairs found again among single preferences, in either order.

A pair is known by the hashes of its responses, which are over prompt and response, so the prompt is compared too. A
row without hashes, or with twice the same response, cannot be told apart and is never matched.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from poise.data.audit.labels import Bools, Ints
from poise.data.keys import Keys


class DualBook:
    """Dual pairs by an unordered 64-bit key of their responses; 11 bytes a pair."""

    def __init__(self) -> None:
        self._keys: list[Keys] = []
        self._votes: list[NDArray[np.int8]] = []
        self._sorted = False

    def add(self, keys: list[Keys], votes: list[Ints]) -> None:
        """Remember votes (0, 1, or 2 for none) of N pairs, as if the response with the smaller key came first."""
        pair, turned, known = _pair_keys(keys)
        turned_votes = np.stack([turn(vote, turned) for vote in votes], axis=1).astype(np.int8)
        self._keys.append(pair[known])
        self._votes.append(turned_votes[known])
        self._sorted = False

    def repeats(self) -> tuple[int, int]:
        """(pairs whose two responses were there before, pairs with hashes)."""
        self._sort()
        pairs = len(self._keys[0]) if self._keys else 0
        return pairs - (len(np.unique(self._keys[0])) if pairs else 0), pairs

    def find(self, keys: list[Keys], choice: Ints) -> Ints:
        """(votes of the dual pair, choice) of the M rows whose pair is known, shape (M, votes + 1).

        Of a dual pair that is there twice, the row with the smaller votes stands, whatever the order of the files.
        """
        self._sort()
        if not self._keys or not len(self._keys[0]):
            return np.empty((0, 4), dtype=np.int64)
        pair, turned, known = _pair_keys(keys)
        every = self._keys[0]
        place = np.minimum(np.searchsorted(every, pair), len(every) - 1)
        hit = known & (every[place] == pair)
        votes, turned_choice = self._votes[0][place[hit]].astype(np.int64), turn(choice, turned)[hit]
        return np.concatenate([votes, turned_choice[:, None]], axis=1)

    def _sort(self) -> None:
        if self._keys and not self._sorted:
            keys, votes = np.concatenate(self._keys), np.concatenate(self._votes)
            order = np.lexsort((*votes.T[::-1], keys))
            self._keys, self._votes = [keys[order]], [votes[order]]
            self._sorted = True


def turn(vote: Ints, turned: Bools) -> Ints:
    """The vote as it reads when the two responses change places where `turned`; 2 (no vote) stays."""
    return np.where(turned & (vote < 2), 1 - vote, vote)


def _pair_keys(keys: list[Keys]) -> tuple[Keys, Bools, Bools]:
    """(key of the pair in either order, is the larger hash first, can it be told apart), each (N,)."""
    small, large = np.minimum(*keys), np.maximum(*keys)
    return small * np.uint64(0x9E3779B97F4A7C15) + large, keys[0] > keys[1], (small != 0) & (small != large)
