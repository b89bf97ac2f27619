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
    penalty = kl * (log_prob - reference_log_prob)
    return TokenSignals(token_signal(reward, -penalty, mask, clip), token_signal(cost, penalty, mask, clip))


def token_signal(score: Tensor, token_term: Tensor, mask: Tensor, clip: float = 50.0) -> Tensor:
    """float[B, T]: the token term, plus the sequence score at the last response token, clamped to +-`clip`.

    Args:
        score: float[B].
        token_term: float[B, T], for example -kl (log pi - log pi_ref) for a reward.
        mask: bool[B, T], true at response tokens, at least one in a row; the signal is zero elsewhere.
    """
    positions = torch.arange(mask.shape[1], device=mask.device)
    last = torch.where(mask, positions, -1).max(-1).values
    end = (positions[None] == last[:, None]).to(score.dtype)
    return torch.where(mask, (token_term + end * score[:, None]).clamp(-clip, clip), 0.0)


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


def combine(
    advantage_reward: Tensor,
    advantage_cost: Tensor | Sequence[Tensor],
    multiplier: float | Tensor | Sequence[float | Tensor],
) -> Tensor:
    """A = (A_r - sum_k lambda_k A_c,k) / (1 + sum_k lambda_k): the one place where a constrained method differs.

    With one constraint this is Safe RLHF eq. 11. The division keeps the step's size whatever lambda is.

    Args:
        advantage_reward: float[B, T] or float[B], higher is better.
        advantage_cost: of the same shape, higher is worse; one, or one for each of K constraints.
        multiplier: lambda >= 0; one, or K in the order of the costs. Each may also be a tensor that broadcasts, for
            example float[B, 1] for a lambda of its own in each row.

    Raises:
        ValueError: K costs with another number of multipliers.
    """
    costs = [advantage_cost] if isinstance(advantage_cost, Tensor) else list(advantage_cost)
    multipliers = list(multiplier) if isinstance(multiplier, Sequence) else [multiplier]
    if len(costs) != len(multipliers):
        raise ValueError(f"{len(costs)} cost advantages need as many multipliers, not {len(multipliers)}")
    numerator: Tensor = advantage_reward
    denominator: float | Tensor = 1.0
    for cost, each in zip(costs, multipliers, strict=True):
        numerator, denominator = numerator - each * cost, denominator + each
    return numerator / denominator


def center(advantages: Sequence[Tensor], masks: Sequence[Tensor], groups: Sequence[Tensor]) -> list[Tensor]:
    """Subtract from each advantage the mean over all responses to the same prompt, at the same response position.

    A response that has ended counts with its last advantage. The mean over those that go on would leave the tail of
    the longest response nothing to learn from, and weigh every tail by how many share it.

    A baseline that depends on the prompt, the position and the other responses leaves the policy gradient's
    expectation as it is (Williams 1992); that the mean holds the response itself only scales it by 1 - 1/G (as in
    GRPO, arXiv 2402.03300, eq. 3, here without the division by the standard deviation). It takes away what young
    critics get wrong about a prompt, which else is most of the advantage: a score says more about the prompt than
    about the response. That is so of a sum over tokens. In the mean over a response's own tokens, which `actor_loss`
    takes, a prompt's mean advantage pulls at the length of its responses (b grad E 1/T for a mean of b); centring takes
    that pull away too.

    Args:
        advantages: batches of one rollout, float[B, T] each.
        masks: bool[B, T] each, true at response tokens, which are contiguous, at least one in a row.
        groups: int64[B] each, the same number for responses to the same prompt, 0 <= number.
    """
    lengths = [mask.sum(-1, keepdim=True) for mask in masks]
    starts = [mask.int().argmax(-1, keepdim=True) for mask in masks]
    places = torch.arange(max(int(length.max()) for length in lengths), device=masks[0].device)
    size = 1 + max(int(group.max()) for group in groups)
    sums, counts = advantages[0].new_zeros(size, len(places)), advantages[0].new_zeros(size, 1)
    for advantage, start, length, group in zip(advantages, starts, lengths, groups, strict=True):
        sums.index_add_(0, group, advantage.gather(1, start + torch.minimum(places, length - 1)))
        counts.index_add_(0, group, torch.ones_like(counts[group]))
    means = sums / counts.clamp(min=1)
    return [
        torch.where(mask, advantage - means[group].gather(1, (mask.cumsum(-1) - 1).clamp(min=0)), 0.0)
        for advantage, mask, group in zip(advantages, masks, groups, strict=True)
    ]
