"""RePO: rectified policy optimisation (Peng et al., arXiv 2410.19933).

    max over theta, min over lambda >= 0 of   E[R] - lambda E over prompts [ (J_C(x) - d)^+ ]

A constraint on the mean cost lets a very safe prompt pay for an unsafe one. RePO rectifies each prompt's excess, so
that slack pays for nothing:

1. J_C(x): mean cost of the rollout's responses to x (with one response to a prompt, its cost)   (`prompt_costs`);
2. lambda <- lambda + eta mean of (J_C(x) - d)^+                         (`multiplier.RectifiedMultiplier`);
3. prompts that violate:      A = (A_r - lambda A_c) / (1 + lambda),
   prompts that do not:       A = A_r                                    (`core.combine`, a lambda for each row);
4. the rest as in PPO-Lagrangian, two critics among it.

The paper sets d = 0. Lambda never falls, by 2; give its rule a maximum. This file holds 1 and 3.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from poise.align.algorithms.ppo_lagrangian import Experience, PPOLagrangian, Targets
from poise.align.core import group_mean


class RePO(NamedTuple):
    """Constants of the algorithm. Args: ppo, those of PPO-Lagrangian; threshold, d of every prompt."""

    ppo: PPOLagrangian = PPOLagrangian()
    threshold: float = 0.0

    def targets(self, experience: Experience, multiplier: float, groups: Tensor) -> Targets:
        """Advantage of the actor and returns of both critics, float[B, T] each.

        Args:
            experience: of one whole rollout, so that a prompt's responses stand together.
            multiplier: lambda >= 0.
            groups: int64[B], the same number for responses to the same prompt.
        """
        return self.ppo.targets(experience, self.row_multipliers(experience.cost, multiplier, groups)[:, None])

    def row_multipliers(self, cost: Tensor, multiplier: float | Tensor, groups: Tensor) -> Tensor:
        """float[B]: lambda for the responses to a prompt that violates, zero for the others.

        Args:
            cost: sequence scores float[B] of one whole rollout, higher is worse.
            multiplier: lambda >= 0, or float[B].
            groups: int64[B], the same number for responses to the same prompt.
        """
        return multiplier * (group_mean(cost, groups) > self.threshold).to(cost.dtype)


def prompt_costs(cost: Tensor, groups: Tensor) -> list[float]:
    """J_C(x) of each prompt of the rollout, in order of its number: what `RectifiedMultiplier.update` takes.

    Args:
        cost: sequence scores float[B], higher is worse.
        groups: int64[B], the same number for responses to the same prompt.
    """
    means, numbers = group_mean(cost, groups), torch.unique(groups)
    return [float(means[groups == number][0]) for number in numbers]
