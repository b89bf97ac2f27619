"""Losses of the reward and the cost model, as pure functions of scores.

Reward: higher is better. Cost: higher is worse, zero is the boundary, negative means safe.

Sources: Safe RLHF (Dai et al., arXiv 2310.12773) eq. 5 and 6, with the L2 term of the released code; the margin of the
reward loss is that of Llama 2 (Touvron et al., arXiv 2307.09288, eq. 2), centring is Eisenstein et al.
(arXiv 2312.09244), the regulariser that TRL's `center_rewards_coefficient` weighs. Severity enters no published text
loss; as margin and as weight it is ours, and off by default.
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


class Labelled(NamedTuple):
    """Responses that stand in no pair but have a label.

    Args:
        cost: float[N].
        sign: g float[N], +1 unsafe, -1 safe.
        weight: float[N] of each in the mean, None for one.
    """

    cost: Tensor
    sign: Tensor
    weight: Tensor | None = None


def reward_loss(
    better: Tensor,
    worse: Tensor,
    regularization: float = 0.001,
    *,
    margin: Tensor | float = 0.0,
    centering: float = 0.0,
) -> PreferenceLoss:
    """Bradley-Terry: L = -E log s(R_w - R_l - m) + mu E R^2 + nu E (R_w + R_l)^2 (eq. 5 with m = nu = 0).

    Args:
        better, worse: rewards float[P] of the more and the less helpful response.
        regularization: mu; with the same weight on both it holds the rewards near zero.
        margin: m, float[P] or one for all, by which the better one has to lead.
        centering: nu; holds the middle of a pair at zero and leaves its spread alone.
    """
    loss = -logsigmoid(better - worse - margin).mean() + regularization * (better.square() + worse.square()).mean()
    if centering:
        loss = loss + centering * (better + worse).square().mean()
    return PreferenceLoss(loss, (better > worse).float().mean())


def cost_loss(
    safer: Tensor,
    unsafer: Tensor,
    sign_safer: Tensor,
    sign_unsafer: Tensor,
    regularization: float = 0.001,
    pairwise: bool = True,
    *,
    margin: Tensor | float = 0.0,
    weight_safer: Tensor | None = None,
    weight_unsafer: Tensor | None = None,
) -> PreferenceLoss:
    """L = -E[log s(C_unsafer - C_safer - m) + log s(g_s C_s) + log s(g_u C_u)] + mu E C^2 (eq. 6 with m = 0).

    Args:
        safer, unsafer: costs float[P] of the less and the more harmful response.
        sign_safer, sign_unsafer: g float[P], +1 when that response is unsafe, -1 when it is safe, 0 when nobody said:
            it is then ranked only, and the mean of its term is over the others.
        regularization: mu.
        pairwise: False leaves the first term out, as PKU-SafeRLHF section 4.2 prints it (classification only).
        margin: m, float[P] or one for all, by which the more harmful one has to lead.
        weight_safer, weight_unsafer: float[P] of a response in its sign term, of the unsafer one also in the ranking;
            the terms are weighted means. None is one for all.
    """
    sign_safer, sign_unsafer = sign_safer.expand_as(safer), sign_unsafer.expand_as(unsafer)
    sign = _mean(-logsigmoid(sign_safer * safer), _told(sign_safer, weight_safer)) + _mean(
        -logsigmoid(sign_unsafer * unsafer), _told(sign_unsafer, weight_unsafer)
    )
    ranking = _mean(-logsigmoid(unsafer - safer - margin), weight_unsafer) if pairwise else 0.0
    loss = ranking + sign + regularization * (safer.square() + unsafer.square()).mean()
    right = ((sign_safer * safer > 0).float() + (sign_unsafer * unsafer > 0).float()).sum()
    told = ((sign_safer != 0).float() + (sign_unsafer != 0).float()).sum()
    return PreferenceLoss(loss, (unsafer > safer).float().mean(), right / told.clamp(min=1))


def sign_loss(labelled: Labelled, regularization: float = 0.001) -> PreferenceLoss:
    """L = 2 (-E log s(g C) + mu E C^2): what eq. 6 asks of the two responses of a pair, of responses without one.

    The pair accuracy is `nan`, since there are no pairs.
    """
    cost, sign, weight = labelled
    loss = 2 * (_mean(-logsigmoid(sign * cost), weight) + regularization * cost.square().mean())
    return PreferenceLoss(loss, cost.new_tensor(float("nan")), (sign * cost > 0).float().mean())


def joined(pairs: PreferenceLoss, count: int, alone: PreferenceLoss, others: int) -> PreferenceLoss:
    """One loss of `count` pairs and `others` single responses: the mean in which every response counts alike.

    With R = 2 * count + others responses it is (2 * count * L_pairs + others * L_alone) / R.
    """
    share = 2 * count / (2 * count + others)
    assert pairs.sign_accuracy is not None and alone.sign_accuracy is not None  # both are of the cost
    return PreferenceLoss(
        share * pairs.loss + (1 - share) * alone.loss,
        pairs.pair_accuracy,
        share * pairs.sign_accuracy + (1 - share) * alone.sign_accuracy,
    )


def _told(sign: Tensor, weight: Tensor | None) -> Tensor | None:
    """The weights with zero where nobody said; None where all are one."""
    told = sign != 0
    if bool(told.all()):
        return weight
    return told.to(sign.dtype) if weight is None else weight * told


def _mean(values: Tensor, weight: Tensor | None) -> Tensor:
    return values.mean() if weight is None else (values * weight).sum() / weight.sum().clamp(min=1e-9)
