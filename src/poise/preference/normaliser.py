"""Brings raw scores to unit size; the statistics are fitted on training responses and stored beside the models.

Reward: affine, (r - mean) / std. Cost: scale only, c / std, because its zero is the boundary and has to stay. Source:
the normalisers of safe-rlhf, which attaches them and leaves them off. Applied by `poise.align.engine`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from poise.errors import PoiseError

SAMPLE = 1000
"""About so many training responses are enough for a mean and a spread."""


def fit_scale(reward: ArrayLike, cost: ArrayLike) -> dict[str, float]:
    """What `scale.json` holds: reward_mean, reward_std and cost_std of raw scores float[N].

    Raises:
        PoiseError: all scores of a model are equal, so that it has learnt nothing.
    """
    r, c = (np.asarray(scores, dtype=np.float64) for scores in (reward, cost))
    scale = {"reward_mean": float(r.mean()), "reward_std": float(r.std()), "cost_std": float(c.std())}
    for name in ("reward_std", "cost_std"):
        if not scale[name] > 0:
            raise PoiseError(f"{name} of {len(r)} responses is {scale[name]}", where="preference", exit_code=4)
    return scale
