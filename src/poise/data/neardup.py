"""Near-duplicates among short texts: MinHash with banding for candidates, exact Jaccard to decide.

A text becomes its set of character 5-grams after case folding and joining of blanks. Characters rather than words,
because they also work for scripts without blanks and forgive a typo or an ending. At the default threshold 0.7 two
prompts of a dozen words that differ in one word are near-duplicates; two prompts on one subject are not.
Two texts in one cluster may be less alike than the threshold: clusters are chains (connected components).

Source: Broder 1997 (MinHash); Leskovec, Rajaraman, Ullman, "Mining of Massive Datasets", chapter 3 (banding).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]
HashArray = NDArray[np.uint64]

NEAR = 0.7
"""Jaccard similarity from which two texts count as near-duplicates, wherever the project compares prompts."""

_GRAM = 5  # characters in a shingle
_PERMUTATIONS = 128
_RECALL = 0.99  # least chance that a pair exactly at the threshold becomes a candidate
_CHUNK = 1 << 20  # characters hashed at a time, bounds memory


def clusters(texts: Sequence[str], threshold: float = NEAR) -> IntArray:
    """Cluster id of each text: the smallest index of its cluster.

    Whether two texts are linked depends on these two alone, so a subset of texts never forms a larger cluster.

    Args:
        texts: N texts.
        threshold: Jaccard similarity of character 5-grams, in (0, 1]; 1 means equal but for case and blanks.

    Returns:
        int64, shape (N,).
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold {threshold} is outside (0, 1]")
    normal = [_normal(text) for text in texts]
    first: dict[str, int] = {}
    parent = [first.setdefault(text, index) for index, text in enumerate(normal)]
    distinct = list(first.values())
    if threshold < 1 and len(distinct) > 1:
        shingles, starts = _shingles([normal[index] for index in distinct])
        signatures = _signatures(shingles, starts)
        _link(parent, distinct, shingles, starts, signatures, threshold)
    return np.array([_root(parent, index) for index in range(len(texts))], dtype=np.int64)


def drop_near_duplicates(new: Sequence[str], existing: Sequence[str] = (), threshold: float = NEAR) -> BoolArray:
    """Which new texts to keep: bool, shape (len(new),); False where an earlier text is in its cluster."""
    ids = clusters([*existing, *new], threshold)
    keep: BoolArray = ids[len(existing) :] == np.arange(len(existing), len(ids))
    return keep


def jaccard(text_a: str, text_b: str) -> float:
    """Jaccard similarity of the character 5-gram sets of two texts, 0..1."""
    shingles, starts = _shingles([_normal(text_a), _normal(text_b)])
    a, b = (frozenset(part.tolist()) for part in np.split(shingles, starts[1:-1]))
    return len(a & b) / len(a | b)


def _normal(text: str) -> str:
    return re.sub(r"\s+", " ", text.casefold()).strip()


