"""MinHash of short texts: 5-gram hashes, signatures from one of two back ends, and the keys of bands.

A text becomes the set of its character 5-grams after case folding and joining of blanks. Characters rather than words,
because they also work for scripts without blanks and forgive a typo or an ending. The signature of a set holds, for
each of 130 permutations, `min over h of ((a h + b) mod 2^64) >> 32`; a and b come from xoshiro256++, seeded through
splitmix64. That is what rensa 0.4 computes from 64-bit hashes, so both back ends give the same bits, and a probe checks
it before rensa is trusted. The low byte of each value, the sketch, is what is kept: two texts of Jaccard similarity J
agree in a byte with chance J + (1 - J) / 256.

Left out: weighted sets, and schemes that pass over the hashes only once (their values are not independent).

Source: Broder 1997 (MinHash); Li and König 2010 (b-bit MinHash); Leskovec, Rajaraman, Ullman, "Mining of Massive
Datasets", chapter 3 (banding); Blackman and Vigna 2021 (xoshiro256++).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from importlib import import_module
from itertools import islice, pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from poise.errors import PoiseError

IntArray = NDArray[np.int64]
HashArray = NDArray[np.uint64]
Sketches = NDArray[np.uint8]
Backend = Literal["auto", "rensa", "numpy"]

PERMUTATIONS = 130  # at similarity 0.7 that makes 26 bands of 5, which miss one pair in a hundred
GRAM = 5  # characters in a shingle
BLOCK = 1 << 16  # characters worked on at a time: their hashes stay in a core's cache

_SEED = 42
_RECALL = 0.99  # least chance that a pair exactly at the threshold agrees in a band
_WORD = (1 << 64) - 1
_WANTED = 'pip install "rensa>=0.4,<0.5", or choose the back end "numpy", which gives the same clusters'


def normal(text: str) -> str:
    """The text in folded case, each run of blanks one space, none at the ends."""
    return " ".join(text.casefold().split())


def blocks(batches: Iterable[Sequence[str]]) -> Iterator[list[str]]:
    """The texts of all batches in order, about 65 thousand characters at a time.

    Raises:
        PoiseError: a text is null.
    """
    block: list[str] = []
    size = count = 0
    for batch in batches:
        for text in batch.to_pylist() if hasattr(batch, "to_pylist") else batch:
            if text is None:
                raise PoiseError("a text is null", where=f"text {count}", do="leave out rows without text")
            block.append(text)
            count += 1
            size += len(text) + 16  # so that a block of empty texts ends as well
            if size >= BLOCK:
                yield block
                block, size = [], 0
    if block:
        yield block


def shingles(texts: Sequence[str]) -> tuple[HashArray, IntArray]:
    """64-bit hashes of all character 5-grams, text after text.

    Each text has at least one 5-gram: a shorter one is filled up with NUL. Repeats within a text stay in.

    Args:
        texts: N normal texts.

    Returns:
        Hashes, shape (S,), and where each text starts, shape (N + 1,).
    """
    padded = [text.ljust(GRAM, "\0") for text in texts]
    codes = np.frombuffer("".join(padded).encode("utf-32-le", "surrogatepass"), dtype="<u4").astype(np.uint64)
    return windows(codes, np.array([len(text) for text in padded], dtype=np.int64), GRAM)


def shingle_sets(texts: Sequence[str]) -> list[HashArray]:
    """The 5-gram hashes of each normal text, sorted, none twice."""
    sets = []
    for block in blocks([texts]):
        hashes, starts = shingles(block)
        for start, end in pairwise(starts.tolist()):
            part = np.sort(hashes[start:end])
            sets.append(part[np.concatenate([[True], part[1:] != part[:-1]])])
    return sets


def shared_count(set_a: HashArray, set_b: HashArray) -> int:
    """How many hashes two sorted sets have in common."""
    both = np.concatenate([set_a, set_b])
    both.sort()
    return int(np.count_nonzero(both[1:] == both[:-1]))


def windows(codes: HashArray, lengths: IntArray, width: int) -> tuple[HashArray, IntArray]:
    """Hashes of all runs of `width` codes that lie within one text.

    Args:
        codes: codes of all texts in a row, shape (C,).
        lengths: codes of each text, shape (N,); a text shorter than the width has no run.
        width: codes in a run.

    Returns:
        Hashes, shape (S,), and where the hashes of each text start, shape (N + 1,).
    """
    starts = np.concatenate([[0], np.cumsum(np.maximum(lengths - width + 1, 0))])
    size = max(len(codes) - width + 1, 0)
    hashes = codes[:size].copy()
    for offset in range(1, width):
        hashes *= np.uint64(0x100000001B3)
        hashes += codes[offset : size + offset]
    inside = np.ones(size + width, dtype=bool)  # room for ends near the front, where the index below turns negative
    ends = np.cumsum(lengths)
    for back in range(1, width):  # runs that reach over the end of their text
        inside[ends - back] = False
    return mix(hashes[inside[:size]]), starts


def signatures(hashes: HashArray, starts: IntArray, backend: Backend = "auto") -> NDArray[np.uint32]:
    """MinHash signatures, uint32, shape (N, 130), the same from both back ends.

    Args:
        hashes: 64-bit hashes of all texts, shape (S,).
        starts: where each text starts, shape (N + 1,); no text is empty.
        backend: "rensa", "numpy", or "auto", which is rensa where it is installed and passes the probe.

    Raises:
        PoiseError: rensa was asked for and is missing, or computes other signatures.
    """
    if len(starts) == 1:
        return np.empty((0, PERMUTATIONS), dtype=np.uint32)
    return _by_rensa(hashes, starts) if choose(backend) == "rensa" else _by_numpy(hashes, starts)


def sketches(texts: Sequence[str], backend: Backend = "auto") -> Sketches:
    """Low bytes of the signatures of N normal texts: uint8, shape (N, 130)."""
    return signatures(*shingles(texts), backend).astype(np.uint8, order="C")


def band_keys(marks: Sketches, threshold: float) -> Iterator[HashArray]:
    """For each band a key of each text, shape (N,); texts that agree in the whole band have the same key.

    A band has as many rows as leave a pair exactly at the threshold a chance of 0.99 to agree in some band.

    Args:
        marks: sketches, shape (N, 130).
        threshold: Jaccard similarity, in (0, 1).
    """
    rows = rows_per_band(threshold)
    for band in range(PERMUTATIONS // rows):
        key = np.zeros(len(marks), dtype=np.uint64)
        for column in marks[:, band * rows : (band + 1) * rows].T:
            key = mix(key ^ column)
        yield key


def rows_per_band(threshold: float) -> int:
    """Most rows a band may have so that a pair at the threshold still agrees in a band with chance 0.99."""
    fits = [r for r in range(1, 33) if 1 - (1 - threshold**r) ** (PERMUTATIONS // r) >= _RECALL]
    return max(fits, default=1)


def agreements(marks_a: Sketches, marks_b: Sketches) -> IntArray:
    """In how many of the 130 bytes sketches agree, row by row: shape (P,)."""
    same = (marks_a == marks_b).view(np.uint8)
    counts: IntArray = same.sum(axis=1, dtype=np.uint8).astype(np.int64)
    return counts


@cache
def choose(backend: Backend) -> Literal["rensa", "numpy"]:
    """The back end that will run; "auto" says once when the installed rensa cannot be used.

    Raises:
        PoiseError: rensa was asked for and is missing, or computes other signatures.
    """
    if backend == "numpy":
        return "numpy"
    try:
        import_module("rensa")
    except ImportError as error:
        if backend == "auto":
            return "numpy"
        raise PoiseError("rensa is not installed", do=_WANTED, exit_code=3) from error
    if _rensa_agrees():
        return "rensa"
    if backend == "rensa":
        raise PoiseError("the installed rensa computes other signatures than Poise", do=_WANTED, exit_code=3)
    warnings.warn(f"the installed rensa computes other signatures, NumPy is used instead ({_WANTED})", stacklevel=2)
    return "numpy"


def _rensa_agrees() -> bool:
    """Whether rensa gives our bits for a fixed probe; another version may lack the function or refuse the call."""
    hashes, starts = shingles(["a probe of the back end", "naïve 東京", ""])
    try:
        return np.array_equal(_by_rensa(hashes, starts), _by_numpy(hashes, starts))
    except (AttributeError, TypeError, ValueError):
        return False


def _by_rensa(hashes: HashArray, starts: IntArray) -> NDArray[np.uint32]:
    build = import_module("rensa").RMinHash.digest_matrix_from_flat_token_hashes
    return np.array(build(hashes, starts.astype(np.uint64), PERMUTATIONS, _SEED).to_rows(), dtype=np.uint32)


def _by_numpy(hashes: HashArray, starts: IntArray) -> NDArray[np.uint32]:
    result = np.empty((PERMUTATIONS, len(starts) - 1), dtype=np.uint32)
    permuted = np.empty_like(hashes)
    for k, (a, b) in enumerate(_coefficients()):
        np.multiply(hashes, a, out=permuted)
        np.add(permuted, b, out=permuted)
        result[k] = np.minimum.reduceat(permuted, starts[:-1]) >> np.uint64(32)
    return result.T


@cache
def _coefficients() -> list[tuple[np.uint64, np.uint64]]:
    """The factor (odd) and the summand of each permutation."""
    draw = _xoshiro(_SEED)
    return [(np.uint64(next(draw) | 1), np.uint64(next(draw))) for _ in range(PERMUTATIONS)]


def _xoshiro(seed: int) -> Iterator[int]:
    """64-bit numbers of xoshiro256++, its state filled by splitmix64."""
    s = list(islice(_splitmix(seed), 4))
    while True:
        yield (_rotated((s[0] + s[3]) & _WORD, 23) + s[0]) & _WORD
        shifted = (s[1] << 17) & _WORD
        s[2] ^= s[0]
        s[3] ^= s[1]
        s[1] ^= s[2]
        s[0] ^= s[3]
        s[2] ^= shifted
        s[3] = _rotated(s[3], 45)


def _splitmix(state: int) -> Iterator[int]:
    while True:
        state = (state + 0x9E3779B97F4A7C15) & _WORD
        z = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _WORD
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _WORD
        yield z ^ (z >> 31)


def _rotated(word: int, by: int) -> int:
    return ((word << by) | (word >> (64 - by))) & _WORD


def mix(value: HashArray) -> HashArray:
    """The splitmix64 finaliser: spreads every input bit over all output bits (arithmetic modulo 2^64)."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))
