"""What is told about both models on prompts that they have not seen, each number with a 95 % interval over prompts.

Accuracy of pairs by what separates them, signs, AUROC, calibration of sigmoid(cost) as P(unsafe), and what length has
to do with the scores: a model that likes long answers ranks pairs well whose longer answer is preferred and badly the
others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from poise.metrics import Floats, Interval, Ints, auroc, bootstrap_clusters, ece, reliability, wilson_interval
from poise.preference.pairs import PreferenceData

Scores = NDArray[np.float64]
_RESAMPLES = 500
_BINS = 10


class Items:
    """Positions of pairs or responses by prompt, so that whole prompts are resampled."""

    def __init__(self, keys: Sequence[object], seed: int) -> None:
        found: dict[object, list[int]] = {}
        for at, key in enumerate(keys):
            found.setdefault(key, []).append(at)
        self._clusters, self._seed = list(found.values()), seed

    def interval(self, statistic: Callable[[Ints], float]) -> dict[str, Any]:
        """The statistic of all, its interval, and the number of prompts."""
        return _as_json(bootstrap_clusters(statistic, self._clusters, self._seed, _RESAMPLES))

    def mean(self, values: Floats) -> dict[str, Any]:
        """Of one value for each item."""
        return self.interval(lambda at: float(values[at].mean()))


def measure(data: PreferenceData, reward: Scores, cost: Scores, seed: int) -> dict[str, Any]:
    """Everything above, as JSON: `reward` and `cost`, each with pairs and length, the cost with signs and calibration.

    Args:
        reward, cost: raw scores float[N] of the examples.
    """
    helped = [(p.rows[p.better], p.rows[1 - p.better]) for p in data.pairs if p.better is not None]
    harmed = [(p.rows[1 - p.safer], p.rows[p.safer]) for p in data.pairs if p.safer is not None]
    rungs = [p.rung for p in data.pairs if p.safer is not None]
    return {
        "reward": {
            **_pairs(data, helped, reward, seed),
            "length": _length(data, helped, reward, seed),
        },
        "cost": {
            **_pairs(data, harmed, cost, seed),
            "by_rung": {
                rung: _pairs(data, [pair for pair, at in zip(harmed, rungs, strict=True) if at == rung], cost, seed)
                for rung in sorted(set(rungs))
            },
            **_labels(data, cost, seed),
            "length": _length(data, harmed, cost, seed),
        },
    }


def _pairs(data: PreferenceData, pairs: Sequence[tuple[int, int]], scores: Scores, seed: int) -> dict[str, Any]:
    """Accuracy of (higher, lower) pairs of examples; a tie is no hit."""
    hits = np.array([scores[high] > scores[low] for high, low in pairs], dtype=float)
    return {"pair_accuracy": _by_prompt(data, [pair[0] for pair in pairs], seed).mean(hits), "pairs": len(pairs)}


def _labels(data: PreferenceData, cost: Scores, seed: int) -> dict[str, Any]:
    rows = np.array([i for i, e in enumerate(data.examples) if e.unsafe is not None], dtype=np.int64)
    unsafe = np.array([bool(data.examples[i].unsafe) for i in rows], dtype=bool)
    c = cost[rows]
    p = 1 / (1 + np.exp(-np.clip(c, -60, 60)))
    right = np.where(unsafe, c > 0, c < 0).astype(float)
    items = _by_prompt(data, rows, seed)
    bins = reliability(p, unsafe, _BINS)
    curve = []
    for prob, share, size in zip(bins.prob.tolist(), bins.positive.tolist(), bins.size.tolist(), strict=True):
        interval = wilson_interval(round(share * size), size)
        curve.append({"p": prob, "share": share, "low": interval.low, "high": interval.high, "n": size})
    return {
        "sign_accuracy": items.mean(right),
        "auroc": items.interval(lambda at: auroc(c[at], unsafe[at])),
        "ece": items.interval(lambda at: ece(p[at], unsafe[at], _BINS)),
        "reliability": curve,
        "labels": {"safe": int((~unsafe).sum()), "unsafe": int(unsafe.sum())},
    }


def _length(data: PreferenceData, pairs: Sequence[tuple[int, int]], scores: Scores, seed: int) -> dict[str, Any]:
    """How scores go with response tokens, and pair accuracy by which response is longer (`higher` is the preferred
    one for the reward, the more harmful one for the cost)."""
    tokens = np.array([len(e.response) for e in data.examples], dtype=float)
    rows = np.array(sorted({row for pair in pairs for row in pair}), dtype=np.int64)
    items = _by_prompt(data, rows, seed)
    x, y = tokens[rows], scores[rows]
    groups: dict[str, list[tuple[int, int]]] = {"higher_is_longer": [], "higher_is_shorter": []}
    for high, low in pairs:
        if tokens[high] != tokens[low]:
            groups["higher_is_longer" if tokens[high] > tokens[low] else "higher_is_shorter"].append((high, low))
    return {
        "spearman": items.interval(lambda at: pearson(ranks(x[at]), ranks(y[at]))),
        "pearson": items.interval(lambda at: pearson(x[at], y[at])),
        **{name: _pairs(data, some, scores, seed) for name, some in groups.items()},
    }


def _by_prompt(data: PreferenceData, rows: Sequence[int] | Ints, seed: int) -> Items:
    return Items([tuple(data.examples[row].prompt) for row in rows], seed)


def ranks(values: Floats) -> Floats:
    """Ranks of values[N] from 1, the mean rank for ties."""
    _, group, count = np.unique(values, return_inverse=True, return_counts=True)
    mean: Floats = (np.cumsum(count) - (count - 1) / 2)[group]
    return mean


def pearson(x: Floats, y: Floats) -> float:
    """Correlation of x[N] and y[N], of ranks it is Spearman's; `nan` when one of them is constant."""
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    return float(np.corrcoef(x, y)[0, 1])


def _as_json(interval: Interval) -> dict[str, Any]:
    """NaN has no JSON: it becomes null."""
    return {name: None if math.isnan(value) else value for name, value in interval._asdict().items()}
