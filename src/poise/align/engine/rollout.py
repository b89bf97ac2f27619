"""Rollouts of the actor and their scores by every other role."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from poise.align.algorithms.ppo_lagrangian import Experience
from poise.align.engine.processes import total
from poise.align.engine.views import (
    PackedResponses,
    View,
    log_probs_of,
    lower_of,
    mask_of,
    pack_responses,
    scores_of,
    values_of,
    with_end,
)
from poise.data.rows import Sampling, uniform_seed
from poise.errors import PoiseError
from poise.models.generate import Request, Sampled, generate
from poise.models.trunk import REFERENCE, Tokens, Trunk, collate


class ScoreScale(NamedTuple):
    """Brings raw scores to unit size: reward (r - mean) / std, cost c / std, which keeps its sign and its zero.

    Args:
        further: spread of each cost model beside the role "cost", by role; `cost_std` where it is not named.
    """

    reward_mean: float = 0.0
    reward_std: float = 1.0
    cost_std: float = 1.0
    further: Mapping[str, float] = {}

    def reward(self, raw: Tensor) -> Tensor:
        """Affine; raw float[B]."""
        return (raw - self.reward_mean) / self.reward_std

    def cost(self, raw: Tensor, role: str = "cost") -> Tensor:
        """Scale only; raw float[B] of the cost model with that role."""
        return raw / self.further.get(role, self.cost_std)


class Responses(NamedTuple):
    """B sampled responses.

    Args:
        group: int64[B], the same number for the G responses to one asking of a prompt. Asked twice in a step, it
            makes two groups: they may be in two processes, and the step must not depend on that.
    """

    tokens: Tokens
    group: Tensor


class PackedGroups(NamedTuple):
    """R sampled responses in packed rows, with their groups int64[R]."""

    tokens: PackedResponses
    group: Tensor


class FurtherCost(NamedTuple):
    """A second cost model and its critic. Args: cost float[B]; value float[B, T], or float[B, 0] without a critic."""

    cost: Tensor
    value: Tensor


class Rollout(NamedTuple):
    """B sampled responses with everything measured on them.

    Args:
        tokens: as they lie before the model, right-padded or packed.
        lower: what `Trunk.lower` gave for the responses, shared by the roles.
        experience: reward, cost (of the role "cost"), log-probabilities, values of the critics.
        further: other cost models by role.
    """

    tokens: View
    group: Tensor
    lower: Tensor
    experience: Experience
    further: dict[str, FurtherCost] = {}  # noqa: RUF012 -- never written to

    def acted_by(self, log_prob: Tensor) -> Rollout:
        """Itself; or, where the actor was not asked, with these log-probabilities as those of the policy that acted."""
        e = self.experience
        if e.log_prob.shape == e.mask.shape:
            return self
        return self._replace(experience=e._replace(log_prob=log_prob.detach()))

    def cost_of(self, role: str) -> Tensor:
        """Sequence scores float[B] of a cost model, higher is worse."""
        return self.experience.cost if role == "cost" else self.further[role].cost

    def value_of(self, critic: str) -> Tensor:
        """Values float[B, T] of a critic, by its role."""
        first = {"reward_critic": self.experience.value_reward, "cost_critic": self.experience.value_cost}
        return first[critic] if critic in first else self.further[critic.removesuffix("_critic")].value


def roll_out(
    trunk: Trunk,
    prompts: Sequence[tuple[str, list[int]]],
    *,
    seed: int,
    step: int,
    temperature: float,
    max_new_tokens: int,
    rows: int,
    turns: Sequence[int] | None = None,
    each: int = 1,
) -> list[Responses]:
    """Sample one response from the actor for each entry of `prompts`; a prompt may stand there several times.

    Args:
        prompts: (id, token ids with template) of each prompt.
        seed, step: chance is a hash of them, the prompt's id, and its turn.
        rows: at most so many responses in a batch of the result; batches hold near-equal lengths, shortest first.
        turns: how often the prompt of each entry came before in this step, in any process; None counts in `prompts`.
        each: so many neighbouring entries are the responses to one asking of a prompt, and a group.

    Raises:
        PoiseError: a prompt can't be answered, or every response is empty.
    """
    requests = []
    for (name, ids), turn in zip(prompts, _turns(prompts) if turns is None else turns, strict=True):
        chance = uniform_seed(seed, "rollout", str(step), name, str(turn))
        requests.append(Request(ids, Sampling(temperature=temperature, max_new_tokens=max_new_tokens, seed=chance)))
    sampled = generate(trunk, requests, role="actor")
    _check(prompts, sampled, step)
    responses = [s.whole for s in sampled]
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i][1]) + len(responses[i]))
    out = []
    for at in range(0, len(order), rows):
        part = order[at : at + rows]
        tokens = collate([prompts[i][1] for i in part], [responses[i] for i in part], trunk.device)
        out.append(Responses(tokens, torch.tensor([i - i % each for i in part], device=trunk.device)))
    return out


def _turns(prompts: Sequence[tuple[str, list[int]]]) -> list[int]:
    came: Counter[str] = Counter()
    turns = []
    for name, _ in prompts:
        turns.append(came[name])
        came[name] += 1
    return turns


def packed(trunk: Trunk, batches: Sequence[Responses], rows: int) -> list[PackedGroups]:
    """The same responses with each prompt computed once. Args: rows, of padded ones whose tokens fit together."""
    views = pack_responses(trunk, [b.tokens for b in batches], [b.group for b in batches], rows)
    return [PackedGroups(view, group) for view, group in views]


def _check(prompts: Sequence[tuple[str, list[int]]], sampled: Sequence[Sampled], step: int) -> None:
    """A prompt that can't be answered would else be trained on as if it were answered with nothing."""
    for (name, ids), response in zip(prompts, sampled, strict=True):
        if response.reason is not None:
            raise PoiseError(
                f"a prompt of {len(ids)} tokens can't be answered ({response.reason})",
                where=f"prompt {name}",
                do="leave it out, or cut prompts to what the model's context holds beside an answer",
            )
    if not total([float(sum(bool(response.ids) for response in sampled))])[0]:
        raise PoiseError(
            f"all {len(sampled)} responses of the rollout are empty: the actor ends at once",
            where=f"align step {step}",
            do="lower the actor's rate, raise the KL weight, or start from a model that answers",
            exit_code=4,
        )


