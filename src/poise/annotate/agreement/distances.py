"""How far two values are from each other, for Krippendorff's alpha.

A distance takes the values and how often each occurs, and gives [K, K] squared differences in Krippendorff's sense:
0 on the diagonal, symmetric. Source: Krippendorff, Computing Krippendorff's Alpha-Reliability (2011), section E.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from poise.annotate.agreement.ratings import Floats, Ints

Distance = Callable[[Sequence[Any], Floats], Floats]
"""(K values, [..., K] how often each occurs) -> [..., K, K]."""
SetDistance = Callable[[Ints, Ints], Floats]
"""Bit masks of sets, broadcast against each other -> distances."""


def nominal(values: Sequence[Any], marginals: Floats) -> Floats:
    """0 for equal values, else 1."""
    return np.broadcast_to(1.0 - np.eye(len(values)), (*marginals.shape, len(values)))


def ordinal(values: Sequence[Any], marginals: Floats) -> Floats:
    """(sum of n_g for g from c to k, minus (n_c + n_k) / 2) squared; the values are in their order."""
    upto = np.cumsum(marginals, axis=-1) - marginals / 2.0
    return (upto[..., :, None] - upto[..., None, :]) ** 2


def interval(values: Sequence[Any], marginals: Floats) -> Floats:
    """(c - k) squared; the values are numbers."""
    numbers = np.array(values, float)
    squared = (numbers[:, None] - numbers[None, :]) ** 2
    return np.broadcast_to(squared, (*marginals.shape, len(values)))


def jaccard(a: Ints, b: Ints) -> Floats:
    """1 - |A and B| / |A or B| of sets as bit masks below 2**63, elementwise; two empty sets are equal."""
    both, either = np.bitwise_count(a & b).astype(float), np.bitwise_count(a | b)
    return 1.0 - np.where(either == 0, 1.0, both / np.maximum(either, 1))


def masi(a: Ints, b: Ints) -> Floats:
    """1 - Jaccard index x monotonicity: 1 for equal sets, 2/3 for one within the other, 1/3 for overlap, else 0.

    The empty set lies within every set but shares nothing with it, so their distance is 1. Source: Passonneau,
    Measuring Agreement on Set-valued Items (MASI) for Semantic and Pragmatic Annotation, LREC 2006.
    """
    both = a & b
    monotone = np.where((both == a) | (both == b), 2.0 / 3.0, np.where(both != 0, 1.0 / 3.0, 0.0))
    return 1.0 - (1.0 - jaccard(a, b)) * np.where(a == b, 1.0, monotone)


SET_DISTANCES: dict[str, SetDistance] = {"masi": masi, "jaccard": jaccard}
DISTANCES: dict[str, Distance] = {"nominal": nominal, "ordinal": ordinal, "interval": interval}
