"""MoCAN: the multiplier first, then one DPO run (Huang et al., arXiv 2405.19544, algorithm 1).

    max over pi  E[R] - beta KL(pi || pi_ref)   subject to   E[C] <= d

has the dual  D(lambda) = E_x beta log E_{y ~ pi_ref} exp( (R - lambda (C - d)) / beta ),
convex in lambda >= 0. It needs no training: only scores of responses that the reference wrote. At its minimum lambda*,
the policy is the one that DPO reaches on pairs labelled by R - lambda* C:

1. sample M responses to each of N prompts from the reference, score them;
2. lambda* = argmin D                                                     (`solve_dual`);
3. pseudo-labels: y_1 is chosen with probability s( s_1 - s_0 ), s = R - lambda* C   (`pseudo_labels`);
4. DPO with the same beta on them                                         (`dpo`).

Signs: the paper writes a safety score g = -C and E[g] - E_ref[g] >= b; use `relative_to_reference` for that form, with
d = -b. One constraint; D's slope is monotone, so the root is found by bisection, not by the paper's gradient steps.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Dual(NamedTuple):
    """Args: value of D at a multiplier; slope, dD / d lambda = d - E[C] under the policy of that multiplier."""

    value: float
    slope: float


def dual(reward: Tensor, cost: Tensor, multiplier: float, threshold: float = 0.0, beta: float = 0.1) -> Dual:
    """D(lambda) and its slope from the reference's responses.

    Args:
        reward, cost: scores float[N, M] of M responses to each of N prompts; cost higher is worse.
        multiplier: lambda >= 0.
        threshold: d.
        beta: > 0, weight of the KL term.
    """
    reward, cost = reward.double(), cost.double()
    tilt = (reward - multiplier * (cost - threshold)) / beta
    value = beta * (tilt.logsumexp(-1) - math.log(reward.shape[-1])).mean()
    expected = (tilt.softmax(-1) * cost).sum(-1).mean()
    return Dual(float(value), float(threshold - expected))


def solve_dual(
    reward: Tensor,
    cost: Tensor,
    threshold: float = 0.0,
    beta: float = 0.1,
    maximum: float = 1e4,
    tolerance: float = 1e-9,
) -> float:
    """lambda* = argmin over lambda >= 0 of D; 0 when the unconstrained policy meets the constraint.

    Args:
        reward, cost, threshold, beta: see `dual`.
        maximum: a multiplier as large as this says that the constraint can't be met.
        tolerance: relative width of the interval at which the bisection stops.

    Raises:
        ValueError: shapes differ, a score is not finite, or no policy on these responses meets the threshold.
    """
    if reward.shape != cost.shape or reward.ndim != 2:
        raise ValueError(f"reward {tuple(reward.shape)} and cost {tuple(cost.shape)} must both be [prompts, responses]")
    if not bool(reward.isfinite().all() and cost.isfinite().all()):
        raise ValueError("a score is not a number")
    if dual(reward, cost, 0.0, threshold, beta).slope >= 0:
        return 0.0
    low, high = 0.0, 1.0
    while dual(reward, cost, high, threshold, beta).slope < 0:
        low, high = high, 2 * high
        if high > maximum:
            least = float(cost.min(-1).values.mean())
            raise ValueError(f"no policy on these responses has mean cost <= {threshold}: the least is {least:.4g}")
    while high - low > tolerance * high:
        middle = (low + high) / 2
        low, high = (middle, high) if dual(reward, cost, middle, threshold, beta).slope < 0 else (low, middle)
    return (low + high) / 2


def relative_to_reference(cost: Tensor) -> Tensor:
    """C(x, y) - E_{y ~ pi_ref} C(x, y), float[N, M]: a threshold then says how far below the reference to come."""
    return cost - cost.mean(-1, keepdim=True)


def pseudo_labels(reward: Tensor, cost: Tensor, multiplier: float, chance: Tensor) -> Tensor:
    """Which response of a pair is chosen, int64[P] in {0, 1}: 1 where chance < s(s_1 - s_0), s = R - lambda C.

    Args:
        reward, cost: float[P, 2].
        multiplier: lambda*.
        chance: uniform numbers float[P] in [0, 1), for example hashes of pair ids, so that labels can be made again.
    """
    score = reward - multiplier * cost
    return (chance < torch.sigmoid(score[:, 1] - score[:, 0])).long()
