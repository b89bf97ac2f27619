"""Moderation heads: 19 category sigmoids and an ordinal severity that cannot contradict itself.

Severity is a cumulative model (proportional odds; McCullagh 1980): one score and three increasing cut points give
P(severity >= 1) >= P(severity >= 2) >= P(severity >= 3) by construction. "Unsafe" is the first of them, so the safe
flag and the severity can't disagree.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from poise.harm import CATEGORIES

K = len(CATEGORIES)
LEVELS = 4


class ModerationLogits(NamedTuple):
    """Args: categories float[B, K]; at_least float[B, 3], logits of severity >= 1, 2, 3, non-increasing."""

    categories: Tensor
    at_least: Tensor


class ModerationTargets(NamedTuple):
    """What a source knows about each row; NaN where it knows nothing.

    Args:
        categories: float[B, K], 1 when the category applies.
        at_least: float[B, 3], 1 when severity >= 1, 2, 3; a source that knows only safe or unsafe fills column 0
            (and, for a safe row, all three).
        weight: float[B], the weight of the row.
    """

    categories: Tensor
    at_least: Tensor
    weight: Tensor


class ModerationHeads(nn.Module):
    """Category and severity heads on a feature vector of width H."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.categories = nn.Linear(width, K)
        self.severity = nn.Linear(width, 1)
        self.first_cut = nn.Parameter(torch.zeros(1))
        self.gaps = nn.Parameter(torch.zeros(LEVELS - 2))

    def forward(self, features: Tensor) -> ModerationLogits:
        """[B, H] -> logits; the cut points increase because their gaps pass through softplus."""
        cuts = torch.cat([self.first_cut, self.first_cut + functional.softplus(self.gaps).cumsum(0)])
        return ModerationLogits(self.categories(features), self.severity(features) - cuts)


def moderation_loss(logits: ModerationLogits, targets: ModerationTargets, category_weight: float = 1.0) -> Tensor:
    """Binary cross-entropy over what is known: cumulative severity plus `category_weight` times categories.

    Each part is the weighted mean over its known entries; unknown entries (NaN) have no gradient.
    """
    severity = _known_bce(logits.at_least, targets.at_least, targets.weight)
    return severity + category_weight * _known_bce(logits.categories, targets.categories, targets.weight)


def _known_bce(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    known = ~target.isnan()
    losses = functional.binary_cross_entropy_with_logits(logits, target.nan_to_num(), reduction="none")
    weights = known * weight[:, None]
    return (losses * weights).sum() / weights.sum().clamp(min=1e-9)


def severity_probabilities(at_least: Tensor) -> Tensor:
    """P(severity = 0..3) float[B, 4] from cumulative logits float[B, 3]; rows sum to one."""
    p = torch.sigmoid(at_least)
    one, zero = torch.ones_like(p[:, :1]), torch.zeros_like(p[:, :1])
    return torch.cat([one, p], 1) - torch.cat([p, zero], 1)
