"""Losses of the reward and the cost model, as pure functions of scores.

Sources: Safe RLHF (Dai et al., arXiv 2310.12773) eq. 5 and 6, with the L2 term of the released code. Reward: higher is
better. Cost: higher is worse, zero is the boundary, negative means safe.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor
from torch.nn.functional import logsigmoid


class PreferenceLoss(NamedTuple):
    """A scalar loss and the share of pairs ranked right (for `cost_loss` also of signs that are right)."""

    loss: Tensor
    pair_accuracy: Tensor
    sign_accuracy: Tensor | None = None


def reward_loss(better: Tensor, worse: Tensor, regularization: float = 0.001) -> PreferenceLoss:
    """Bradley-Terry: L = -E log s(R_w - R_l) + mu E R^2 (eq. 5).

    Args:
        better, worse: rewards float[P] of the more and the less helpful response.
        regularization: mu.
    """
    loss = -logsigmoid(better - worse).mean() + regularization * (better.square() + worse.square()).mean()
    return PreferenceLoss(loss, (better > worse).float().mean())


def cost_loss(
    safer: Tensor,
    unsafer: Tensor,
    sign_safer: Tensor,
    sign_unsafer: Tensor,
    regularization: float = 0.001,
    pairwise: bool = True,
) -> PreferenceLoss:
    """L = -E[log s(C_unsafer - C_safer) + log s(g_s C_s) + log s(g_u C_u)] + mu E C^2 (eq. 6).

    Args:
        safer, unsafer: costs float[P] of the less and the more harmful response.
        sign_safer, sign_unsafer: g float[P], +1 when that response is unsafe, -1 when it is safe.
        regularization: mu.
        pairwise: False leaves the first term out, as PKU-SafeRLHF section 4.2 prints it (classification only).
    """
    signs = -logsigmoid(sign_safer * safer).mean() - logsigmoid(sign_unsafer * unsafer).mean()
    ranking = -logsigmoid(unsafer - safer).mean() if pairwise else 0.0
    loss = ranking + signs + regularization * (safer.square() + unsafer.square()).mean()
    right = ((sign_safer * safer > 0).float() + (sign_unsafer * unsafer > 0).float()) / 2
    return PreferenceLoss(loss, (unsafer > safer).float().mean(), right.mean())
