"""RLOO-Lagrangian: leave-one-out advantages under a constraint, the whole response as one action.

    max over theta, min over lambda >= 0 of   E[R] - sum_k lambda_k (E[C_k] - d_k) - beta KL(pi_theta || pi_ref)

RLOO is Ahmadian et al., arXiv 2402.14740; under a constraint:

1. G responses to each prompt, scored with R and every C_k at their end;
2. B_R, B_C,k: each score minus the mean of the other scores of its group               (`core.leave_one_out`),
   over the root mean square of that component in the rollout                           (`core.batch_scaled`);
3. lambda_k moves by its rule on the mean of C_k                                         (`multiplier`);
4. A = (B_R - sum lambda_k B_C,k) / (1 + sum lambda_k) - beta B_KL                       (`core.combine`),
   with B_KL the leave-one-out value of log pi(y) - log pi_ref(y), not scaled, so that its weight is beta whatever
   lambda and the spread of the scores are;
5. clipped step on pi(y | x) / pi_old(y | x)                                             (`core.sequence_actor_loss`).

`scalarize="reward"` sums R - sum lambda_k C_k before 2, the order that drowns an indicator cost beside a reward of
large spread (see `grpo_lagrangian`). This file holds 2, 4 and 5.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from poise.align.core import batch_scaled, combine, leave_one_out, sequence_actor_loss


class RLOOLagrangian(NamedTuple):
    """Constants of the algorithm. Args: kl is beta; clip of the ratio; scalarize, see the module."""

    kl: float = 0.05
    clip: float = 0.2
    scalarize: Literal["advantage", "reward"] = "advantage"

    def advantage(
        self,
        reward: Tensor,
        cost: Tensor | Sequence[Tensor],
        groups: Tensor,
        multiplier: float | Tensor | Sequence[float | Tensor],
        divergence: Tensor,
    ) -> Tensor:
        """A of each response, float[B].

        Args:
            reward: sequence scores float[B], higher is better.
            cost: float[B], higher is worse; or one for each of K constraints.
            groups: int64[B], the same number for responses to the same prompt, at least two of each.
            multiplier: lambda >= 0, or float[B] with one for each response; or K of them.
            divergence: log pi(y | x) - log pi_ref(y | x) float[B] of the policy that sampled.
        """
        costs = [cost] if isinstance(cost, Tensor) else list(cost)
        if self.scalarize == "reward":
            scored = batch_scaled(leave_one_out(combine(reward, costs, multiplier), groups))
        else:
            scaled = [batch_scaled(leave_one_out(each, groups)) for each in costs]
            scored = combine(batch_scaled(leave_one_out(reward, groups)), scaled, multiplier)
        return scored - self.kl * leave_one_out(divergence, groups)

    def loss(self, log_prob: Tensor, old_log_prob: Tensor, advantage: Tensor, mask: Tensor) -> Tensor:
        """Scalar clipped surrogate, a mean over responses.

        Args:
            log_prob, old_log_prob: float[B, T] of the tokens.
            advantage: float[B].
            mask: bool[B, T], true at response tokens.
        """
        return sequence_actor_loss(log_prob, old_log_prob, advantage, mask, self.clip)


def divergence(log_prob: Tensor, reference_log_prob: Tensor, mask: Tensor) -> Tensor:
    """log pi(y | x) - log pi_ref(y | x) float[B] from token log-probabilities float[B, T]."""
    return torch.where(mask, log_prob - reference_log_prob, 0.0).sum(-1)
