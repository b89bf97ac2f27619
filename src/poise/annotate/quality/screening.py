"""Batch screening by a model: check the labels that it doubts most, and enough of the others to know what it misses.

Two strata. The k labels of the greatest doubt are all checked. Of the rest k are drawn by hash and checked. So the
screen's precision is known, and the errors in the rest are estimated by Horvitz and Thompson (1952): each checked label
stands for 1 / (its chance to be checked), which is 1 in the top and (N - k) / k in the rest.

The interval of the errors in the rest is exact (hypergeometric, `acceptance.batch_bounds`); a normal interval would say
"none" where none was found. All quantities are about this batch, not about batches to come.

Left out: checkers who err, and screens that were tuned on the same checks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from poise.annotate.quality.acceptance import batch_bounds
from poise.data import uniform_seed
from poise.metrics import Interval


class Chosen(NamedTuple):
    """Places in the batch: `top` `[k]` by falling doubt, `rest` `[m]` drawn from the others, in the hash's order."""

    top: NDArray[np.int64]
    rest: NDArray[np.int64]


class Screened(NamedTuple):
    """What the checks say about a batch; `n` of each interval is the number of judged checks behind it.

    Args:
        precision: share of the top that is wrong; all of it was checked, so low = high but for unjudged ones.
        recall: share of the batch's wrong labels that stand in the top; `nan` where no wrong one was found.
        error_rate: share of the batch's labels that are wrong.
        rest_rate: share of wrong labels in the rest.
    """

    precision: Interval
    recall: Interval
    error_rate: Interval
    rest_rate: Interval


def choose(items: Sequence[str], doubt: ArrayLike, k: int, seed: int = 0, random: int | None = None) -> Chosen:
    """The k labels of the greatest doubt, and `random` of the others (default k) by a hash of seed and item.

    The choice depends neither on the order of the batch nor on labels that come later, but for the top itself.

    Args:
        items: `[N]` ids, all different. doubt: `[N]`, higher is more doubtful; NaN is unjudged and comes first.

    Returns:
        fewer than k or `random` where the batch has no more.

    Raises:
        ValueError: different lengths, an id twice, or a negative number.
    """
    d = np.asarray(doubt, dtype=np.float64)
    if d.shape != (len(items),) or len(set(items)) != len(items):
        raise ValueError(f"{len(items)} items ({len(set(items))} different) and doubts {d.shape} must be one list each")
    wanted = k if random is None else random
    if k < 0 or wanted < 0:
        raise ValueError(f"{k} and {wanted} items: neither may be negative")
    draw = np.array([uniform_seed(seed, item, "screen") for item in items], dtype=np.int64)
    order = np.lexsort((draw, -np.where(np.isnan(d), np.inf, d)))  # of equal doubt the hash decides
    top, others = order[:k], order[k:]
    return Chosen(top, others[np.argsort(draw[others], kind="stable")][:wanted])


def estimate(batch: int, top_wrong: ArrayLike, rest_wrong: ArrayLike, confidence: float = 0.95) -> Screened:
    """Precision and recall of the screen and the batch's error rate, with two-sided intervals.

    Args:
        batch: N, all labels. top_wrong: `[k]` whether each of the top is wrong: 1, 0, or NaN for unjudged.
        rest_wrong: `[m]` the same of those drawn from the N - k others.

    Returns:
        Means go by what was judged. Intervals take all unjudged checks as right at one end and as wrong at the other.

    Raises:
        ValueError: more checks than labels, none in the rest although there is one, or a confidence out of range.

    Source: Horvitz and Thompson (1952), JASA 47(260):663-685; Manski (1989), J. Hum. Resour. 24(3):343-360, for the
    ends of the intervals.
    """
    top, rest = _Part(np.asarray(top_wrong, np.float64)), _Part(np.asarray(rest_wrong, np.float64))
    size = batch - top.checks
    if size < rest.checks or (size and not rest.checks):
        raise ValueError(
            f"{top.checks} + {rest.checks} checks of {batch} labels: the rest needs at least one, at most all"
        )
    low = batch_bounds(rest.wrong, rest.checks, size, (1 + confidence) / 2).lower if size else 0.0
    high = batch_bounds(rest.wrong + rest.open, rest.checks, size, (1 + confidence) / 2).upper if size else 0.0
    missed, least, most = (rest.rate * size if size else 0.0), low * size, high * size
    found, surely, perhaps = (top.rate * top.checks if top.checks else 0.0), top.wrong, top.wrong + top.open
    judged = top.judged + rest.judged
    recall = Interval(
        _share(found, found + missed), _share(surely, surely + most), _share(perhaps, perhaps + least), judged
    )
    if math.isnan(recall.mean):  # nothing wrong was found, so there is nothing to recall
        recall = Interval(math.nan, math.nan, math.nan, judged)
    return Screened(
        precision=Interval(top.rate, _share(surely, top.checks), _share(perhaps, top.checks), top.judged),
        recall=recall,
        error_rate=Interval(
            _share(found + missed, batch), _share(surely + least, batch), _share(perhaps + most, batch), judged
        ),
        rest_rate=Interval(rest.rate, low, high, rest.judged) if size else Interval(math.nan, math.nan, math.nan, 0),
    )


class _Part:
    """The checks of one stratum, counted; `open` are unjudged, `rate` is the share of wrong among the judged."""

    def __init__(self, wrong: NDArray[np.float64]) -> None:
        self.checks = len(wrong)
        self.open = int(np.isnan(wrong).sum())
        self.judged = self.checks - self.open
        self.wrong = int(np.nansum(wrong))
        self.rate = _share(self.wrong, self.judged)


def _share(part: float, whole: float) -> float:
    return part / whole if whole else math.nan
