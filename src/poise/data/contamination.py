"""Overlap of texts with named evaluation sets, from lists of hashes that hold none of their text.

A hash list is a Parquet file, a row an item of the evaluation set, sorted and without repeats:

    exact   a 16-byte hash of the normal text (case folded, blanks joined)
    sketch  the MinHash sketch of its character 5-grams, which finds near-duplicates by estimated similarity
    grams   64-bit hashes of its word 8-grams, which find the item inside a longer text

The hashes are keyed by a published constant only. They keep the text of a set out of a repository and out of a model's
training data; they are no secret. Whoever can guess a text (short, common, or from a small choice) can check the guess.

A word is a run of letters and digits; from U+2E80 on, where scripts do without blanks, each character is one. An item
of fewer than eight words has no 8-gram, so it is found exactly or nearly, not inside a longer text. An 8-gram that more
than 256 items share is the set's own boilerplate, says nothing about an item, and does not count.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from poise.data.minhash import (
    PERMUTATIONS,
    Backend,
    HashArray,
    IntArray,
    Sketches,
    agreements,
    band_keys,
    blocks,
    mix,
    normal,
    sketches,
    windows,
)
from poise.data.neardup import NEAR
from poise.errors import PoiseError

OVERLAP = 0.5
"""Share of an item's word 8-grams in a text from which the text counts as containing the item."""

_WORDS = 8  # words in a gram
_COMMON = 256  # items that may share a gram
_KEY = b"poise hash list 1"
_META = b"poise.hash_list"
_SINGLE = 0x2E80  # the code point from which each character is a word
_SALT = np.uint64(0x9E3779B97F4A7C15)
_PAIRS = 1 << 14  # sketches compared at a time
_ABOUT = {"version": 1, "words": _WORDS, "permutations": PERMUTATIONS, "hashes": _KEY.decode()}
_SCHEMA = pa.schema([("exact", pa.binary(16)), ("sketch", pa.binary(PERMUTATIONS)), ("grams", pa.list_(pa.uint64()))])

Kind = Literal["exact", "near", "overlap"]
Found = tuple[IntArray, IntArray, NDArray[np.float64]]
"""Pairs of a text and an item, and their scores: three arrays of shape (P,)."""
_KINDS: tuple[Kind, ...] = ("exact", "near", "overlap")


class HashList(NamedTuple):
    """The hashes of one evaluation set of M items: `exact` M digests, `sketch` (M, 130), `grams` one array an item."""

    name: str
    exact: list[bytes]
    sketch: Sketches
    grams: list[HashArray]


class Match(NamedTuple):
    """A text that an evaluation set holds as well, with the item that fits best.

    Args:
        text: place of the text in the stream.
        name: the evaluation set.
        kind: exact: equal but for case and blanks; near: similar; overlap: the item lies in the text.
        score: exact: 1; near: estimated Jaccard similarity; overlap: share of the item's word 8-grams in the text.
        item: the item's exact hash in hexadecimal digits.
    """

    text: int
    name: str
    kind: Kind
    score: float
    item: str


def write_hash_list(path: Path, name: str, texts: Sequence[str]) -> Path:
    """Write the hash list of an evaluation set; the order of its texts does not matter, empty ones are left out.

    Args:
        path: the Parquet file to write.
        name: what reports call the evaluation set.
        texts: its items.

    Returns:
        The path.

    Raises:
        PoiseError: no name, no text, a null among the texts, or the file cannot be written.
    """
    rows: dict[bytes, tuple[bytes, HashArray]] = {}
    for block in blocks([texts]):
        items = [text for text in map(normal, block) if text]
        grams, starts = _grams(items)
        for place, (text, mark) in enumerate(zip(items, sketches(items), strict=True)):
            rows[_digest(text)] = (mark.tobytes(), np.unique(grams[starts[place] : starts[place + 1]]))
    if not rows or not name.strip():
        lack = "a name" if rows else "texts"
        raise PoiseError(f"a hash list needs {lack}", where=str(path), do="give the set's name and its items")
    values, counts = np.unique(np.concatenate([grams for _, grams in rows.values()]), return_counts=True)
    common = values[counts > _COMMON]
    columns = [
        sorted(rows),
        [rows[digest][0] for digest in sorted(rows)],
        [np.setdiff1d(rows[digest][1], common) for digest in sorted(rows)],
    ]
    about = json.dumps({**_ABOUT, "name": name}, ensure_ascii=False, sort_keys=True)
    table = pa.table(columns, schema=_SCHEMA.with_metadata({_META: about}))
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        pq.write_table(table, temporary, compression="zstd")
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise PoiseError(f"cannot write: {error}", where=str(path), do="name a file in a folder with room") from None
    return path


