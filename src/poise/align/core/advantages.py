"""Token rewards and costs, generalised advantage estimation, and how two advantages become one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class TokenSignals(NamedTuple):
    """Args: reward, cost float[B, T], zero outside the response."""

    reward: Tensor
    cost: Tensor


class Advantage(NamedTuple):
    """Args: advantage, returns float[B, T], zero outside the response."""

    advantage: Tensor
    returns: Tensor


def token_signals(
    reward: Tensor,
    cost: Tensor,
    log_prob: Tensor,
    reference_log_prob: Tensor,
    mask: Tensor,
    kl: float,
    clip: float = 50.0,
) -> TokenSignals:
    """Token rewards and costs of Safe RLHF (eq. 9 and 10 of its appendix, signs of the released code).

    r_t = -kl (log pi - log pi_ref) and c_t = +kl (log pi - log pi_ref), plus the sequence score at the last response
    token; both are clamped to +-`clip`. With `combine` the KL weight is then `kl` for every multiplier.

    Args:
        reward, cost: sequence scores float[B]; reward higher is better, cost higher is worse.
        log_prob, reference_log_prob: float[B, T] of the sampled tokens.
        mask: bool[B, T], true at response tokens, at least one in a row.
    """
    penalty = kl * (log_prob - reference_log_prob) * mask
    positions = torch.arange(mask.shape[1], device=mask.device)
    last = torch.where(mask, positions, -1).max(-1).values
    end = (positions[None] == last[:, None]).float()
    token_reward = (-penalty + end * reward[:, None]).clamp(-clip, clip) * mask
    token_cost = (penalty + end * cost[:, None]).clamp(-clip, clip) * mask
    return TokenSignals(token_reward, token_cost)


def gae(signal: Tensor, value: Tensor, mask: Tensor, gamma: float = 1.0, lam: float = 0.95) -> Advantage:
    """Generalised advantage estimation (Schulman et al., arXiv 1506.02438, eq. 16) over response tokens.

    delta_t = x_t + gamma V_{t+1} - V_t;  A_t = delta_t + gamma lam A_{t+1};  return_t = A_t + V_t.

    Args:
        signal: token rewards or costs float[B, T].
        value: V_t float[B, T], the critic before token t; zero after the last token.
        mask: bool[B, T], true at response tokens, which are contiguous.
    """
    kept = mask.float()
    value, signal = value * kept, signal * kept
    advantage = torch.zeros_like(signal)
    running = torch.zeros_like(signal[:, 0])
    following = torch.zeros_like(running)
    for t in reversed(range(signal.shape[1])):
        delta = signal[:, t] + gamma * following - value[:, t]
        running = (delta + gamma * lam * running) * kept[:, t]
        advantage[:, t] = running
        following = value[:, t]
    return Advantage(advantage, (advantage + value) * kept)


def combine(advantage_reward: Tensor, advantage_cost: Tensor, multiplier: float) -> Tensor:
    """A = (A_r - lambda A_c) / (1 + lambda) (Safe RLHF eq. 11): the one place where a constrained method differs.

    Args:
        advantage_reward, advantage_cost: float[B, T]; reward higher is better, cost higher is worse.
        multiplier: lambda >= 0.
    """
    return (advantage_reward - multiplier * advantage_cost) / (1.0 + multiplier)


def center(advantages: Sequence[Tensor], masks: Sequence[Tensor], groups: Sequence[Tensor]) -> list[Tensor]:
    """Subtract from each advantage the mean over the responses to the same prompt, at the same response position.

    A baseline that depends on prompt and position alone leaves the policy gradient's expectation as it is (Williams
    1992); that the mean holds the response itself only scales it by 1 - 1/G (as in GRPO, arXiv 2402.03300, eq. 3,
    here without the division by the standard deviation). It takes away what young critics get wrong about a prompt,
    which else is most of the advantage: a score says more about the prompt than about the response.

    Args:
        advantages: batches of one rollout, float[B, T] each.
        masks: bool[B, T] each, true at response tokens, which are contiguous.
        groups: int64[B] each, the same number for responses to the same prompt, 0 <= number.
    """
    places = [(mask.cumsum(-1) - 1).clamp(min=0) for mask in masks]
    longest = 1 + max(int(place.max()) for place in places)
    cells = [group[:, None] * longest + place for group, place in zip(groups, places, strict=True)]
    size = longest * (1 + max(int(group.max()) for group in groups))
    sums, counts = advantages[0].new_zeros(size), advantages[0].new_zeros(size)
    for advantage, mask, cell in zip(advantages, masks, cells, strict=True):
        sums.index_add_(0, cell[mask], advantage[mask])
        counts.index_add_(0, cell[mask], torch.ones_like(advantage[mask]))
    means = sums / counts.clamp(min=1)
    return [
        torch.where(mask, advantage - means[cell], 0.0)
        for advantage, mask, cell in zip(advantages, masks, cells, strict=True)
    ]
