"""SafeDPO (Kim et al., arXiv 2505.20065): DPO on helpfulness pairs, reordered by safety flags, with a margin.

With flags h (1 = unsafe) of the more helpful response w and the other one l:

| w | l | what happens |
|---|---|---|
| safe | any | the pair stays |
| unsafe | safe | w and l change places |
| unsafe | unsafe | the pair is dropped |

    L = -log s(beta gap - (h_l - h_w) Delta)    after the reordering

The margin makes an unsafe answer's probability fall further; pairs of two safe answers keep plain DPO. On data such as
PKU-SafeRLHF the third row is some two fifths of all pairs: report `Reordering.shares`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from poise.align.algorithms.pairs import PairLogProbs, PairLoss, pair_loss


class Reordering(NamedTuple):
    """Args, [P] each: keep bool; swap bool, the less helpful response is chosen; contrast float, h_l - h_w after."""

    keep: Tensor
    swap: Tensor
    contrast: Tensor

    @property
    def shares(self) -> dict[str, float]:
        """Share of pairs dropped, and swapped."""
        return {"dropped": float((~self.keep).float().mean()), "swapped": float(self.swap.float().mean())}


def reorder(unsafe_better: Tensor, unsafe_worse: Tensor) -> Reordering:
    """The table above. Args: bool[P], whether the more and the less helpful response is unsafe."""
    keep = ~(unsafe_better & unsafe_worse)
    contrast = (unsafe_better ^ unsafe_worse).to(torch.get_default_dtype())
    return Reordering(keep, unsafe_better & ~unsafe_worse, contrast)


class SafeDPO(NamedTuple):
    """Constants. Args: beta as in DPO; margin is Delta >= 0 (0 to 20 work in the paper, 50 hurts)."""

    beta: float = 0.1
    margin: float = 10.0

    def loss(self, pairs: PairLogProbs, contrast: Tensor) -> PairLoss:
        """-log s(beta gap - contrast Delta), float[P].

        Args:
            pairs: after the reordering, so that a chosen response is safe.
            contrast: h_l - h_w float[P], 1 where the rejected one is unsafe, 0 where both are safe.
        """
        return pair_loss(-logsigmoid(self.beta * pairs.gap - self.margin * contrast), pairs, self.beta)
