"""Krippendorff's alpha = 1 - D_o / D_e, for any number of raters and with values missing.

Source: Krippendorff, Computing Krippendorff's Alpha-Reliability (2011). With n_uk how often unit u has value k, m_u the
values of u and n all pairable values (units with one value do not count):

    o_ck = sum_u (n_uc n_uk - [c = k] n_uc) / (m_u - 1)       coincidences (step 2)
    alpha = 1 - (n - 1) sum_ck o_ck d_ck / sum_ck n_c n_k d_ck   (section F)

The interval resamples units, which Krippendorff's own bootstrap does not (it resamples pairs as if they were
independent); it is therefore wider.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from poise.annotate.agreement.distances import DISTANCES, SET_DISTANCES, Distance, SetDistance
from poise.annotate.agreement.estimate import NO_VARIATION, REPLICATES, Estimate, estimate
from poise.annotate.agreement.patterns import multinomial_blocks
from poise.annotate.agreement.ratings import Floats, Ints, Ratings
from poise.errors import PoiseError

_PATTERN_WORK = 4_000_000
"""Draws of a bootstrap over many patterns: fewer replicates where there are more, but at least 100."""
_CHUNK = 1024
_MOST_VALUES, _MOST_CELLS = 256, 200_000_000
"""Values K of a scale, and numbers [P, K, K] over P patterns, that are held at a time: 1.6 GB."""
_EXACT = 2048
"""Distances of more sets than this are held in single precision, half the memory."""


def fits(ratings: Ratings) -> bool:
    """Whether a scale has few enough values for `alpha`."""
    size = len(ratings.values)
    return size <= _MOST_VALUES and len(ratings.patterns.counts) * size**2 <= _MOST_CELLS


def alpha(
    ratings: Ratings, distance: str | Distance = "nominal", *, replicates: int = REPLICATES, seed: int = 0
) -> Estimate:
    """Krippendorff's alpha on a scale of few values.

    Args:
        distance: "nominal", "ordinal" (values in their order), "interval" (values are numbers), or a function.
        replicates: resamples of the interval, 0 for none.

    Raises:
        PoiseError: no such distance, an interval scale whose values are no numbers, or more values than memory holds.
    """
    if not fits(ratings):
        raise PoiseError(f"a scale of {len(ratings.values)} values", do="give fewer values, or sets to `alpha_sets`")
    measure = _distance(distance, ratings)
    found = ratings.patterns
    size = found.counts.sum(1)
    counts = np.where(size[:, None] > 1, found.counts, 0).astype(float)  # [P, K]
    pairs = counts[:, :, None] * counts[:, None, :] - counts[:, :, None] * np.eye(counts.shape[1])
    pairs /= np.maximum(size - 1, 1)[:, None, None]  # [P, K, K], o_ck of one unit

    def formula(weights: Floats) -> Floats:
        marginals = weights @ counts  # [b, K]
        coincidences = (weights @ pairs.reshape(len(pairs), -1)).reshape(len(weights), *pairs.shape[1:])
        delta = measure(ratings.values, marginals)
        observed = (coincidences * delta).sum((1, 2))
        expected = np.einsum("bc,bk,bck->b", marginals, marginals, delta)
        return _one_minus((marginals.sum(1) - 1.0) * observed, expected)

    return estimate(
        formula,
        found.weights.astype(float),
        found.resamples(replicates, seed),
        items=found.pairable_items,
        values=found.pairable_values,
        undefined=NO_VARIATION,
    )


def alpha_sets(
    ratings: Ratings, distance: str | SetDistance = "masi", *, replicates: int = REPLICATES, seed: int = 0
) -> Estimate:
    """Krippendorff's alpha on sets (values are bit masks), with the distance "masi" or "jaccard" or a function of two.

    There may be thousands of different sets, so pairs are listed and D_e is summed block by block. Where items differ
    much, the interval has fewer replicates than asked for (`Estimate.replicates`), at least 100.

    Raises:
        PoiseError: no such distance.
    """
    measure = SET_DISTANCES.get(distance) if isinstance(distance, str) else distance
    if measure is None:
        raise PoiseError(f"distance {distance!r}", do=f"use one of {', '.join(SET_DISTANCES)}")
    weights, unit, value, observed = _set_patterns(ratings, measure)
    used, value = np.unique(value, return_inverse=True)
    masks = np.array([ratings.values[code] for code in used], np.int64)
    entries = np.argsort(value, kind="stable")
    starts = np.searchsorted(value[entries], np.arange(len(used)))
    kind: Any = np.float64 if len(masks) <= _EXACT else np.float32
    blocks = [measure(masks[:, None], masks[None, i : i + _CHUNK]).astype(kind) for i in range(0, len(masks), _CHUNK)]

    def formula(drawn: Floats) -> Floats:
        if not len(masks):
            return np.full(len(drawn), np.nan)
        out = []
        for part in np.array_split(drawn, max(1, drawn.shape[0] * len(entries) // 4_000_000)):
            marginals = np.add.reduceat(part[:, unit[entries]], starts, axis=1)
            expected = np.zeros(len(part))
            for i, block in enumerate(blocks):
                expected += ((marginals.astype(kind) @ block) * marginals[:, i * _CHUNK : (i + 1) * _CHUNK]).sum(1)
            out.append(_one_minus((marginals.sum(1) - 1.0) * (part @ observed), expected))
        return np.concatenate(out)

    draws = min(replicates, max(100, _PATTERN_WORK // max(len(weights), 1)))
    sizes = np.bincount(unit, minlength=len(weights))
    return estimate(
        formula,
        weights.astype(float),
        multinomial_blocks(weights, draws, seed),
        items=int(weights.sum()),
        values=int((weights * sizes).sum()),
        undefined=NO_VARIATION,
    )


def _one_minus(observed: Floats, expected: Floats) -> Floats:
    """1 - observed / expected, NaN where nothing is expected."""
    return 1.0 - np.divide(observed, expected, out=np.full_like(expected, np.nan), where=expected > 0)


def _set_patterns(ratings: Ratings, measure: SetDistance) -> tuple[Ints, Ints, Ints, Floats]:
    """Distinct units with two values or more: weights [P]; the unit and value of entries [E]; disagreement [P]."""
    rows = ratings.keep(ratings.per_item[ratings.item] > 1)
    order = np.lexsort((rows.value, rows.item))
    item, value = rows.item[order], rows.value[order]
    starts = np.flatnonzero(np.diff(item, prepend=-1))
    sizes = np.diff(starts, append=len(item))
    if not len(starts):
        none = np.empty(0, np.int64)
        return none, none, none, np.empty(0)
    keys = np.empty((len(starts), int(sizes.max())), np.int64)
    keys[:] = -1
    keys[np.repeat(np.arange(len(starts)), sizes), np.arange(len(item)) - np.repeat(starts, sizes)] = value
    _, first, weights = np.unique(_ids(keys), return_index=True, return_counts=True)
    keys, sizes = keys[first], sizes[first]
    masks = np.array(ratings.values, np.int64)
    observed = np.zeros(len(keys))
    for a in range(keys.shape[1]):
        for b in range(a + 1, keys.shape[1]):
            both = keys[:, b] >= 0  # what is missing stands last
            observed[both] += 2.0 * measure(masks[keys[both, a]], masks[keys[both, b]])
    observed /= sizes - 1
    unit, column = np.nonzero(keys >= 0)
    return weights.astype(np.int64), unit, keys[unit, column], observed


def _ids(keys: Ints) -> Ints:
    """[P] equal numbers for equal rows, exactly."""
    ids = keys[:, 0]
    for column in keys.T[1:]:
        _, ids = np.unique(ids * (int(column.max()) + 2) + column + 1, return_inverse=True)
    return ids


def _distance(distance: str | Distance, ratings: Ratings) -> Distance:
    if not isinstance(distance, str):
        return distance
    if distance not in DISTANCES:
        raise PoiseError(f"distance {distance!r}", do=f"use one of {', '.join(DISTANCES)}")
    if distance == "interval" and not all(isinstance(value, int | float) for value in ratings.values):
        raise PoiseError("interval distance of values that are no numbers", do="use nominal or ordinal")
    return DISTANCES[distance]
