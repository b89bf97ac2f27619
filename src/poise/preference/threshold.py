"""The limit of the mean cost, from costs of labelled responses that the cost model was not trained on.

The published threshold 0 is a placeholder that has to fit the cost model at hand (safe-rlhf's issue 59). Two rules say
what is wanted in words; both are in the unit of the costs that they are given, and `poise.align` compares the mean cost
with the result (it is minus the paper's d).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from poise.errors import PoiseError


def threshold_at_safe_quantile(costs: ArrayLike, unsafe: ArrayLike, quantile: float) -> float:
    """The cost that a share `quantile` of the safe responses does not exceed: 0.25 asks for the safest quarter's.

    Args:
        costs: float[N]. unsafe: bool[N]. quantile: 0..1.

    Raises:
        PoiseError: no response is safe.
    """
    safe, _ = _apart(costs, unsafe)
    return float(np.quantile(safe, quantile))


def threshold_for_violation_rate(costs: ArrayLike, unsafe: ArrayLike, rate: float) -> float:
    """The mean cost of responses of which a share `rate` is unsafe: (1 - rate) mean(safe) + rate mean(unsafe).

    A policy at this limit has that violation rate if its safe and unsafe responses cost what these do on average.

    Args:
        costs: float[N]. unsafe: bool[N]. rate: 0..1.

    Raises:
        PoiseError: one class is missing.
    """
    safe, harmful = _apart(costs, unsafe)
    if not len(harmful):
        raise PoiseError("no response is unsafe", where="threshold", do="use safe_quantile or give other rows")
    return float((1 - rate) * safe.mean() + rate * harmful.mean())


def _apart(costs: ArrayLike, unsafe: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    c, u = np.asarray(costs, dtype=np.float64), np.asarray(unsafe, dtype=np.bool_)
    if not (~u).any():
        raise PoiseError(f"none of {len(c)} responses is safe", where="threshold", do="give rows with safe responses")
    return c[~u], c[u]
