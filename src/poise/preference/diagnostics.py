"""How good the preference models are on pairs they have not seen."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from poise.preference.pairs import PreferenceData

BoolArray = NDArray[np.bool_]


class Diagnostics(NamedTuple):
    """Hits by pair or by example, so that a caller can put intervals around their means.

    Args:
        reward_pairs: bool[P], the better response has the higher reward.
        cost_pairs: bool[P], the more harmful response has the higher cost.
        by_rung: the same by what separates the pair ("boundary", "severity", "categories", "none").
        signs: bool[N], cost > 0 for unsafe and < 0 for safe examples.
    """

    reward_pairs: BoolArray
    cost_pairs: BoolArray
    by_rung: dict[str, BoolArray]
    signs: BoolArray


def diagnose(data: PreferenceData, reward: NDArray[np.float64], cost: NDArray[np.float64]) -> Diagnostics:
    """Compare scores float[N] with the judged pairs and labels of `data`."""
    rewarded = [reward[p.rows[p.better]] > reward[p.rows[1 - p.better]] for p in data.pairs if p.better is not None]
    rungs: dict[str, list[bool]] = {}
    for p in data.pairs:
        if p.safer is not None:
            rungs.setdefault(p.rung, []).append(bool(cost[p.rows[1 - p.safer]] > cost[p.rows[p.safer]]))
    signs = [
        bool(cost[i] > 0 if e.unsafe else cost[i] < 0) for i, e in enumerate(data.examples) if e.unsafe is not None
    ]
    return Diagnostics(
        np.array(rewarded, dtype=bool),
        np.array([hit for hits in rungs.values() for hit in hits], dtype=bool),
        {name: np.array(rungs[name], dtype=bool) for name in sorted(rungs)},
        np.array(signs, dtype=bool),
    )
