"""Near-duplicates among short texts: MinHash with banding for candidates, exact Jaccard to decide.

At the default threshold 0.7 two prompts of a dozen words that differ in one word are near-duplicates; two prompts on
one subject are not. Two texts in one cluster may be less alike than the threshold: clusters are chains (connected
components).

The texts come once, batch after batch. What stays in memory is about 250 bytes a text: its sketch, a digest for exact
equality and a few integers; the normal texts themselves wait in a temporary file, from which candidates are read again.

Crowds are where such a search turns quadratic: thousands of texts around one boilerplate, alike but not alike enough.
Two brakes keep the work linear. A text that has fallen short of the threshold some 32 times is compared only where the
sketches leave no doubt; and a bucket of more than 128 texts is searched from one text after another until 128 of them
found nothing. Outside such crowds, whether two texts are linked depends on these two alone.

Source: Broder 1997 (MinHash); Leskovec, Rajaraman, Ullman, "Mining of Massive Datasets", chapter 3 (banding).
"""

from __future__ import annotations

import hashlib
import tempfile
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from poise.data.minhash import (
    PERMUTATIONS,
    Backend,
    HashArray,
    IntArray,
    agreements,
    band_keys,
    blocks,
    normal,
    shared_count,
    shingle_sets,
    sketches,
)
from poise.errors import PoiseError

BoolArray = NDArray[np.bool_]

NEAR = 0.7
"""Jaccard similarity from which two texts count as near-duplicates, wherever the project compares prompts."""

_CROWD = 128  # texts in a bucket up to which all pairs are looked at
_PATIENCE = 32  # times a text may fall short of the threshold before doubtful pairs with it are passed over
_PAIRS = 1 << 14  # pairs of sketches compared at a time
_EXACT = 64  # pairs of texts compared exactly at a time
_HELD = 1 << 22  # 5-gram hashes kept for the next comparison
_IN_MEMORY = 1 << 24  # bytes of text kept before they go to disk


class Cluster(NamedTuple):
    """A cluster of near-duplicates; the representative is the member that `drop_near_duplicates` keeps, the first."""

    representative: int
    size: int


def clusters(texts: Sequence[str], threshold: float = NEAR, backend: Backend = "auto") -> IntArray:
    """Cluster id of each text: the smallest index of its cluster.

    Whether two texts are linked depends on these two alone (but for crowds, see the module), so a subset of texts
    never forms a larger cluster.

    Args:
        texts: N texts.
        threshold: Jaccard similarity of character 5-grams, in (0, 1]; 1 means equal but for case and blanks.
        backend: who computes signatures; the clusters are the same.

    Returns:
        int64, shape (N,).
    """
    return cluster_stream([texts], threshold, backend)


