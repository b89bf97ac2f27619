"""Rollouts of the actor and their scores by every other role."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from poise.align.algorithms.ppo_lagrangian import Experience
from poise.data.rows import Sampling, uniform_seed
from poise.models.generate import Request, generate
from poise.models.trunk import REFERENCE, Tokens, Trunk, collate, last_kept


class ScoreScale(NamedTuple):
    """Brings raw scores to unit size: reward (r - mean) / std, cost c / std, which keeps its sign and its zero."""

    reward_mean: float = 0.0
    reward_std: float = 1.0
    cost_std: float = 1.0

    def reward(self, raw: Tensor) -> Tensor:
        """Affine; raw float[B]."""
        return (raw - self.reward_mean) / self.reward_std

    def cost(self, raw: Tensor) -> Tensor:
        """Scale only; raw float[B]."""
        return raw / self.cost_std


class Responses(NamedTuple):
    """B sampled responses. Args: group int64[B] numbers the prompts of the step; G responses share a number."""

    tokens: Tokens
    group: Tensor


class Rollout(NamedTuple):
    """B sampled responses with everything measured on them. Args: lower [B, T, H] are the shared layers' outputs."""

    tokens: Tokens
    group: Tensor
    lower: Tensor
    experience: Experience


def roll_out(
    trunk: Trunk,
    prompts: Sequence[tuple[str, list[int]]],
    *,
    seed: int,
    step: int,
    temperature: float,
    max_new_tokens: int,
    rows: int,
) -> list[Responses]:
    """Sample one response from the actor for each entry of `prompts`; a prompt may stand there several times.

    Args:
        prompts: (id, token ids with template) of each prompt.
        seed, step: chance is a hash of them, the prompt's id, and how often the prompt came before in this step.
        rows: at most so many responses in a batch of the result; batches hold near-equal lengths, shortest first.
    """
    came: Counter[str] = Counter()
    requests = []
    for name, ids in prompts:
        chance = uniform_seed(seed, "rollout", str(step), name, str(came[name]))
        came[name] += 1
        requests.append(Request(ids, Sampling(temperature=temperature, max_new_tokens=max_new_tokens, seed=chance)))
    sampled = generate(trunk, requests, role="actor")
    end = [trunk.tokenizer.eos_token_id]
    responses = [s.ids + end if s.finished or not s.ids else s.ids for s in sampled]
    numbers = {name: i for i, (name, _) in enumerate(prompts)}
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i][1]) + len(responses[i]))
    out = []
    for at in range(0, len(order), rows):
        part = order[at : at + rows]
        tokens = collate([prompts[i][1] for i in part], [responses[i] for i in part], trunk.device)
        out.append(Responses(tokens, torch.tensor([numbers[prompts[i][0]] for i in part], device=trunk.device)))
    return out


@torch.no_grad()
def measure(trunk: Trunk, responses: Responses, scale: ScoreScale, temperature: float = 1.0) -> Rollout:
    """Score responses with the reward and cost models and both critics; log-probabilities of actor and reference.

    Sequence scores are read with the end token appended, whether the response was cut or not: the preference models
    have only seen responses that end. The appended token is no action: it is outside every mask.
    """
    tokens = responses.tokens
    ended = with_end(tokens, trunk.tokenizer.eos_token_id)
    lower = trunk.lower(ended.ids)
    reward, cost = (trunk.score(lower, ended.length, role) for role in ("reward", "cost"))
    tokens = tokens._replace(ids=ended.ids)
    value_reward, value_cost = (
        values_before(trunk, trunk.upper(lower, role), role) for role in ("reward_critic", "cost_critic")
    )
    log_prob, reference_log_prob = (
        trunk.response_log_probs(trunk.upper(lower, role), tokens, temperature) for role in ("actor", REFERENCE)
    )
    experience = Experience(
        reward=scale.reward(reward),
        cost=scale.cost(cost),
        log_prob=log_prob,
        reference_log_prob=reference_log_prob,
        value_reward=value_reward,
        value_cost=value_cost,
        mask=tokens.response,
    )
    return Rollout(tokens, responses.group, lower, experience)


def with_end(tokens: Tokens, end: int) -> Tokens:
    """The same batch, one column wider, with the end token after every response that lacks it."""
    missing = last_kept(tokens.ids, tokens.length) != end
    ids = torch.nn.functional.pad(tokens.ids, (0, 1))
    rows = missing.nonzero()[:, 0]
    ids[rows, tokens.length[rows]] = end
    return Tokens(ids, tokens.prompt_length, tokens.length + missing.long())


def values_before(trunk: Trunk, hidden: Tensor, role: str) -> Tensor:
    """V_t float[B, T]: the critic's value of the state before token t, that is at position t - 1."""
    values = trunk.values(hidden, role)
    return torch.cat([torch.zeros_like(values[:, :1]), values[:, :-1]], 1)
