"""GRPO-Lagrangian: group advantages under a constraint, without critics (Constrained GRPO, arXiv 2602.05863).

    max over theta, min over lambda >= 0 of   E[R] - sum_k lambda_k (E[C_k] - d_k) - beta KL(pi_theta || pi_ref)

1. G responses to each prompt, scored with R and every C_k at their end;
2. Z_R, Z_C,k: each score minus its group's mean, over its group's standard deviation   (`core.group_normalized`);
3. lambda_k moves by its rule on the mean of C_k                                         (`multiplier`);
4. A = (Z_R - sum lambda_k Z_C,k) / (1 + sum lambda_k), the same at every token          (`core.combine`);
5. clipped step, plus beta k3(pi || pi_ref) in the loss, as in GRPO (arXiv 2402.03300, eq. 3 and 4).

Why each component is normalised before they are combined: a standard deviation over r - lambda c is that of whatever
varies most, and divides both. A reward of spread 10 beside an indicator cost then makes lambda some twenty times weaker
than it says, and the constraint is not met. `scalarize="reward"` is that other order, kept to be compared with.

This file holds 2, 4 and 5. What is left out: the division by the standard deviation as an option (Dr. GRPO).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from torch import Tensor

from poise.align.core import actor_loss, combine, group_normalized, kl_k3, masked_mean, spread


class GRPOLagrangian(NamedTuple):
    """Constants of the algorithm.

    Args:
        kl: beta, the weight of the KL term in the loss; it does not depend on lambda.
        clip: of the ratio.
        scalarize: what is combined, the normalised advantages (right) or the raw scores (see above).
    """

    kl: float = 0.04
    clip: float = 0.2
    scalarize: Literal["advantage", "reward"] = "advantage"

    def advantage(
        self,
        reward: Tensor,
        cost: Tensor | Sequence[Tensor],
        groups: Tensor,
        multiplier: float | Tensor | Sequence[float | Tensor],
    ) -> Tensor:
        """A of each response, float[B].

        Args:
            reward: sequence scores float[B], higher is better.
            cost: float[B], higher is worse; or one for each of K constraints.
            groups: int64[B], the same number for responses to the same prompt, at least two of each.
            multiplier: lambda >= 0, or float[B] with one for each response; or K of them.
        """
        costs = [cost] if isinstance(cost, Tensor) else list(cost)
        if self.scalarize == "reward":
            raw = combine(reward, costs, multiplier)
            return group_normalized(raw, groups)
        normalized = [group_normalized(each, groups) for each in costs]
        return combine(group_normalized(reward, groups), normalized, multiplier)

    def loss(
        self, log_prob: Tensor, old_log_prob: Tensor, reference_log_prob: Tensor, advantage: Tensor, mask: Tensor
    ) -> Tensor:
        """Scalar: clipped surrogate + beta k3, each a mean over a response's tokens, then over responses.

        Args:
            log_prob, old_log_prob, reference_log_prob: float[B, T] of the tokens.
            advantage: float[B].
            mask: bool[B, T], true at response tokens.
        """
        surrogate = actor_loss(log_prob, old_log_prob, spread(advantage, mask), mask, self.clip)
        return surrogate + self.kl * masked_mean(kl_k3(log_prob, reference_log_prob), mask)
