"""PPO on one reward, without a constraint (Schulman et al., arXiv 1707.06347, as used by Ouyang et al., 2203.02155).

    max over theta   E[R] - beta KL(pi_theta || pi_ref)

1. token rewards r_t = -beta (log pi - log pi_ref) + R at the end      (`core.token_signal`);
2. advantages by GAE with one critic                                    (`core.gae`);
3. clipped PPO step on the actor, clipped value step on the critic      (`core.actor_loss`, `core.critic_loss`).

This file holds 1 and 2. What is left out: whitening of advantages, an adaptive beta, the PTX term (the engine's).
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from poise.align.core import Advantage, gae, token_signal


class RewardExperience(NamedTuple):
    """What the engine measured on one rollout of B responses.

    Args:
        reward: sequence scores float[B], higher is better.
        log_prob, reference_log_prob: of the sampled tokens under actor and reference, float[B, T].
        value: the critic before each response token, float[B, T].
        mask: bool[B, T], true at response tokens.
    """

    reward: Tensor
    log_prob: Tensor
    reference_log_prob: Tensor
    value: Tensor
    mask: Tensor


class PPO(NamedTuple):
    """Constants of the algorithm. Args: kl is beta; gamma and lam are those of GAE; score_clip as in Safe RLHF."""

    kl: float = 0.02
    gamma: float = 1.0
    lam: float = 0.95
    score_clip: float = 50.0

    def targets(self, experience: RewardExperience) -> Advantage:
        """What the actor (`advantage`) and the critic (`returns`) learn from, float[B, T] each."""
        e = experience
        penalty = self.kl * (e.log_prob - e.reference_log_prob)
        signal = token_signal(e.reward, -penalty, e.mask, self.score_clip)
        return gae(signal, e.value, e.mask, self.gamma, self.lam)
