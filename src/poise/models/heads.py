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
