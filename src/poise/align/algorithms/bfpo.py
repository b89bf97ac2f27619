"""BFPO: one supervised loss for helpfulness order and safety flags (Zhang et al., arXiv 2408.15313).

With I = 1 for a safe response, gap the log-ratio gap between the more helpful w and the less helpful l:

    L = ( gap - [ b3 (b1 I(w) - I(l)) - alpha ] / tau )^2,     b3 = 1 / (b1 - 1)

With the published b1 = 3, alpha = 1/2 the targets times tau are

| w | l | target |
|---|---|---|
| safe | safe | 1/2 |
| safe | unsafe | 1 |
| unsafe | safe | -1 |
| unsafe | unsafe | -1/2 |

which are those of one order: safe and helpful > safe > unsafe > unsafe and helpful. Two unsafe answers are ordered
against helpfulness. The constants are those of the released code. `selected` is the paper's selective fine-tuning,
that trains the down-projections alone; the data buffer is left to the trainer.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from torch import Tensor

from poise.align.algorithms.pairs import PairLogProbs, PairLoss, pair_loss


class BFPO(NamedTuple):
    """Constants. Args: tau > 0, small is far from the reference; alpha shifts both targets of equal safety; b1 > 1."""

    tau: float = 0.01
    alpha: float = 0.5
    b1: float = 3.0

    def target(self, safe_chosen: Tensor, safe_rejected: Tensor) -> Tensor:
        """The gap that the loss draws to, in nats, float[P]. Args: bool[P] of the more and the less helpful."""
        chosen, rejected = safe_chosen.float(), safe_rejected.float()
        return ((self.b1 * chosen - rejected) / (self.b1 - 1) - self.alpha) / self.tau

    def loss(self, pairs: PairLogProbs, safe_chosen: Tensor, safe_rejected: Tensor) -> PairLoss:
        """(gap - target)^2, float[P].

        Args:
            pairs: chosen is the more helpful response, whether safe or not.
            safe_chosen, safe_rejected: bool[P].
        """
        return pair_loss((pairs.gap - self.target(safe_chosen, safe_rejected)).square(), pairs, self.tau)


def selected(names: Iterable[str], parts: Iterable[str] = ("down_proj",)) -> list[str]:
    """Parameter names that selective fine-tuning trains: those with one of `parts` among their dotted parts.

    Raises:
        ValueError: none is selected, so nothing would be trained.
    """
    wanted, all_names = set(parts), list(names)
    chosen = [name for name in all_names if wanted & set(name.split("."))]
    if not chosen:
        raise ValueError(f"no parameter has {sorted(wanted)} in its name; the first is {all_names[:1]}")
    return chosen