def cluster_stream(batches: Iterable[Sequence[str]], threshold: float = NEAR, backend: Backend = "auto") -> IntArray:
    """Cluster id of each text of a stream, as `clusters`, in bounded memory.

    Args:
        batches: lists of texts or Arrow string arrays, N texts together, read once.
        threshold: Jaccard similarity of character 5-grams, in (0, 1]; 1 means equal but for case and blanks.
        backend: who computes signatures; the clusters are the same.

    Returns:
        int64, shape (N,).

    Raises:
        PoiseError: a text is null, or the temporary folder is full.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold {threshold} is outside (0, 1]")
    with _Store() as store:
        for block in blocks(batches):
            store.add([normal(text) for text in block], backend if threshold < 1 else None)
        links = _Links(_first_equal(store.digests))
        if threshold < 1:
            _Search(store, links, threshold).run()
    return links.roots(np.arange(len(links.parent)))


def drop_near_duplicates(
    new: Sequence[str], existing: Sequence[str] = (), threshold: float = NEAR, backend: Backend = "auto"
) -> BoolArray:
    """Which new texts to keep: bool, shape (len(new),); False where an earlier text is in its cluster."""
    ids = clusters([*existing, *new], threshold, backend)
    keep: BoolArray = ids[len(existing) :] == np.arange(len(existing), len(ids))
    return keep


def representatives(ids: IntArray) -> list[Cluster]:
    """Clusters of two or more texts, the largest first, then by representative.

    Args:
        ids: cluster id of each text, shape (N,), as from `clusters`.
    """
    first, sizes = np.unique(ids, return_counts=True)
    order = np.argsort(-sizes, kind="stable")
    return [Cluster(int(first[i]), int(sizes[i])) for i in order if sizes[i] > 1]


def jaccard(text_a: str, text_b: str) -> float:
    """Jaccard similarity of the character 5-gram sets of two texts, 0..1."""
    a, b = shingle_sets([normal(text_a), normal(text_b)])
    shared = shared_count(a, b)
    return shared / (len(a) + len(b) - shared)


class _Store:
    """Sketch, digest and normal text of each text so far; the text in a temporary file."""

    def __init__(self) -> None:
        self.digests, self._marks = bytearray(), bytearray()  # these grow without a second copy
        self._ends = array("q", [0])
        self._file = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY)  # noqa: SIM115

    def __enter__(self) -> _Store:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, texts: list[str], backend: Backend | None) -> None:
        """Take in normal texts; without a back end only for the search of equal ones."""
        raw = [text.encode("utf-8", "surrogatepass") for text in texts]
        self.digests += b"".join([hashlib.blake2b(each, digest_size=16).digest() for each in raw])
        if backend is None:
            return
        self._marks += sketches(texts, backend).tobytes()
        self._ends.extend((self._ends[-1] + np.cumsum([len(each) for each in raw])).tolist())
        try:
            self._file.write(b"".join(raw))
        except OSError as error:
            do = "free space there, or name another folder in TMPDIR"
            raise PoiseError(
                f"cannot write: {error.strerror}", where=tempfile.gettempdir(), do=do, exit_code=3
            ) from None

    def marks(self) -> NDArray[np.uint8]:
        """Sketches, shape (N, 130)."""
        return np.frombuffer(self._marks, dtype=np.uint8).reshape(-1, PERMUTATIONS)

    def texts(self, indices: Iterable[int]) -> Iterator[str]:
        """Normal texts, read again."""
        for index in indices:
            self._file.seek(self._ends[index])
            yield self._file.read(self._ends[index + 1] - self._ends[index]).decode("utf-8", "surrogatepass")


class _Links:
    """Union-find: the parent of each text; a root is the smallest index of its cluster."""

    def __init__(self, parent: IntArray) -> None:
        self.parent = parent
        self.joined = 0

    def roots(self, indices: IntArray) -> IntArray:
        found = self.parent[indices]
        while not np.array_equal(up := self.parent[found], found):
            found = up
        return found

    def root(self, index: int) -> int:
        while (up := int(self.parent[index])) != index:
            self.parent[index] = self.parent[up]
            index = up
        return index

    def join(self, i: int, j: int) -> None:
        first, second = sorted((self.root(i), self.root(j)))
        self.parent[second] = first
        self.joined += first != second


class _Search:
    """The search for near-duplicates, band after band: buckets of equal keys, pairs in them, exact similarity."""

    def __init__(self, store: _Store, links: _Links, threshold: float) -> None:
        self._store, self._links, self._threshold = store, links, threshold
        self._marks = store.marks()
        self._failures = np.zeros(len(self._marks), dtype=np.int32)
        self._sets: dict[int, HashArray] = {}  # of texts compared lately
        self._held = 0
        error = 3 * (threshold * (1 - threshold) / PERMUTATIONS) ** 0.5  # three standard errors of a sketch's estimate
        self._likely, self._sure = (threshold - error) * PERMUTATIONS, (threshold + error) * PERMUTATIONS

    def run(self) -> None:
        distinct = np.flatnonzero(self._links.parent == np.arange(len(self._links.parent)))
        for keys in band_keys(self._marks, self._threshold):
            self._band(distinct, keys[distinct])
            self._links.parent = self._links.roots(self._links.parent)

    def _band(self, texts: IntArray, keys: HashArray) -> None:
        """Search the buckets of one band."""
        order = np.argsort(keys)
        texts, keys = texts[order], keys[order]
        starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]])[: len(keys)])
        sizes = np.diff(starts, append=len(keys))
        shared = np.repeat((sizes > 1) & (sizes <= _CROWD), sizes)
        members, keys = texts[shared], keys[shared]
        order = np.lexsort((members, keys))  # the first sort leaves equal keys in an order that differs by machine
        members, keys = members[order], keys[order]
        for apart in range(1, _CROWD):
            place = np.flatnonzero(keys[apart:] == keys[:-apart])
            if not len(place):
                break
            self._settle(members[place], members[place + apart])
        for bucket in np.flatnonzero(sizes > _CROWD):
            self._crowd(np.sort(texts[starts[bucket] : starts[bucket] + sizes[bucket]]))

    def _crowd(self, members: IntArray) -> None:
        """Compare one text after another with the whole bucket, until one cluster is left or too many found nothing."""
        barren = 0
        while barren < _CROWD:
            roots = self._links.roots(members)
            names, inverse, counts = np.unique(roots, return_inverse=True, return_counts=True)
            if len(names) == 1:
                break
            pivot = int(np.argmin(counts[inverse]))  # from the smallest cluster, so that the largest is never searched
            others = members[roots != roots[pivot]]
            before = self._links.joined
            self._settle(np.full(len(others), members[pivot]), others)
            barren += self._links.joined == before
            members = np.delete(members, pivot)

    def _settle(self, i: IntArray, j: IntArray) -> None:
        """Join the pairs whose exact similarity reaches the threshold, of each 16 thousand the likeliest first."""
        for start in range(0, len(i), _PAIRS):
            a, b = i[start : start + _PAIRS], j[start : start + _PAIRS]
            apart = self._links.roots(a) != self._links.roots(b)
            a, b = a[apart], b[apart]
            alike = agreements(self._marks.take(a, axis=0), self._marks.take(b, axis=0))
            order = np.argsort(-alike, kind="stable")[: np.count_nonzero(alike >= self._likely)]
            a, b, sure = a[order], b[order], alike[order] >= self._sure
            while len(a := a[wanted := self._wanted(a, b, sure)]):
                b, sure = b[wanted], sure[wanted]
                self._compare(a[:_EXACT], b[:_EXACT])
                a, b, sure = a[_EXACT:], b[_EXACT:], sure[_EXACT:]

    def _wanted(self, a: IntArray, b: IntArray, sure: BoolArray) -> BoolArray:
        """Which pairs are not yet in one cluster, and either sure or not tried often enough."""
        tired = (self._failures[a] >= _PATIENCE) | (self._failures[b] >= _PATIENCE)
        wanted: BoolArray = (sure | ~tired) & (self._links.roots(a) != self._links.roots(b))
        return wanted

    def _compare(self, a: IntArray, b: IntArray) -> None:
        """Compare pairs of texts exactly and join those that reach the threshold."""
        sets = self._shingle_sets(np.unique(np.concatenate([a, b])).tolist())
        for x, y in zip(a.tolist(), b.tolist(), strict=True):
            shared = shared_count(sets[x], sets[y])
            if shared >= self._threshold * (len(sets[x]) + len(sets[y]) - shared):
                self._links.join(x, y)
            else:
                self._failures[[x, y]] += 1

    def _shingle_sets(self, texts: list[int]) -> dict[int, HashArray]:
        """The 5-gram hashes of some texts (and others), sorted, none twice."""
        if self._held > _HELD:
            self._sets, self._held = {}, 0
        new = [text for text in texts if text not in self._sets]
        sets = shingle_sets(list(self._store.texts(new)))
        self._sets.update(zip(new, sets, strict=True))
        self._held += sum(map(len, sets))
        return self._sets


def _first_equal(digests: bytearray) -> IntArray:
    """For each text the first one with the same digest, shape (N,)."""
    halves = np.frombuffer(digests, dtype=np.uint64).reshape(-1, 2)
    order = np.lexsort((halves[:, 1], halves[:, 0]))
    ordered = halves[order]
    new = np.concatenate([[True], (ordered[1:] != ordered[:-1]).any(axis=1)])[: len(order)]
    first = np.empty(len(order), dtype=np.int64)
    first[order] = order[new][np.cumsum(new) - 1]
    return first
