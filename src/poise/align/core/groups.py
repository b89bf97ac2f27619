"""Advantages without a critic: a response is compared with the other responses to its prompt.

Scores here are sequence scores float[B]; `groups` int64[B] gives responses to the same prompt the same number >= 0, in
any order.
"""

from __future__ import annotations

import torch
from torch import Tensor

EPSILON = 1e-4
"""Added to a standard deviation before dividing by it, as the released GRPO code does."""


def group_mean(scores: Tensor, groups: Tensor) -> Tensor:
    """Mean score of each response's group, float[B], the response itself among it."""
    sums, counts = _group_sums(scores, groups)
    return (sums / counts)[groups]


def group_normalized(scores: Tensor, groups: Tensor, epsilon: float = EPSILON) -> Tensor:
    """Z = (s - mean of the group) / (std of the group + epsilon), float[B] (GRPO, arXiv 2402.03300, section 4.1.2).

    The standard deviation is that of a sample (divisor G - 1). A group whose scores agree gets zeros.

    Raises:
        ValueError: a group of one.
    """
    centered = scores - group_mean(scores, groups)
    squares, counts = _group_sums(centered.square(), groups)
    _at_least_two(counts, groups)
    deviation = (squares / (counts - 1).clamp(min=1)).sqrt()[groups]
    return centered / (deviation + epsilon)


def leave_one_out(scores: Tensor, groups: Tensor) -> Tensor:
    """s_i - mean of the other scores of the group, float[B] (RLOO, Ahmadian et al., arXiv 2402.14740, eq. 8).

    Raises:
        ValueError: a group of one.
    """
    sums, counts = _group_sums(scores, groups)
    _at_least_two(counts, groups)
    others = (counts - 1).clamp(min=1)[groups]
    return scores - (sums[groups] - scores) / others


def batch_scaled(advantage: Tensor, epsilon: float = EPSILON) -> Tensor:
    """A / (root mean square of A over the rollout + epsilon), float[B]; zero stays zero and signs stay."""
    return advantage / (advantage.square().mean().sqrt() + epsilon)


def spread(advantage: Tensor, mask: Tensor) -> Tensor:
    """A sequence's advantage at each of its response tokens: float[B], bool[B, T] -> float[B, T], zero elsewhere."""
    return torch.where(mask, advantage[:, None], 0.0)


def _group_sums(scores: Tensor, groups: Tensor) -> tuple[Tensor, Tensor]:
    size = int(groups.max()) + 1
    sums = scores.new_zeros(size).index_add_(0, groups, scores)
    return sums, scores.new_zeros(size).index_add_(0, groups, torch.ones_like(scores))


def _at_least_two(counts: Tensor, groups: Tensor) -> None:
    if bool((counts[groups] < 2).any()):
        raise ValueError("a group has one response: critic-free advantages need at least two responses to a prompt")
