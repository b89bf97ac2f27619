"""A coefficient with its interval, and why it is undefined where it is."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from poise.annotate.agreement.ratings import Floats

NO_PAIRS = "no item has two values"
NO_VARIATION = "no variation: all values are the same"
REPLICATES = 1000
LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A number with a percentile bootstrap interval over items.

    Args:
        value: NaN where it is undefined.
        low, high: the interval; NaN without a bootstrap or where the value is undefined.
        items: items that count (with two values or more).
        values: values on them.
        replicates: resamples in which the coefficient is defined.
        reason: why the value is undefined, or what to know of it; None where there is nothing to say.
    """

    value: float
    low: float = math.nan
    high: float = math.nan
    items: int = 0
    values: int = 0
    replicates: int = 0
    reason: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The fields; NaN becomes None."""
        return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in asdict(self).items()}


def estimate(
    formula: Callable[[Floats], Floats],
    weights: Floats,
    resamples: Iterable[Floats],
    *,
    items: int,
    values: int,
    undefined: str,
) -> Estimate:
    """The formula at the weights, with an interval from resampled weights.

    Args:
        formula: [b, P] weights of patterns -> [b] coefficients, NaN where undefined.
        undefined: the reason where it is so at `weights`.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        value = float(formula(weights[None, :].astype(float))[0]) if len(weights) else math.nan
        if math.isnan(value):
            return Estimate(value, items=items, values=values, reason=undefined if items else NO_PAIRS)
        draws = np.concatenate([np.empty(0), *(formula(block) for block in resamples)])
    draws = draws[~np.isnan(draws)]
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]) if len(draws) else (math.nan, math.nan)
    return Estimate(value, float(low), float(high), items, values, len(draws))
