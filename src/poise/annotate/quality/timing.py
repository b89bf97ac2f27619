"""Answers that came too fast to have read the text. They are flagged for a look, never left out.

Two signs. Against the rater's own pace: the robust z of log seconds per word, which a fast reader does not trip.
Against reading itself: a floor in words a minute, which a rater who is always too fast trips.

Left out: answers that took long (a break is no fault), and text that the rater has seen before, which takes less time.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

LEAST = 10
"""Answers of a rater below which their own pace is not known."""


class Timing(NamedTuple):
    """All `[N]`: `z` of log seconds per word by rater (low is fast, NaN: unknown), and which answers are flagged."""

    z: NDArray[np.float64]
    by_pace: NDArray[np.bool_]
    by_floor: NDArray[np.bool_]


def too_fast(
    seconds: ArrayLike, words: ArrayLike, rater: ArrayLike, *, cut: float = 3.5, fastest_wpm: float = 600.0
) -> Timing:
    """Flag answers more than `cut` robust deviations below the rater's median, or faster than `fastest_wpm`.

    z = 0.6745 (x - median) / MAD with x = log(seconds / words) and MAD the median of |x - median|: Iglewicz and Hoaglin
    (1993), How to Detect and Handle Outliers, who cut at 3.5. It is NaN for a rater with fewer than `LEAST` answers or
    with MAD 0. Silent reading of English has a mean of 238 words a minute (Brysbaert, 2019, J. Mem. Lang. 109:104047);
    600 is scanning for a word, not reading (Carver, 1992, J. Reading 36(2):84-95).

    Args:
        seconds: `[N]` from text to answer, at least 1 ms is counted; NaN where not measured, which is never flagged.
        words: `[N]` shown, at least 1 is counted. rater: `[N]` any ids.

    Raises:
        ValueError: different lengths, negative numbers, or a cut or floor that is not above 0.
    """
    t, w, who = np.asarray(seconds, np.float64), np.asarray(words, np.float64), np.asarray(rater)
    if t.ndim != 1 or t.shape != w.shape or t.shape != who.shape:
        raise ValueError(f"seconds {t.shape}, words {w.shape} and rater {who.shape} must be three lists of one length")
    if (t < 0).any() or not (w >= 0).all():
        raise ValueError("seconds and words must not be negative")
    if cut <= 0 or fastest_wpm <= 0:
        raise ValueError(f"cut {cut} and fastest_wpm {fastest_wpm} must be above 0")
    pace = np.maximum(t, 1e-3) / np.maximum(w, 1)  # seconds per word; NaN stays NaN
    x = np.log(pace)
    z = np.full(len(x), np.nan)
    for one in np.unique(who):
        rows = np.flatnonzero((who == one) & ~np.isnan(x))
        if len(rows) < LEAST:
            continue
        away = x[rows] - np.median(x[rows])
        if (mad := float(np.median(np.abs(away)))) > 0:
            z[rows] = 0.6745 * away / mad
    return Timing(z, z < -cut, pace < 60 / fastest_wpm)
