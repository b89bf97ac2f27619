"""DPO (Rafailov et al., arXiv 2305.18290, eq. 7) and IPO (Azar et al., arXiv 2310.12036, eq. 17).

With h the gap of log-ratios between chosen and rejected (`PairLogProbs.gap`):

    DPO   L = -log s(beta h)
    IPO   L = (h - 1 / (2 beta))^2

Both learn one preference; which one (helpful or harmless) is the choice of who labels the pairs. IPO's target is a
number of nats, so on responses of very unequal length take averaged log-probabilities (`sequence_log_probs`).
"""

from __future__ import annotations

from typing import NamedTuple

from torch.nn.functional import logsigmoid

from poise.align.algorithms.pairs import PairLogProbs, PairLoss, pair_loss


class DPO(NamedTuple):
    """Constants. Args: beta > 0; the larger, the nearer to the reference."""

    beta: float = 0.1

    def loss(self, pairs: PairLogProbs) -> PairLoss:
        """-log s(beta h), float[P]."""
        return pair_loss(-logsigmoid(self.beta * pairs.gap), pairs, self.beta)


class IPO(NamedTuple):
    """Constants. Args: beta > 0, the paper's tau; the gap is drawn to 1 / (2 beta)."""

    beta: float = 0.1

    def loss(self, pairs: PairLogProbs) -> PairLoss:
        """(h - 1 / (2 beta))^2, float[P]."""
        return pair_loss((pairs.gap - 1 / (2 * self.beta)).square(), pairs, self.beta)