def _mix(value: HashArray) -> HashArray:
    """The splitmix64 finaliser: spreads every input bit over all output bits (arithmetic modulo 2^64)."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


def _shingles(texts: Sequence[str]) -> tuple[HashArray, IntArray]:
    """64-bit hashes of all 5-grams, text after text, shape (S,), and where each text starts, shape (N + 1,).

    Each text has at least one 5-gram: a shorter one is filled up with NUL. Repeats within a text stay in.
    """
    padded = [text.ljust(_GRAM, "\0") for text in texts]
    lengths = np.array([len(text) for text in padded], dtype=np.int64)
    starts = np.concatenate([[0], np.cumsum(lengths - _GRAM + 1)])
    codes = np.frombuffer("".join(padded).encode("utf-32-le", "surrogatepass"), dtype="<u4").astype(np.uint64)
    hashes = np.zeros(max(len(codes) - _GRAM + 1, 0), dtype=np.uint64)
    for offset in range(_GRAM):
        hashes = hashes * np.uint64(0x100000001B3) + codes[offset : len(codes) - _GRAM + 1 + offset]
    ends = np.cumsum(lengths)
    inside = np.ones(len(hashes), dtype=bool)
    for back in range(1, _GRAM):  # windows that run over the end of their text
        inside[ends[:-1] - back] = False
    return _mix(hashes[inside]), starts


def _signatures(shingles: HashArray, starts: IntArray) -> HashArray:
    """MinHash signatures, shape (N, 128)."""
    keys = _mix(np.arange(1, 2 * _PERMUTATIONS + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15))
    result = np.empty((len(starts) - 1, _PERMUTATIONS), dtype=np.uint64)
    first = 0
    while first < len(starts) - 1:
        last = max(first + 1, int(np.searchsorted(starts, starts[first] + _CHUNK, side="right")) - 1)
        part = shingles[starts[first] : starts[last]]
        for k in range(_PERMUTATIONS):
            permuted = (part ^ keys[2 * k]) * (keys[2 * k + 1] | np.uint64(1))
            result[first:last, k] = np.minimum.reduceat(permuted, starts[first:last] - starts[first])
        first = last
    return result


def _rows_per_band(threshold: float) -> int:
    """Most rows a band may have so that a pair at the threshold still becomes a candidate with chance >= 0.99."""
    fits = [r for r in range(1, 33) if 1 - (1 - threshold**r) ** (_PERMUTATIONS // r) >= _RECALL]
    return max(fits, default=1)


def _groups(signatures: HashArray, rows: int) -> Iterator[list[int]]:
    """Groups of two or more texts that agree in a whole band."""
    for band in range(_PERMUTATIONS // rows):
        key = np.zeros(len(signatures), dtype=np.uint64)
        for column in signatures[:, band * rows : (band + 1) * rows].T:
            key = _mix(key ^ column)
        order = np.argsort(key, kind="stable")
        edges = np.flatnonzero(np.diff(key[order])) + 1
        sizes = np.diff(np.concatenate([[0], edges, [len(order)]]))
        for group in np.flatnonzero(sizes > 1):
            start = int(edges[group - 1]) if group else 0
            yield order[start : start + int(sizes[group])].tolist()


def _link(
    parent: list[int],
    distinct: list[int],
    shingles: HashArray,
    starts: IntArray,
    signatures: HashArray,
    threshold: float,
) -> None:
    """Join in `parent` all candidate pairs whose exact similarity reaches the threshold."""
    sets: dict[int, frozenset[int]] = {}

    def shingle_set(i: int) -> frozenset[int]:
        if i not in sets:
            sets[i] = frozenset(shingles[starts[i] : starts[i + 1]].tolist())
        return sets[i]

    fingerprints = signatures.astype(np.uint8)  # enough to estimate similarity, and eight times faster to compare
    refused: set[tuple[int, int]] = set()
    for group in _groups(signatures, _rows_per_band(threshold)):
        apart = len({_root(parent, distinct[i]) for i in group})
        for i, j in _likely_pairs(fingerprints, group, threshold) if apart > 1 else ():
            root_i, root_j = _root(parent, distinct[i]), _root(parent, distinct[j])
            if root_i == root_j or (i, j) in refused:
                continue
            a, b = shingle_set(i), shingle_set(j)
            shared = len(a & b)
            if shared >= threshold * (len(a) + len(b) - shared):
                parent[max(root_i, root_j)] = min(root_i, root_j)
                apart -= 1
                if apart == 1:
                    break
            else:
                refused.add((i, j))


def _likely_pairs(fingerprints: NDArray[np.uint8], group: list[int], threshold: float) -> Iterator[tuple[int, int]]:
    """Pairs of a group whose signatures do not speak against the threshold (0.15 is over three standard errors)."""
    members = np.array(group)
    marks = fingerprints[members]
    for place, i in enumerate(group[:-1]):
        alike = np.count_nonzero(marks[place + 1 :] == marks[place], axis=1)
        for j in members[place + 1 :][alike >= (threshold - 0.15) * _PERMUTATIONS]:
            yield i, int(j)


def _root(parent: list[int], index: int) -> int:
    while parent[index] != index:
        parent[index] = parent[parent[index]]
        index = parent[index]
    return index