def read_hash_list(path: Path) -> HashList:
    """Read a hash list.

    Raises:
        PoiseError: the file is missing, not a hash list, damaged, or of another version.
    """
    do = "write it with `poise data hashes`"
    try:
        table = pq.ParquetFile(path).read()
        about = json.loads((table.schema.metadata or {})[_META])
        name = about.pop("name")
    except FileNotFoundError:
        raise PoiseError("no such file", where=str(path), do=do) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise PoiseError(f"not a hash list ({type(error).__name__})", where=str(path), do=do) from None
    if about != _ABOUT:
        raise PoiseError(f"hash list made another way: {about}, not {_ABOUT}", where=str(path), do=do)
    if table.schema.remove_metadata() != _SCHEMA or not len(table) or not isinstance(name, str):
        raise PoiseError("hash list with other columns, without rows or without a name", where=str(path), do=do)
    grams = table["grams"].combine_chunks()
    if any(column.null_count for column in (*table.columns, grams.flatten())):
        raise PoiseError("hash list with nulls", where=str(path), do=do)
    ends = np.cumsum(grams.value_lengths().to_numpy())
    sketch = np.frombuffer(b"".join(table["sketch"].to_pylist()), dtype=np.uint8).reshape(-1, PERMUTATIONS)
    return HashList(name, table["exact"].to_pylist(), sketch, np.split(grams.flatten().to_numpy(), ends[:-1]))


def contamination(
    batches: Iterable[Sequence[str]],
    lists: Sequence[HashList],
    near: float = NEAR,
    overlap: float = OVERLAP,
    backend: Backend = "auto",
) -> Iterator[Match]:
    """The texts of a stream that evaluation sets hold as well.

    A text has at most one match in a list: the strongest kind (exact, near, overlap), then the best score. The
    similarity of a near match is an estimate with a standard error of 0.04.

    Args:
        batches: lists of texts or Arrow string arrays, read once.
        lists: hash lists of evaluation sets.
        near: estimated Jaccard similarity from which a text is near, in (0, 1).
        overlap: share of an item's word 8-grams from which a text contains the item, in (0, 1].
        backend: who computes signatures; the matches are the same.

    Yields:
        Matches in the order of texts, then of lists.

    Raises:
        PoiseError: a text is null.
    """
    if not 0 < near < 1 or not 0 < overlap <= 1:
        raise ValueError(f"near {near} is outside (0, 1) or overlap {overlap} outside (0, 1]")
    index = _Index(lists, near, overlap)
    done = 0
    for block in blocks(batches):
        yield from index.matches([normal(text) for text in block], done, backend)
        done += len(block)


