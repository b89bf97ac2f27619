"""What every offline method takes: log-probabilities of two responses to a prompt under policy and reference.

They are sums over response tokens (`core.sequence_log_probs`). Losses come back one for each pair, so that a trainer
sums them, divides by the pairs of the optimizer step, and gets the same step however it cuts micro-batches.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class PairLogProbs(NamedTuple):
    """log pi(y | x) float[P] each. Args: chosen is the response that the method prefers, rejected the other."""

    policy_chosen: Tensor
    policy_rejected: Tensor
    reference_chosen: Tensor
    reference_rejected: Tensor

    @property
    def gap(self) -> Tensor:
        """h = log pi(y_w) / pi_ref(y_w) - log pi(y_l) / pi_ref(y_l), float[P]."""
        return (self.policy_chosen - self.reference_chosen) - (self.policy_rejected - self.reference_rejected)


class PairLoss(NamedTuple):
    """Loss of each pair float[P], with gradient, and the implicit rewards beta log pi / pi_ref float[P], without."""

    loss: Tensor
    chosen_reward: Tensor
    rejected_reward: Tensor

    @property
    def accuracy(self) -> Tensor:
        """Share of pairs whose chosen response has the higher implicit reward, scalar."""
        return (self.chosen_reward > self.rejected_reward).float().mean()


def pair_loss(loss: Tensor, pairs: PairLogProbs, beta: float) -> PairLoss:
    """Put the implicit rewards beside a loss float[P]."""
    chosen = beta * (pairs.policy_chosen - pairs.reference_chosen)
    rejected = beta * (pairs.policy_rejected - pairs.reference_rejected)
    return PairLoss(loss, chosen.detach(), rejected.detach())
