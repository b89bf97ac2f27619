"""Clipped losses of PPO (Schulman et al., arXiv 1707.06347, eq. 7 and its value-clipping companion)."""

from __future__ import annotations

import torch
from torch import Tensor

from poise.align.core.masked import masked_mean

_TANGENT_FROM = 20.0
"""Log of the ratio from which on a loss grows by the ratio's tangent."""


def actor_loss(log_prob: Tensor, old_log_prob: Tensor, advantage: Tensor, mask: Tensor, clip: float = 0.2) -> Tensor:
    """-E min(rho A, clip(rho, 1 - clip, 1 + clip) A) with rho = pi / pi_old.

    Args:
        log_prob, old_log_prob, advantage: float[B, T].
        mask: bool[B, T], true at response tokens.
    """
    ratio = _ratio((log_prob - old_log_prob) * mask)
    surrogate = torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)
    return -masked_mean(surrogate, mask)


def critic_loss(value: Tensor, old_value: Tensor, returns: Tensor, mask: Tensor, clip: float = 5.0) -> Tensor:
    """0.5 E max((V - R)^2, (clip(V, V_old +- clip) - R)^2), all float[B, T]."""
    clipped = torch.minimum(torch.maximum(value, old_value - clip), old_value + clip)
    return 0.5 * masked_mean(torch.maximum((value - returns).square(), (clipped - returns).square()), mask)


def sequence_actor_loss(
    log_prob: Tensor, old_log_prob: Tensor, advantage: Tensor, mask: Tensor, clip: float = 0.2
) -> Tensor:
    """`actor_loss` with the whole response as one action: rho = pi(y | x) / pi_old(y | x).

    Args:
        log_prob, old_log_prob: float[B, T] of the tokens.
        advantage: float[B] of the responses.
        mask: bool[B, T], true at response tokens, at least one in a row.
    """
    ratio = _ratio(torch.where(mask, log_prob - old_log_prob, 0.0).sum(-1))
    return -torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage).mean()


def _ratio(log_ratio: Tensor) -> Tensor:
    """rho = exp(log rho); beyond e^20 its tangent there.

    Float32 ends at e^88, which the sum over a long response can pass: a loss that the clip keeps finite then has the
    gradient 0 x inf. The tangent has a gradient everywhere, so that a bad response is still pushed back.
    """
    return torch.exp(log_ratio.clamp(max=_TANGENT_FROM)) * (1 + torch.relu(log_ratio - _TANGENT_FROM))
