"""A label as one integer, so that labels are counted like numbers and memory does not grow with the data.

From the lowest bit: 19 categories in card order, severity (2 bits), safe, then what is known: all 19 categories,
severity, the safe flag. What is unknown reads 0.
"""

from __future__ import annotations

from typing import NamedTuple, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from poise.harm import CATEGORIES

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

K = len(CATEGORIES)
SEVERITY, SAFE, LISTED, SEVERITY_KNOWN, SAFE_KNOWN = K, K + 2, K + 3, K + 4, K + 5
BITS = K + 6


class Labels(NamedTuple):
    """What M label integers say: `flags` (M, 19), everything else (M,)."""

    flags: Bools
    severity: Ints
    safe: Bools
    listed: Bools
    severity_known: Bools
    safe_known: Bools

    @classmethod
    def of(cls, codes: Ints) -> Self:
        """Read integers that `encode` made."""
        flags = (codes[:, None] >> np.arange(K) & 1).astype(np.bool_)
        bits = [(codes >> place & 1).astype(np.bool_) for place in (SAFE, LISTED, SEVERITY_KNOWN, SAFE_KNOWN)]
        return cls(flags, codes >> SEVERITY & 3, *bits)

    @property
    def unsafe(self) -> Bools:
        """Known to be unsafe."""
        return self.safe_known & ~self.safe

    @property
    def complete(self) -> Bools:
        """Safe flag, severity and all categories are known."""
        return self.listed & self.severity_known & self.safe_known


def encode(batch: pa.RecordBatch, columns: tuple[str, str, str]) -> tuple[Ints, Ints]:
    """(the label of each row (N,), for each category the rows that say whether it applies (2, 19)).

    Of these rows, the first line counts the ones known to be safe, which say it of themselves; the second the others.

    Args:
        columns: names of the safe flag, the category flags and the severity. A severity outside 0..3 is unknown.
    """
    safe, struct, level = (batch.column(name) for name in columns)
    told = _bools(struct.is_valid())
    harmless = _bools(pc.fill_null(safe, False))
    listed, decided = told.copy(), np.zeros((2, K), dtype=np.int64)
    label = np.zeros(batch.num_rows, dtype=np.int64)
    for place in range(K) if told.any() else ():
        child = struct.field(place)
        known = _bools(child.is_valid()) & told
        listed &= known
        decided[:, place] = (known & harmless).sum(), (known & ~harmless).sum()
        label |= (_bools(pc.fill_null(child, False)) & known).astype(np.int64) << place
    severity = integers(level, -1)
    graded = (severity >= 0) & (severity <= 3)
    label |= np.where(graded, severity, 0) << SEVERITY
    facts = {SAFE: harmless, LISTED: listed, SEVERITY_KNOWN: graded}
    for place, mask in (facts | {SAFE_KNOWN: _bools(safe.is_valid())}).items():
        label |= mask.astype(np.int64) << place
    return label, decided


def integers(column: pa.Array, missing: int) -> Ints:
    """An integer column, with a number for null, shape (N,)."""
    values: Ints = pc.fill_null(column, missing).to_numpy(zero_copy_only=False).astype(np.int64, copy=False)
    return values


def matches(column: pa.Array, pattern: str) -> Bools:
    """The texts in which a regular expression finds something, whatever the case, shape (N,); null has nothing."""
    return _bools(pc.fill_null(pc.match_substring_regex(column, pattern, ignore_case=True), False))


def _bools(column: pa.Array) -> Bools:
    mask: Bools = column.to_numpy(zero_copy_only=False).astype(np.bool_, copy=False)
    return mask
