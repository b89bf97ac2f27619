"""Numbers about predictions, and intervals around them. Pure NumPy: arrays in, plain floats out.

Conventions: `score[N]` higher means "more positive", `positive[N]` is boolean (positive = unsafe for a guard).
A quantity that the data cannot define (a recall without positives, an AUROC with one class) is `nan`, never 0 or 1.
Interval functions read NaN as "unjudged": it is left out and the interval's `n` says how many values remain.
Left out: plots (`plots.py`), agreement between raters (`agreement.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]

NAN = float("nan")


class Interval(NamedTuple):
    """A mean with its confidence interval: `low <= mean <= high` in the unit of the values, over `n` values."""

    mean: float
    low: float
    high: float
    n: int


class BinaryReport(NamedTuple):
    """Counts of a thresholded score as shares in 0..1; `nan` where a denominator is 0. `prevalence` is P(positive)."""

    accuracy: float
    precision: float
    recall: float
    f1: float
    fpr: float
    n: int
    prevalence: float


class Reliability(NamedTuple):
    """Equal-mass bins of a probability, each field `[B]`: mean probability, share of positives, number of items."""

    prob: Floats
    positive: Floats
    size: Ints


def auroc(score: ArrayLike, positive: ArrayLike) -> float:
    """P(score of a positive > score of a negative), ties counting 1/2 (Mann-Whitney U / (P * N)).

    Args:
        score: `[N]`, higher is more positive. positive: `[N]` boolean.

    Returns:
        0..1, or `nan` when one class is missing.

    Raises:
        ValueError: different lengths, or a NaN score.
    """
    s, p = _scored(score, positive)
    positives, negatives = int(p.sum()), int((~p).sum())
    if positives == 0 or negatives == 0:
        return NAN
    _, group, count = np.unique(s, return_inverse=True, return_counts=True)
    rank = (np.cumsum(count) - (count - 1) / 2)[group]  # average rank within ties, 1-based
    u = float(rank[p].sum()) - positives * (positives + 1) / 2
    return u / (positives * negatives)


def average_precision(score: ArrayLike, positive: ArrayLike) -> float:
    """Sum over distinct thresholds of (recall step) x precision; no interpolation, tied scores enter together.

    Args, Raises: as `auroc`. Returns 0..1, or `nan` when there is no positive.
    """
    s, p = _scored(score, positive)
    if not p.any():
        return NAN
    _, group, count = np.unique(-s, return_inverse=True, return_counts=True)  # best score first
    hits = np.bincount(group, weights=p, minlength=len(count))
    precision = np.cumsum(hits) / np.cumsum(count)
    return float((hits * precision).sum() / p.sum())


def binary_report(score: ArrayLike, positive: ArrayLike, threshold: float) -> BinaryReport:
    """Accuracy, precision, recall, F1 and false-positive rate of `score >= threshold`.

    Args:
        score: `[N]`. positive: `[N]` boolean. threshold: in the unit of the score; equality predicts positive.

    Raises:
        ValueError: different lengths, or a NaN score.
    """
    s, p = _scored(score, positive)
    said = s >= threshold
    tp, fp = int((said & p).sum()), int((said & ~p).sum())
    fn, tn = int((~said & p).sum()), int((~said & ~p).sum())
    return BinaryReport(
        accuracy=_ratio(tp + tn, len(s)),
        precision=_ratio(tp, tp + fp),
        recall=_ratio(tp, tp + fn),
        f1=_ratio(2 * tp, 2 * tp + fp + fn),
        fpr=_ratio(fp, fp + tn),
        n=len(s),
        prevalence=_ratio(tp + fn, len(s)),
    )


def macro_f1(pred: ArrayLike, true: ArrayLike, levels: int) -> float:
    """Mean F1 over the levels that occur in `pred` or `true` (scikit-learn's rule); `nan` when N = 0.

    Args:
        pred, true: `[N]` integers in 0..levels-1. levels: L.

    Raises:
        ValueError: different lengths, or a value outside 0..levels-1.
    """
    table = confusion(pred, true, levels).astype(np.float64)
    size = table.sum(axis=0) + table.sum(axis=1)  # 2 TP + FP + FN of each level
    seen = size > 0
    if not seen.any():
        return NAN
    return float((2 * np.diag(table)[seen] / size[seen]).mean())


def quadratic_weighted_kappa(pred: ArrayLike, true: ArrayLike, levels: int) -> float:
    """Cohen's kappa with weights (i - j)^2: 1 is perfect, 0 is chance, negative is worse than chance.

    Args, Raises: as `macro_f1`. Returns `nan` when N = 0 or when all of `pred` and `true` are one level.
    Source: Cohen (1968), weighted kappa.
    """
    table = confusion(pred, true, levels).astype(np.float64)
    n = table.sum()
    if n == 0:
        return NAN
    level = np.arange(levels)
    weight = (level[:, None] - level[None, :]) ** 2
    chance = np.outer(table.sum(axis=1), table.sum(axis=0)) / n
    expected = float((weight * chance).sum())
    return 1.0 - float((weight * table).sum()) / expected if expected > 0 else NAN


def confusion(pred: ArrayLike, true: ArrayLike, levels: int) -> Ints:
    """Counts `[levels, levels]`: rows are `true`, columns are `pred`. Raises ValueError as `macro_f1` says."""
    p, t = np.asarray(pred, dtype=np.int64), np.asarray(true, dtype=np.int64)
    if p.shape != t.shape or p.ndim != 1:
        raise ValueError(f"pred {p.shape} and true {t.shape} must be two lists of one length")
    both = np.concatenate([p, t])
    if len(both) and (both.min() < 0 or both.max() >= levels):
        raise ValueError(f"levels {both.min()}..{both.max()} do not fit in 0..{levels - 1}")
    return np.bincount(t * levels + p, minlength=levels * levels).reshape(levels, levels).astype(np.int64)


def mae(pred: ArrayLike, true: ArrayLike) -> float:
    """Mean absolute error of `pred[N]` against `true[N]`, in their unit; `nan` when N = 0."""
    p, t = np.asarray(pred, dtype=np.float64), np.asarray(true, dtype=np.float64)
    if p.shape != t.shape:
        raise ValueError(f"pred {p.shape} and true {t.shape} must have one length")
    return float(np.abs(p - t).mean()) if p.size else NAN


def reliability(prob: ArrayLike, positive: ArrayLike, bins: int = 15) -> Reliability:
    """Equal-mass bins of `prob[N]`; equal probabilities share a bin, so there may be fewer than `bins`.

    Raises:
        ValueError: different lengths, or a probability that is NaN or outside 0..1.
    """
    p, y = _scored(prob, positive)
    if len(p) and (p.min() < 0 or p.max() > 1):
        raise ValueError(f"probabilities {p.min()}..{p.max()} do not lie in 0..1")
    if not len(p):
        return Reliability(np.zeros(0), np.zeros(0), np.zeros(0, dtype=np.int64))
    edges = np.quantile(p, np.arange(1, bins) / bins, method="inverted_cdf")
    _, group = np.unique(np.searchsorted(edges, p, side="left"), return_inverse=True)
    count = np.bincount(group)
    mean_prob = np.bincount(group, weights=p) / count
    return Reliability(mean_prob, np.bincount(group, weights=y) / count, count.astype(np.int64))


def ece(prob: ArrayLike, positive: ArrayLike, bins: int = 15) -> float:
    """Expected calibration error, 0..1: mean |share of positives - mean probability| over equal-mass bins, by mass.

    Args, Raises: as `reliability`. Returns `nan` when N = 0. Source: Naeini et al. (2015); equal mass as in
    Nixon et al. (2019).
    """
    r = reliability(prob, positive, bins)
    return float(np.average(np.abs(r.positive - r.prob), weights=r.size)) if len(r.size) else NAN


def bootstrap_mean(values: ArrayLike, seed: int, resamples: int = 2000, level: float = 0.95) -> Interval:
    """Mean of `values[N]` with its percentile bootstrap interval (Efron, 1979); NaN values are left out.

    Args:
        values: `[N]`, one value for each independent item (a prompt). seed: same seed and values, same interval.
        resamples: number of bootstrap means. level: coverage, 0..1.

    Returns:
        Interval over the values that are not NaN; mean, low and high are `nan` when none is left.
    """
    v = np.asarray(values, dtype=np.float64)
    v = v[~np.isnan(v)]
    if not len(v):
        return Interval(NAN, NAN, NAN, 0)
    rng = np.random.default_rng(seed)
    means = [v[rng.integers(0, len(v), len(v))].mean() for _ in range(resamples)]
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    mean = float(v.mean())
    return Interval(mean, min(float(low), mean), max(float(high), mean), len(v))


def bootstrap_clusters(
    statistic: Callable[[Ints], float],
    clusters: Sequence[ArrayLike],
    seed: int,
    resamples: int = 1000,
    level: float = 0.95,
) -> Interval:
    """Any statistic of items that come in clusters (pairs of a prompt), with the interval of resampled clusters.

    Args:
        statistic: positions of items `[M]`, some more than once, -> a number; `nan` where they do not define it.
        clusters: the positions of the items of each cluster. seed, resamples, level: as `bootstrap_mean`.

    Returns:
        The statistic of all items, percentiles of the resamples that define it, and the number of clusters. Source:
        Davison and Hinkley (1997), section 3.8.
    """
    items = [np.asarray(cluster, dtype=np.int64) for cluster in clusters if np.size(cluster)]
    if not items:
        return Interval(NAN, NAN, NAN, 0)
    rng = np.random.default_rng(seed)
    value = statistic(np.concatenate(items))
    draws = (rng.integers(0, len(items), len(items)) for _ in range(resamples))
    found = np.array([statistic(np.concatenate([items[at] for at in draw])) for draw in draws])
    found = found[~np.isnan(found)]
    if np.isnan(value) or not len(found):
        return Interval(value, NAN, NAN, len(items))
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, min(float(low), value), max(float(high), value), len(items))


def paired_difference(
    before: ArrayLike, after: ArrayLike, seed: int, resamples: int = 2000, level: float = 0.95
) -> Interval:
    """Mean of `after[N] - before[N]` over the same prompts, with its paired bootstrap interval.

    A prompt with NaN on either side is left out, so `n` counts complete pairs. Other arguments as `bootstrap_mean`.

    Raises:
        ValueError: different lengths.
    """
    b, a = np.asarray(before, dtype=np.float64), np.asarray(after, dtype=np.float64)
    if b.shape != a.shape:
        raise ValueError(f"before {b.shape} and after {a.shape} must be about the same prompts")
    return bootstrap_mean(a - b, seed, resamples, level)


def wilson_interval(k: int, n: int, level: float = 0.95) -> Interval:
    """Share k / n with its Wilson score interval (Wilson, 1927); all `nan` when n = 0.

    Raises:
        ValueError: k is not in 0..n.
    """
    if not 0 <= k <= n:
        raise ValueError(f"k = {k} is not in 0..{n}")
    if n == 0:
        return Interval(NAN, NAN, NAN, 0)
    z = NormalDist().inv_cdf((1 + level) / 2)
    share = k / n
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * float(np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2)))
    return Interval(share, min(max(centre - half, 0.0), share), max(min(centre + half, 1.0), share), n)


def violation_rate(cost: ArrayLike, level: float = 0.95) -> Interval:
    """Share of responses that are not safe by the cost's sign (`cost < 0` is safe), with its Wilson interval.

    Args:
        cost: `[N]`, higher is worse, zero is the boundary and counts as a violation; NaN (unjudged) is left out.
    """
    c = np.asarray(cost, dtype=np.float64)
    c = c[~np.isnan(c)]
    return wilson_interval(int((c >= 0).sum()), len(c), level)


def _scored(score: ArrayLike, positive: ArrayLike) -> tuple[Floats, Bools]:
    """Both as arrays `[N]`, checked."""
    s, p = np.asarray(score, dtype=np.float64), np.asarray(positive, dtype=np.bool_)
    if s.shape != p.shape or s.ndim != 1:
        raise ValueError(f"score {s.shape} and positive {p.shape} must be two lists of one length")
    if np.isnan(s).any():
        raise ValueError(f"{int(np.isnan(s).sum())} of {len(s)} scores are NaN: leave unjudged items out first")
    return s, p


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else NAN
