"""Percent agreement, Gwet's AC1 and AC2, Fleiss' kappa, for any number of raters; Cohen's kappa for two.

All are (p_a - p_e) / (1 - p_e) over [K, K] weights w (identity: plain; linear; quadratic; ordinal), and differ in p_e.
Source: Gwet, Handbook of Inter-Rater Reliability, 4th ed. (2014), chapters 2-4; with r_ik how often item i has value k,
r*_ik = sum_l w_kl r_il, r_i the values of item i, pi_k the mean of r_ik / r_i over items with a value:

    p_a = mean over items with r_i > 1 of sum_k r_ik (r*_ik - 1) / (r_i (r_i - 1))
    AC1, AC2: p_e = sum_kl w_kl sum_k pi_k (1 - pi_k) / (K (K - 1))
    Fleiss:   p_e = sum_kl w_kl pi_k pi_l
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np

from poise.annotate.agreement.estimate import NO_VARIATION, REPLICATES, Estimate, estimate
from poise.annotate.agreement.patterns import multinomial_blocks
from poise.annotate.agreement.ratings import Floats, Ratings
from poise.errors import PoiseError

Weights = Literal["identity", "linear", "quadratic", "ordinal"]


def agreement_weights(size: int, kind: Weights = "identity") -> Floats:
    """[K, K] weights, 1 on the diagonal.

    Linear and quadratic count steps between values; ordinal is 1 - C(|k - l| + 1, 2) / C(K, 2)
    (Gwet 2014, section 3.5).

    Raises:
        PoiseError: no such kind.
    """
    steps: Floats = np.abs(np.subtract.outer(np.arange(size), np.arange(size))).astype(float)
    most = max(size - 1, 1)
    tables: dict[str, Floats] = {
        "identity": (steps == 0).astype(float),
        "linear": 1.0 - steps / most,
        "quadratic": 1.0 - (steps / most) ** 2,
        "ordinal": 1.0 - steps * (steps + 1) / (most * (most + 1)),
    }
    if kind not in tables:
        raise PoiseError(f"weights {kind!r}", do=f"use one of {', '.join(tables)}")
    return tables[kind]


def percent(
    ratings: Ratings, weights: Weights = "identity", *, replicates: int = REPLICATES, seed: int = 0
) -> Estimate:
    """p_a: the mean share of agreeing pairs of an item, in 0..1; not corrected for chance."""
    return _coefficient(ratings, weights, "percent", replicates, seed)


def gwet_ac(
    ratings: Ratings, weights: Weights = "identity", *, replicates: int = REPLICATES, seed: int = 0
) -> Estimate:
    """Gwet's AC1, or AC2 with weights; stays defined, as 1, where all values are the same, and then says so."""
    return _coefficient(ratings, weights, "gwet", replicates, seed)


def fleiss_kappa(
    ratings: Ratings, weights: Weights = "identity", *, replicates: int = REPLICATES, seed: int = 0
) -> Estimate:
    """Fleiss' kappa, also for items with different numbers of values (Fleiss 1971 has equal ones)."""
    return _coefficient(ratings, weights, "fleiss", replicates, seed)


def _coefficient(ratings: Ratings, kind: Weights, name: str, replicates: int, seed: int) -> Estimate:
    found, table = ratings.patterns, agreement_weights(len(ratings.values), kind)
    counts = found.counts.astype(float)
    size = counts.sum(1)
    shares = counts / size[:, None]  # [P, K]
    paired = (size > 1).astype(float)
    agreed = (counts * (counts @ table - 1.0)).sum(1) / np.maximum(size * (size - 1.0), 1.0) * paired

    def formula(weights: Floats) -> Floats:
        by_pairs = weights @ paired
        observed: Floats = np.divide(weights @ agreed, by_pairs, out=np.full_like(by_pairs, np.nan), where=by_pairs > 0)
        if name == "percent":
            return observed
        pi = (weights @ shares) / weights.sum(1, keepdims=True)
        expected = np.einsum("kl,bk,bl->b", table, pi, pi)
        if name == "gwet":
            cells = max(len(table) * (len(table) - 1), 1)
            expected = table.sum() * (pi * (1.0 - pi)).sum(1) / cells
        return chance_corrected(observed, expected)

    result = estimate(
        formula,
        found.weights.astype(float),
        found.resamples(replicates, seed),
        items=found.pairable_items,
        values=found.pairable_values,
        undefined=NO_VARIATION,
    )
    alone = found.pairable_items and (found.counts.sum(0) > 0).sum() == 1
    return replace(result, reason=NO_VARIATION) if alone and not result.reason else result


def chance_corrected(observed: Floats, expected: Floats) -> Floats:
    """(p_a - p_e) / (1 - p_e), NaN where p_e is 1."""
    room = 1.0 - expected
    defined = room > 1e-12
    return np.divide(observed - expected, room, out=np.full_like(observed, np.nan), where=defined)


def cohen_kappa(
    ratings: Ratings,
    first: int,
    second: int,
    weights: Weights = "identity",
    *,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> Estimate:
    """Cohen's kappa of two raters on the items that both judged.

    p_e = sum_kl w_kl p_k+ p_+l with the two raters' own marginals. Source: Cohen 1960; weighted: Cohen 1968.

    Args:
        first, second: positions in `ratings.raters`. An item that one of them judged twice counts with the last value.
    """
    table = agreement_weights(len(ratings.values), weights)
    crossed = confusion(ratings, first, second)
    size = len(table)
    cells = crossed.ravel()

    def formula(drawn: Floats) -> Floats:
        joint = (drawn / drawn.sum(1, keepdims=True)).reshape(-1, size, size)
        expected = np.einsum("kl,bk,bl->b", table, joint.sum(2), joint.sum(1))
        return chance_corrected((joint * table).sum((1, 2)), expected)

    both = int(cells.sum())
    return estimate(
        formula,
        cells if both else cells[:0],
        multinomial_blocks(cells.astype(np.int64), replicates, seed),
        items=both,
        values=2 * both,
        undefined=NO_VARIATION,
    )


def confusion(ratings: Ratings, first: int, second: int) -> Floats:
    """[K, K] items by the value of the first rater (rows) and of the second (columns), where both judged."""
    size = len(ratings.values)
    given = []
    for rater in (first, second):
        own = ratings.by([rater])
        codes = np.full(ratings.items, -1, np.int64)
        codes[own.item] = own.value
        given.append(codes)
    both = (given[0] >= 0) & (given[1] >= 0)
    flat = np.bincount(given[0][both] * size + given[1][both], minlength=size * size)
    return flat.reshape(size, size).astype(float)
