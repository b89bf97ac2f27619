"""How far raters agree beyond chance: Cohen's kappa, Krippendorff's alpha, and a table over a judgement log.

People, models, rules and imports are equal raters here. What is unjudged (`None`, NaN) is left out, never read as safe.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import combinations
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from poise.data.rows import Judgement
from poise.metrics import NAN, Floats

QUESTIONS = ("safe", "severity", "better", "safer", "single")
"""What is compared, in table order; "label" answers are compared twice, on safe and on severity."""


class RaterAgreement(NamedTuple):
    """Two raters on one question over the `n` items both judged; `agreement` is a share 0..1, `kappa` is Cohen's."""

    question: str
    rater_a: str
    rater_b: str
    n: int
    agreement: float
    kappa: float


def cohen_kappa(a: ArrayLike, b: ArrayLike) -> float:
    """(observed - chance agreement) / (1 - chance agreement) of two raters on `[N]` unordered values.

    Returns 1 for full agreement, 0 for chance; `nan` when N = 0 or when both always say the same single value.

    Raises:
        ValueError: different lengths.

    Source: Cohen (1960).
    """
    x, y = np.asarray(a), np.asarray(b)
    if x.shape != y.shape or x.ndim != 1:
        raise ValueError(f"a {x.shape} and b {y.shape} must be two lists of one length")
    if not len(x):
        return NAN
    observed = float((x == y).mean())
    chance = float(sum((x == value).mean() * (y == value).mean() for value in np.unique(np.concatenate([x, y]))))
    return (observed - chance) / (1 - chance) if chance < 1 else NAN


def krippendorff_alpha(ratings: ArrayLike, level: Literal["nominal", "ordinal"] = "nominal") -> float:
    """1 - observed / expected disagreement of any number of raters, with missing values.

    Args:
        ratings: `[R, N]` raters x items, NaN where a rater gave no answer. Items with fewer than two answers drop out.
        level: "nominal" counts any difference as 1; "ordinal" squares the ranks that lie between two values.

    Returns:
        1 for full agreement, 0 for chance; `nan` when fewer than two different values can be compared.

    Raises:
        ValueError: ratings is not two-dimensional.

    Source: Krippendorff (2011), Computing Krippendorff's alpha-reliability, sections C and D.
    """
    table = np.asarray(ratings, dtype=np.float64)
    if table.ndim != 2:
        raise ValueError(f"ratings {table.shape} must be raters x items")
    table = table[:, (~np.isnan(table)).sum(axis=0) >= 2]
    values = np.unique(table[~np.isnan(table)])
    if len(values) < 2:
        return NAN
    counts = (table[None] == values[:, None, None]).sum(axis=1).astype(np.float64)  # [V, N] answers by value and item
    pairs = counts / (counts.sum(axis=0) - 1)  # an item with m answers weighs m, whatever m is
    coincidence = pairs @ counts.T - np.diag(pairs.sum(axis=1))  # [V, V]
    total = coincidence.sum(axis=1)
    distance = _distance(total, level)
    observed = float((coincidence * distance).sum())
    expected = float((np.outer(total, total) * distance).sum()) / (float(total.sum()) - 1)
    return 1.0 - observed / expected


def rater_table(judgements: Iterable[Judgement]) -> list[RaterAgreement]:
    """Agreement of every two raters on every question both answered, in the order of `QUESTIONS`, then by rater.

    A "safe" answer is compared with the `safe` of a "label"; "better", "safer" and "single" by response id. When a
    rater answered twice about an item the later row counts, since the judgement log only grows.

    Raises:
        ValueError: a "label" value that is no label; the message names item and rater.
    """
    answers: dict[str, dict[str, dict[str, int]]] = defaultdict(lambda: defaultdict(dict))
    for judgement in judgements:
        for question, value in _answers(judgement):
            answers[question][judgement.rater][judgement.item] = value
    rows = []
    for question in QUESTIONS:
        for rater_a, rater_b in combinations(sorted(answers[question]), 2):
            of_a, of_b = answers[question][rater_a], answers[question][rater_b]
            shared = sorted(of_a.keys() & of_b.keys())
            if shared:
                a, b = np.array([of_a[item] for item in shared]), np.array([of_b[item] for item in shared])
                share, kappa = float((a == b).mean()), cohen_kappa(a, b)
                rows.append(RaterAgreement(question, rater_a, rater_b, len(shared), share, kappa))
    return rows


def _answers(judgement: Judgement) -> Iterator[tuple[str, int]]:
    """The comparable (question, value) pairs of one judgement; none when it is unjudged."""
    if judgement.value is None:
        return
    if judgement.question == "label":
        label = judgement.label()
        yield "safe", int(label.safe)
        yield "severity", int(label.severity)
    else:
        yield judgement.question, int(judgement.value)


def _distance(total: Floats, level: Literal["nominal", "ordinal"]) -> Floats:
    """Squared difference `[V, V]` between values that occur `total[V]` times, in rising order."""
    if level == "nominal":
        return 1.0 - np.eye(len(total))
    middle = np.cumsum(total) - total / 2  # the mid-rank of each value
    squared: Floats = (middle[:, None] - middle[None, :]) ** 2
    return squared
