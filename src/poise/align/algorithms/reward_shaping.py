"""PPO on a shaped reward, the baseline of Safe RLHF (Dai et al., arXiv 2310.12773).

    max over theta   E[R - nu C] - beta KL(pi_theta || pi_ref),   nu fixed

It is PPO with R' = R - nu C, one critic and no multiplier that moves. The paper's grid of nu is .01, .5, 1, 2, 5, 10,
100: too small a nu breaks the constraint, too large a one gives up the reward, and the right one is known afterwards.
`multiplier.FixedMultiplier` holds nu where an engine wants a multiplier.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from poise.align.algorithms.ppo import PPO, RewardExperience
from poise.align.core import Advantage


class RewardShaping(NamedTuple):
    """Constants of the algorithm: those of PPO, which runs on the shaped reward."""

    ppo: PPO = PPO()

    def targets(self, experience: RewardExperience, cost: Tensor, weight: float) -> Advantage:
        """What actor and critic learn from, float[B, T] each.

        Args:
            experience: with the unshaped reward and the critic of the shaped one.
            cost: sequence scores float[B], higher is worse.
            weight: nu >= 0.
        """
        return self.ppo.targets(experience._replace(reward=experience.reward - weight * cost))
