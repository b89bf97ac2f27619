"""The Lagrange multiplier: rises while the mean cost is above the threshold, falls while it is below.

Every rule is updated once per rollout, with the sequence costs of all processes (`gathered`), and is state.

| rule | class | source |
|---|---|---|
| logarithmic | `LogMultiplier` | Safe RLHF |
| bounded budget | `bounded_budget()` | Safe RLHF-V |
| linear, projected | `LinearMultiplier` | Chow et al. 2015 |
| PID | `PIDMultiplier` | Stooke et al. 2020 |
| rectified | `RectifiedMultiplier` | RePO |
| fixed | `FixedMultiplier` | reward shaping |
| several of them | `Multipliers` | one for each severity or group |

The constraint is mean cost <= threshold; `threshold_from_paper` turns the sign of the papers' d.
"""

from poise.align.multiplier.fixed import FixedMultiplier
from poise.align.multiplier.linear import LinearMultiplier
from poise.align.multiplier.log_space import LogMultiplier, bounded_budget
from poise.align.multiplier.pid import PIDMultiplier
from poise.align.multiplier.rectified import RectifiedMultiplier
from poise.align.multiplier.several import Multipliers
from poise.align.multiplier.window import (
    CostWindow,
    Multiplier,
    gathered,
    paper_from_threshold,
    threshold_from_paper,
)

__all__ = [
    "CostWindow",
    "FixedMultiplier",
    "LinearMultiplier",
    "LogMultiplier",
    "Multiplier",
    "Multipliers",
    "PIDMultiplier",
    "RectifiedMultiplier",
    "bounded_budget",
    "gathered",
    "paper_from_threshold",
    "threshold_from_paper",
]
