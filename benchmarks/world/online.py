"""The online methods on the world: roll out, score with the oracles, move the multiplier, take clipped steps.

Critics are small perceptrons on the pre-trained model's final states, which every rollout computes anyway for the
reference's log-probabilities; nothing else here is particular to the world.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from poise.align.algorithms.grpo_lagrangian import GRPOLagrangian
from poise.align.algorithms.ppo import PPO, RewardExperience
from poise.align.algorithms.ppo_lagrangian import Experience, PPOLagrangian, Targets
from poise.align.algorithms.repo import RePO, prompt_costs
from poise.align.algorithms.reward_shaping import RewardShaping
from poise.align.algorithms.rloo_lagrangian import RLOOLagrangian, divergence
from poise.align.core import actor_loss, critic_loss
from poise.align.multiplier import FixedMultiplier, Multiplier, PIDMultiplier, RectifiedMultiplier
from world.grammar import Requests, World
from world.speaker import Responses, before_tokens, copied, label_log_probs, sample


class Play(NamedTuple):
    """Args: steps; requests of one and responses to each; passes over a rollout; rates of actor and critics; beta."""

    steps: int = 100
    requests: int = 16
    responses: int = 4
    passes: int = 2
    rate: float = 2e-4
    critic_rate: float = 2e-3
    kl: float = 0.02


class Rollout(NamedTuple):
    """B responses. Args: states float[B, R, H] of the reference; log-probs float[B, R]; scores float[B]; groups."""

    prompt: Tensor
    said: Responses
    states: Tensor
    log_prob: Tensor
    reference: Tensor
    values: tuple[Tensor, Tensor]
    reward: Tensor
    cost: Tensor
    groups: Tensor


class Now(NamedTuple):
    """What the model and the critics say of a rollout in one pass over it, float[B, R] each."""

    log_prob: Tensor
    values: tuple[Tensor, Tensor]


LossOf = Callable[[Now], Tensor]
Method = Callable[[Rollout, Multiplier, Play], LossOf]
"""Moves the multiplier once, and gives the loss of every pass over the rollout."""


def with_critics(r: Rollout, targets: Targets) -> LossOf:
    """Actor and both critics."""

    def loss(now: Now) -> Tensor:
        returns = (targets.returns_reward, targets.returns_cost)
        sides = zip(now.values, r.values, returns, strict=True)
        critics = sum(critic_loss(value, old, to, r.said.mask) for value, old, to in sides)
        return actor_loss(now.log_prob, r.log_prob, targets.advantage, r.said.mask) + critics

    return loss


def experience(r: Rollout) -> Experience:
    """As PPO-Lagrangian and RePO take it."""
    return Experience(r.reward, r.cost, r.log_prob, r.reference, *r.values, r.said.mask)


def ppo(r: Rollout, multiplier: Multiplier, told: Play) -> LossOf:
    """PPO on the reward alone, and with a fixed weight on R - nu C (weight 0 is plain PPO)."""
    multiplier.update(r.cost.tolist())
    measured = RewardExperience(r.reward, r.log_prob, r.reference, r.values[0], r.said.mask)
    algorithm = PPO(kl=told.kl)
    if multiplier.value == 0:
        targets = algorithm.targets(measured)
    else:
        targets = RewardShaping(algorithm).targets(measured, r.cost, multiplier.value)

    def loss(now: Now) -> Tensor:
        value = critic_loss(now.values[0], r.values[0], targets.returns, r.said.mask)
        return actor_loss(now.log_prob, r.log_prob, targets.advantage, r.said.mask) + value

    return loss


def ppo_lagrangian(r: Rollout, multiplier: Multiplier, told: Play) -> LossOf:
    """PPO-Lagrangian."""
    multiplier.update(r.cost.tolist())
    return with_critics(r, PPOLagrangian(kl=told.kl).targets(experience(r), multiplier.value))


def repo(r: Rollout, multiplier: Multiplier, told: Play) -> LossOf:
    """RePO: no prompt's slack pays for another."""
    multiplier.update(prompt_costs(r.cost, r.groups))
    return with_critics(r, RePO(PPOLagrangian(kl=told.kl)).targets(experience(r), multiplier.value, r.groups))


def grpo_lagrangian(r: Rollout, multiplier: Multiplier, told: Play) -> LossOf:
    """GRPO-Lagrangian."""
    multiplier.update(r.cost.tolist())
    algorithm = GRPOLagrangian(kl=told.kl)
    advantage = algorithm.advantage(r.reward, r.cost, r.groups, multiplier.value)
    return lambda now: algorithm.loss(now.log_prob, r.log_prob, r.reference, advantage, r.said.mask)