@torch.no_grad()
def measure(
    trunk: Trunk,
    responses: Responses | PackedGroups,
    scale: ScoreScale,
    temperature: float = 1.0,
    *,
    costs: Sequence[str] = ("cost",),
    critics: Sequence[str] = ("reward_critic", "cost_critic"),
    passes: Sequence[Sequence[str]] = (),
    actor: bool = True,
) -> Rollout:
    """Score responses with the reward and cost models and the critics; log-probabilities of actor and reference.

    Sequence scores are read with the end token appended, whether the response was cut or not: the preference models
    have only seen responses that end. The appended token is no action: it is outside every mask.

    Args:
        costs: roles of the cost models, "cost" first.
        critics: roles of the critics that the method has; none is run that is not named.
        passes: of reward and cost models, see `shared_passes`; each has one of its own if nothing is said.
        actor: ask it for log-probabilities; else they are float[B, 0] until `Rollout.acted_by`.
    """
    tokens, ended = responses.tokens, responses.tokens
    if isinstance(tokens, Tokens):
        ended = with_end(tokens, trunk.tokenizer.eos_token_id)
        tokens = tokens._replace(ids=ended.ids)
    lower = lower_of(trunk, ended)
    scores = {
        role: score
        for roles in passes or [[role] for role in ("reward", *costs)]
        for role, score in zip(roles, scores_of(trunk, ended, lower, roles), strict=True)
    }
    values = {role: values_of(trunk, tokens, lower, role) for role in critics}
    none = scores["reward"].new_zeros(len(scores["reward"]), 0)
    experience = Experience(
        reward=scale.reward(scores["reward"]),
        cost=scale.cost(scores[costs[0]]),
        log_prob=log_probs_of(trunk, tokens, lower, "actor", temperature) if actor else none,
        reference_log_prob=log_probs_of(trunk, tokens, lower, REFERENCE, temperature),
        value_reward=values.get("reward_critic", none),
        value_cost=values.get("cost_critic", none),
        mask=mask_of(tokens),
    )
    further = {
        role: FurtherCost(scale.cost(scores[role], role), values.get(f"{role}_critic", none)) for role in costs[1:]
    }
    return Rollout(tokens, responses.group, lower, experience, further)