class _Index:
    """The items of all lists, M together, by digest, by band and by gram."""

    def __init__(self, lists: Sequence[HashList], near: float, overlap: float) -> None:
        self._near, self._overlap = near, overlap
        self._names = [each.name for each in lists]
        self._list_of = np.repeat(np.arange(len(lists)), [len(each.exact) for each in lists])
        self._digests = [digest for each in lists for digest in each.exact]
        self._exact: dict[bytes, list[int]] = {}
        for item, digest in enumerate(self._digests):
            self._exact.setdefault(digest, []).append(item)
        self._marks = np.concatenate([np.empty((0, PERMUTATIONS), dtype=np.uint8), *(each.sketch for each in lists)])
        self._band_orders = [np.argsort(keys) for keys in band_keys(self._marks, near)]
        self._bands = [keys[order] for keys, order in zip(band_keys(self._marks, near), self._band_orders, strict=True)]
        grams = [each for part in lists for each in part.grams]
        self._gram_counts = np.array([len(each) for each in grams], dtype=np.int64)
        values = np.concatenate([np.empty(0, dtype=np.uint64), *grams])
        order = np.argsort(values)
        self._grams, self._gram_items = values[order], np.repeat(np.arange(len(grams)), self._gram_counts)[order]

    def matches(self, texts: list[str], offset: int, backend: Backend) -> list[Match]:
        """The best match of each normal text in each list; places start at the offset."""
        found = [self._equal(texts), self._alike(texts, backend), self._containing(texts)]
        text, item, score = (np.concatenate(part) for part in zip(*found, strict=True))
        kind = np.repeat(np.arange(len(found)), [len(part[0]) for part in found])
        best: dict[tuple[int, int], Match] = {}
        for place in np.lexsort((item, -score, kind, self._list_of[item], text)).tolist():
            which, where = int(self._list_of[item[place]]), offset + int(text[place])
            digest = self._digests[item[place]].hex()
            match = Match(where, self._names[which], _KINDS[kind[place]], float(score[place]), digest)
            best.setdefault((where, which), match)
        return list(best.values())

    def _equal(self, texts: list[str]) -> Found:
        pairs = [(place, item) for place, text in enumerate(texts) for item in self._exact.get(_digest(text), ())]
        text, item = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
        return text, item, np.ones(len(text))

    def _alike(self, texts: list[str], backend: Backend) -> Found:
        marks = sketches(texts, backend)
        pairs = np.empty(0, dtype=np.int64)
        for keys, known, order in zip(band_keys(marks, self._near), self._bands, self._band_orders, strict=True):
            text, place = _occurrences(known, keys)
            pairs = np.union1d(pairs, text * len(self._marks) + order[place])
        text, item = np.divmod(pairs, max(len(self._marks), 1))
        score = np.empty(len(text))
        for start in range(0, len(text), _PAIRS):
            part = slice(start, start + _PAIRS)
            score[part] = agreements(marks.take(text[part], axis=0), self._marks.take(item[part], axis=0))
        score = np.maximum((score / PERMUTATIONS - 1 / 256) / (1 - 1 / 256), 0)  # bytes also agree by chance
        near = score >= self._near
        return text[near], item[near], score[near]

    def _containing(self, texts: list[str]) -> Found:
        grams, starts = _grams(texts)
        text_of = np.repeat(np.arange(len(texts)), np.diff(starts))
        which, place = _occurrences(self._grams, grams)
        once = np.unique(text_of[which] * len(self._grams) + place)  # a gram that a text repeats counts once
        text, place = np.divmod(once, max(len(self._grams), 1))
        pairs, shared = np.unique(text * len(self._marks) + self._gram_items[place], return_counts=True)
        text, item = np.divmod(pairs, max(len(self._marks), 1))
        score = shared / self._gram_counts[item]
        enough = score >= self._overlap
        return text[enough], item[enough], score[enough]


def _occurrences(known: HashArray, wanted: HashArray) -> tuple[IntArray, IntArray]:
    """All places (i, j) with wanted[i] == known[j], for known in ascending order: two arrays."""
    first = np.searchsorted(known, wanted)
    there = np.flatnonzero(first < len(known))
    there = there[known[first[there]] == wanted[there]]
    first = first[there]
    count = np.searchsorted(known, wanted[there], side="right") - first
    before = np.cumsum(count) - count
    return np.repeat(there, count), np.arange(count.sum()) + np.repeat(first - before, count)


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16, key=_KEY).digest()


def _grams(texts: Sequence[str]) -> tuple[HashArray, IntArray]:
    """Hashes of the word 8-grams of normal texts, shape (S,), and where each text starts, shape (N + 1,)."""
    codes = np.frombuffer("\0".join([*texts, ""]).encode("utf-32-le", "surrogatepass"), dtype="<u4").astype(np.int64)
    letter = _letters()[codes]
    single = letter & (codes >= _SINGLE)
    first = letter & np.concatenate([[True], ~letter[:-1] | single[:-1]])[: len(codes)] | single
    starts = np.flatnonzero(first)
    place = np.arange(len(codes)) - np.maximum.accumulate(np.where(first, np.arange(len(codes)), 0))
    hashed = mix((codes | place << 21).astype(np.uint64) ^ _SALT)
    hashed[~letter] = 0
    words = np.add.reduceat(hashed, starts) if len(starts) else np.empty(0, dtype=np.uint64)
    ends = np.cumsum([len(text) + 1 for text in texts])
    upto = np.searchsorted(starts, ends)
    return windows(words, np.diff(upto, prepend=0), _WORDS)


@cache
def _letters() -> NDArray[np.bool_]:
    """For each code point whether it is a letter or a digit."""
    return np.fromiter((chr(code).isalnum() for code in range(0x110000)), dtype=bool, count=0x110000)