def rloo_lagrangian(r: Rollout, multiplier: Multiplier, told: Play) -> LossOf:
    """RLOO-Lagrangian."""
    multiplier.update(r.cost.tolist())
    algorithm = RLOOLagrangian(kl=told.kl)
    away = divergence(r.log_prob, r.reference, r.said.mask)
    advantage = algorithm.advantage(r.reward, r.cost, r.groups, multiplier.value, away)
    return lambda now: algorithm.loss(now.log_prob, r.log_prob, advantage, r.said.mask)


class Run(NamedTuple):
    """Args: model; multiplier, mean cost and mean reward of every step."""

    model: Any
    history: list[dict[str, float]]


def play(method: Method, multiplier: Multiplier, start: Any, world: World, told: Play, seed: int) -> Run:
    """Train a copy of `start`."""
    chance = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    actor, width = copied(start), start.config.hidden_size
    critics = [nn.Sequential(nn.Linear(width, 128), nn.Tanh(), nn.Linear(128, 1)) for _ in range(2)]
    for critic in critics:
        nn.init.zeros_(critic[-1].weight)
    learners = [p for critic in critics for p in critic.parameters()]
    optimizer = torch.optim.AdamW(
        [{"params": actor.parameters(), "lr": told.rate}, {"params": learners, "lr": told.critic_rate}],
        betas=(0.9, 0.95),
        weight_decay=0.0,
    )
    history = []
    for _ in range(told.steps):
        rollout = roll_out(actor, start, critics, world, told, chance)
        loss_of = method(rollout, multiplier, told)
        for _ in range(told.passes):
            states = before_tokens(actor, rollout.prompt, rollout.said.ids)
            log_prob = label_log_probs(actor, states, rollout.said.ids) * rollout.said.mask
            loss = loss_of(Now(log_prob, _values(critics, rollout.states)))
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(actor.parameters(), 1.0)
            optimizer.step()
        measured = {"cost": float(rollout.cost.mean()), "reward": float(rollout.reward.mean())}
        history.append(measured | {"multiplier": multiplier.value})
    return Run(actor, history)


@torch.no_grad()
def roll_out(
    actor: Any, start: Any, critics: list[nn.Sequential], world: World, told: Play, chance: torch.Generator
) -> Rollout:
    """Fresh requests, half unsafe; every response scored by the oracles."""
    halves = [world.requests(split, told.requests // 2, chance) for split in ("safe", "unsafe")]
    requests = Requests(*(torch.cat(fields) for fields in zip(*halves, strict=True)))
    groups = torch.arange(len(requests.unsafe)).repeat_interleave(told.responses)
    requests = requests.rows(groups)
    said = sample(actor, world, requests.prompt, chance)
    now, then = (before_tokens(model, requests.prompt, said.ids) for model in (actor, start))
    log_prob, reference = (label_log_probs(m, s, said.ids) * said.mask for m, s in ((actor, now), (start, then)))
    scores = world.score(requests, said.ids)
    values = _values(critics, then)
    return Rollout(requests.prompt, said, then, log_prob, reference, values, *scores, groups)


def _values(critics: list[nn.Sequential], states: Tensor) -> tuple[Tensor, Tensor]:
    reward, cost = (critic(states)[..., 0] for critic in critics)
    return reward, cost


def pid(limit: float) -> Multiplier:
    """Lambda from one; one rollout's costs are noisy, so four are averaged."""
    return PIDMultiplier(limit, 1.0, 0.1, 0.0, 1.0, window=256)


METHODS: dict[str, tuple[Method, dict[str, Callable[[float], Multiplier]]]] = {
    "ppo": (ppo, {"": lambda limit: FixedMultiplier(0.0)}),
    "reward_shaping": (ppo, {f"nu {nu:g}": lambda limit, nu=nu: FixedMultiplier(nu) for nu in (1.0, 2.0, 5.0)}),
    "ppo_lagrangian": (ppo_lagrangian, {"": pid}),
    "repo": (repo, {"": lambda limit: RectifiedMultiplier(0.0, 1.0, 0.1, 20.0, window=32)}),
    "grpo_lagrangian": (grpo_lagrangian, {"": pid}),
    "rloo_lagrangian": (rloo_lagrangian, {"": pid}),
}
"""Method, and for each setting its multiplier at a limit."""
