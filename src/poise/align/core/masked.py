"""Means over kept tokens."""

from __future__ import annotations

import torch
from torch import Tensor


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over kept tokens of each sequence, then over sequences (as Safe RLHF does; short answers count as much).

    Args:
        values: float[B, T].
        mask: bool[B, T], true at kept tokens.

    Returns:
        Scalar. A sequence without kept tokens does not count.
    """
    kept = mask.sum(-1)
    sums = torch.where(mask, values, 0.0).sum(-1)
    present = kept > 0
    return sums[present].div(kept[present]).mean()
