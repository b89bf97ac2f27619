"""What the guard minimises: binary cross-entropy over what is known, focused for rare categories.

Categories are absent in most rows, so easy absences would drown the rest: the asymmetric loss (Ridnik et al. 2021,
"Asymmetric Loss For Multi-Label Classification", eq. 6-7, without margin) weighs an absence by p^focus. Severity is the
cumulative model of `poise.models.heads`; a row that knows only "unsafe" teaches its first threshold alone.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from poise.guard.fit.model import GuardLogits


class GuardTargets(NamedTuple):
    """What is known of B rows, NaN elsewhere.

    Args:
        categories: float[B, 19]; at_least: float[B, 3]; refusal: float[B]; weight: float[B].
    """

    categories: Tensor
    at_least: Tensor
    refusal: Tensor
    weight: Tensor


def binary(logits: Tensor, target: Tensor, focus: float = 0.0) -> Tensor:
    """-t log p - (1 - t) p^focus log(1 - p), elementwise; 0 where the target is NaN.

    Args:
        logits, target: the same shape.
        focus: 0 is binary cross-entropy.
    """
    known = ~target.isnan()
    t = target.nan_to_num()
    absent = logsigmoid(-logits)
    if focus:
        absent = absent * torch.sigmoid(logits) ** focus
    return torch.where(known, -t * logsigmoid(logits) - (1 - t) * absent, torch.zeros_like(logits))


def guard_loss(
    logits: GuardLogits,
    targets: GuardTargets,
    *,
    category_weight: float,
    refusal_weight: float,
    focus: float,
    smoothing: float,
) -> Tensor:
    """Weighted mean over rows of severity + category_weight * categories + refusal_weight * refusal.

    Each part of a row is the mean over what the row knows; a row that knows nothing of a part has no share in it.

    Args:
        smoothing: targets t become t (1 - 2 s) + s, except those of categories.
    """
    severity = _part(binary(logits.at_least, _smooth(targets.at_least, smoothing)), targets.at_least)
    categories = _part(binary(logits.categories, targets.categories, focus), targets.categories)
    refusal = _part(binary(logits.refusal, _smooth(targets.refusal, smoothing))[:, None], targets.refusal[:, None])
    total = torch.zeros((), device=logits.at_least.device)
    for (losses, known), scale in ((severity, 1.0), (categories, category_weight), (refusal, refusal_weight)):
        weights = targets.weight * known
        total = total + scale * (losses * weights).sum() / weights.sum().clamp(min=1e-9)
    return total


def pair_loss(worse: Tensor, safer: Tensor) -> Tensor:
    """-log sigmoid(worse - safer), mean over pairs: the harmful answer is to score higher (Bradley & Terry 1952).

    Args:
        worse, safer: float[P], logits of severity >= 1.
    """
    return -logsigmoid(worse - safer).mean()


def _part(losses: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """[B, N] -> mean loss over known entries [B], and whether there are any [B]."""
    count = (~target.isnan()).sum(1)
    return losses.sum(1) / count.clamp(min=1), (count > 0).float()


def _smooth(target: Tensor, share: float) -> Tensor:
    return target * (1 - 2 * share) + share
