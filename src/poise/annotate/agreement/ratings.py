"""Who gave which value to which item, as three integer arrays sorted by item; what was not judged is not there.

The arrays hold nothing but codes, so that all else (agreement, aggregation, bootstrap) is arithmetic on them and a
quarter of a million items with three judgements each take some megabytes. Texts and reasons stay in the tables.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from poise.annotate.agreement.patterns import Floats, Ints, Patterns, patterns_of
from poise.errors import PoiseError

__all__ = ["MODEL_KINDS", "Floats", "Ints", "RaterName", "Ratings", "Scale", "ratings_of"]

Scale = Literal["nominal", "ordinal", "set"]

MODEL_KINDS = frozenset({"model"})
"""Kinds of raters that `without_models` leaves out."""


class RaterName(NamedTuple):
    """A rater's id and kind ("person", "model", "rule", "import")."""

    name: str
    kind: str


@dataclass(frozen=True)
class Ratings:
    """The answers to one question; N answers, I items, R raters, K values.

    Args:
        item: [N] in 0..I-1, ascending.
        rater: [N] in 0..R-1.
        value: [N] in 0..K-1.
        items: number of items I, judged or not.
        raters: R raters.
        values: K values; for an ordinal scale in their order, for sets as bit masks (int).
        scale: what the values are.
    """

    item: Ints
    rater: Ints
    value: Ints
    items: int
    raters: tuple[RaterName, ...]
    values: tuple[Any, ...]
    scale: Scale = "nominal"

    @cached_property
    def per_item(self) -> Ints:
        """[I] number of values of each item."""
        return np.bincount(self.item, minlength=self.items).astype(np.int64)

    @cached_property
    def counts(self) -> Ints:
        """[I, K] how often each value was given; for scales of few values."""
        size = len(self.values)
        flat = np.bincount(self.item * size + self.value, minlength=self.items * size)
        return flat.reshape(self.items, size).astype(np.int64)

    @cached_property
    def patterns(self) -> Patterns:
        """The distinct rows of `counts` with how many items have them."""
        return patterns_of(self.counts)

    def present(self) -> Ints:
        """Positions of the raters that gave a value."""
        return np.flatnonzero(np.bincount(self.rater, minlength=len(self.raters)))

    def keep(self, rows: npt.NDArray[np.bool_]) -> Ratings:
        """Only these answers; items, raters and values stay as they are."""
        return replace(self, item=self.item[rows], rater=self.rater[rows], value=self.value[rows])

    def by(self, raters: Iterable[int]) -> Ratings:
        """Only the answers of these raters (positions in `raters`)."""
        wanted = np.zeros(len(self.raters), bool)
        wanted[list(raters)] = True
        return self.keep(wanted[self.rater])

    def without_models(self) -> Ratings:
        """Only the answers of raters that are no models."""
        return self.by(i for i, rater in enumerate(self.raters) if rater.kind not in MODEL_KINDS)

    def recoded(self, codes: Ints, values: Sequence[Any], scale: Scale = "nominal") -> Ratings:
        """Other values in place of these.

        Args:
            codes: [K] the new code of each value, -1 where it then counts as not judged.
        """
        value = codes[self.value]
        there = value >= 0
        changed = replace(self, value=value, values=tuple(values), scale=scale)
        return changed if there.all() else changed.keep(there)


def ratings_of(
    rows: Iterable[tuple[object, object, object]],
    values: Sequence[Any] | None = None,
    scale: Scale = "nominal",
) -> Ratings:
    """Ratings of (item, rater, value) rows in any order; a value of None is not judged, its item and rater remain.

    Args:
        values: all values in their order; None: those that occur, sorted.

    Raises:
        PoiseError: a value that is not among `values`.
    """
    told = list(rows)
    items = {name: i for i, name in enumerate(dict.fromkeys(row[0] for row in told))}
    raters = {name: i for i, name in enumerate(dict.fromkeys(row[1] for row in told))}
    kept = [row for row in told if row[2] is not None]
    known = tuple(sorted({row[2] for row in kept}, key=_order) if values is None else values)
    codes = {name: i for i, name in enumerate(known)}
    if unknown := [row[2] for row in kept if row[2] not in codes]:
        raise PoiseError(f"value {unknown[0]!r}", do=f"use one of {list(known)}")
    table = np.array([(items[i], raters[r], codes[v]) for i, r, v in kept], np.int64).reshape(-1, 3)
    table = table[np.argsort(table[:, 0], kind="stable")]
    names = tuple(RaterName(str(name), "person") for name in raters)
    return Ratings(table[:, 0], table[:, 1], table[:, 2], len(items), names, known, scale)


def _order(value: object) -> tuple[int, float, str]:
    number = isinstance(value, int | float)
    return (0, float(value), "") if number and isinstance(value, int | float) else (1, 0.0, str(value))
