"""Shares, differences and ratios of shares with 95 % intervals, where answers about one item hang together.

Answers are clusters by item: a hard item is hard for everybody. The variance of a share is that of the ratio estimator
over items (Cochran, Sampling Techniques, 1977, chapter 6); p(1 - p) / variance is the effective number of answers, and
the interval is Wilson's (1927) at that number, so it is never empty at 0 or 1. A difference or a ratio takes its
interval from those of its two sides (Newcombe, 1998; Donner and Zou, 2012), a difference with their correlation over
items (Zou, 2007).

Raters are taken as they are: an interval speaks of these people on other items, not of other people.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A number with its interval; all NaN where nothing speaks of it.

    Args:
        value, low, high: a share (0..1), a difference (-1..1), or 1 minus a ratio.
        answers, items: that it rests on; of a difference or ratio those of its smaller side.
    """

    value: float = math.nan
    low: float = math.nan
    high: float = math.nan
    answers: int = 0
    items: int = 0

    def to_json(self) -> dict[str, Any]:
        """The fields; NaN becomes None."""
        told = asdict(self)
        return {
            name: None if isinstance(v, float) and math.isnan(v) else round(v, 6) if isinstance(v, float) else v
            for name, v in told.items()
        }


def share(hit: Bools, item: Ints) -> Estimate:
    """How often `hit[N]` is true, with answers clustered by `item[N]`."""
    if not len(hit):
        return Estimate()
    items, at = np.unique(item, return_inverse=True)
    value = float(hit.mean())
    spread = _influence(hit, at, len(items))
    variance = float((spread**2).sum()) * len(items) / max(len(items) - 1, 1)
    effective = value * (1 - value) / variance if variance else float(len(items))
    low, high = _wilson(value, min(effective, float(len(hit))))
    return Estimate(value, low, high, len(hit), len(items))


def difference(hit_1: Bools, item_1: Ints, hit_0: Bools, item_0: Ints) -> Estimate:
    """Share of `hit_1` minus share of `hit_0`; answers about the same item may stand on both sides."""
    one, zero = share(hit_1, item_1), share(hit_0, item_0)
    if not (one.answers and zero.answers):
        return Estimate()
    value = one.value - zero.value
    r = _correlation(hit_1, item_1, hit_0, item_0)
    down, up = one.value - one.low, one.high - one.value
    down_0, up_0 = zero.value - zero.low, zero.high - zero.value
    low = value - math.sqrt(max(down**2 + up_0**2 - 2 * r * down * up_0, 0.0))
    high = value + math.sqrt(max(up**2 + down_0**2 - 2 * r * up * down_0, 0.0))
    return Estimate(value, max(low, -1.0), min(high, 1.0), *_smaller(one, zero))


def relative_fall(hit_1: Bools, item_1: Ints, hit_0: Bools, item_0: Ints) -> Estimate:
    """1 - (1 - share of `hit_1`) / (1 - share of `hit_0`): of the misses of side 0, the part that side 1 makes hits.

    The interval takes both sides for independent; where they go together it is somewhat too wide. NaN where side 0 has
    no miss, or so few that its interval reaches too far.
    """
    one, zero = share(~hit_1, item_1), share(~hit_0, item_0)
    if not (one.answers and zero.answers) or zero.value == 0:
        return Estimate()
    a, b = one.value, zero.value
    low, high = _bound(a, b, one.low, zero.high, -1), _bound(a, b, one.high, zero.low, 1)
    return Estimate(1 - a / b, 1 - high, 1 - low, *_smaller(one, zero))


def _bound(a: float, b: float, end_a: float, end_b: float, sign: int) -> float:
    """One end of the interval of a / b from the opposite ends of those of a and b (Donner and Zou, 2012)."""
    below = end_b * (2 * b - end_b)
    if below <= 0:
        return math.nan
    return (a * b + sign * math.sqrt(max((a * b) ** 2 - end_a * (2 * a - end_a) * below, 0.0))) / below


def _wilson(p: float, n: float) -> tuple[float, float]:
    z = NormalDist().inv_cdf((1 + LEVEL) / 2)
    centre, half = (p + z**2 / (2 * n)), z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    low, high = (centre - half) / (1 + z**2 / n), (centre + half) / (1 + z**2 / n)
    return min(max(low, 0.0), p), max(min(high, 1.0), p)


def _influence(hit: Bools, at: Ints, size: int) -> Floats:
    """[size] what each item adds to the error of the share, in the linearised ratio estimator."""
    hits, answers = np.bincount(at, hit, minlength=size), np.bincount(at, minlength=size)
    spread: Floats = (hits - hit.mean() * answers) / len(hit)
    return spread


def _correlation(hit_1: Bools, item_1: Ints, hit_0: Bools, item_0: Ints) -> float:
    items, at = np.unique(np.concatenate([item_1, item_0]), return_inverse=True)
    one, zero = (
        _influence(hit_1, at[: len(hit_1)], len(items)),
        _influence(hit_0, at[len(hit_1) :], len(items)),
    )
    size = math.sqrt(float((one**2).sum() * (zero**2).sum()))
    return float((one * zero).sum()) / size if size else 0.0


def _smaller(one: Estimate, zero: Estimate) -> tuple[int, int]:
    return min(one.answers, zero.answers), min(one.items, zero.items)
