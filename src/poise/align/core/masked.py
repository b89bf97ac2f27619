"""Means and sums over kept tokens. Masks come from the collator; no function here looks at token ids or at zeros."""

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


def token_mean(values: Tensor, mask: Tensor, total: int | None = None) -> Tensor:
    """Mean over kept tokens of all sequences (long answers count more): sum / total.

    Args:
        values: float[B, T].
        mask: bool[B, T], true at kept tokens.
        total: kept tokens of the whole optimizer step, so that micro-batches add up to it; None is those of `mask`.
    """
    count = mask.sum() if total is None else total
    return torch.where(mask, values, 0.0).sum() / count


def sequence_log_probs(log_prob: Tensor, mask: Tensor, average: bool = False) -> Tensor:
    """log pi(y | x) float[B], the sum of the response's token log-probabilities; what every offline loss takes.

    Every response token counts once, the first and the last among them, and nothing else does.

    Args:
        log_prob: float[B, T] of the tokens.
        mask: bool[B, T], true at response tokens.
        average: divide by the number of response tokens (for IPO on responses of unequal length).

    Raises:
        ValueError: a response without tokens, or shapes that differ.
    """
    if log_prob.shape != mask.shape:
        raise ValueError(f"log-probabilities {tuple(log_prob.shape)} and mask {tuple(mask.shape)} differ in shape")
    count = mask.sum(-1)
    if not bool((count > 0).all()):
        raise ValueError(f"response {int((count == 0).nonzero()[0, 0])} of the batch has no token")
    sums = torch.where(mask, log_prob, 0.0).sum(-1)
    return sums / count if average else sums
