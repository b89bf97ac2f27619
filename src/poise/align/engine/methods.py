"""What an online method does with a rollout: which critics it needs, what it learns from, and the actor's loss.

The loop is blind to the method. A method here joins one file of `algorithms`, which holds its constants and its maths,
to the loop's batches: `online` finds it by the type of those constants.

| constants | critics | multiplier takes | advantage |
|---|---|---|---|
| `PPO` | reward | - | GAE |
| `RewardShaping` | reward (of R - sum nu C) | sequence costs, and stays | GAE |
| `PPOLagrangian` | reward, each cost | sequence costs | GAE, combined |
| `RePO` | reward, cost | mean cost of each prompt | GAE, combined where a prompt violates |
| `GRPOLagrangian` | none | sequence costs | group-normalised, combined |
| `RLOOLagrangian` | none | sequence costs | leave-one-out, scaled, combined |
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from poise.align.algorithms.grpo_lagrangian import GRPOLagrangian
from poise.align.algorithms.ppo import PPO, RewardExperience
from poise.align.algorithms.ppo_lagrangian import PPOLagrangian
from poise.align.algorithms.repo import RePO, prompt_costs
from poise.align.algorithms.reward_shaping import RewardShaping
from poise.align.algorithms.rloo_lagrangian import RLOOLagrangian, divergence
from poise.align.core import Advantage, actor_loss
from poise.align.engine.constraints import ONE, Constraint
from poise.align.engine.processes import world
from poise.align.engine.rollout import Rollout
from poise.align.multiplier import gathered
from poise.errors import PoiseError

Algorithm = PPO | RewardShaping | PPOLagrangian | RePO | GRPOLagrangian | RLOOLagrangian
Weights = Mapping[str, float | Tensor]
"""lambda by cost role: a number, or float[B] with one for each response."""


class Learned(NamedTuple):
    """What actor and critics learn from one batch.

    Args:
        advantage: float[B, T], or float[B] of a method that takes the response as a whole.
        returns: float[B, T] by critic.
    """

    advantage: Tensor
    returns: Mapping[str, Tensor]


class Method(Protocol):
    """One online method, for the cost models that its constraints ask."""

    @property
    def critics(self) -> Mapping[str, str]:
        """Roles trained beside the actor, each with the role it starts as a copy of."""
        ...

    @property
    def takes_old(self) -> bool:
        """Whether `learned` needs the log-probabilities of the policy that acted (a KL in the reward).

        If not, they are those that the first pass of the update computes anyway, before it moves anything.
        """
        ...

    def measured(self, cost: Tensor, group: Tensor) -> list[float]:
        """What the multiplier takes: from sequence costs float[N] and groups int64[N]."""
        ...

    def learned(self, rollouts: Sequence[Rollout], weights: Sequence[Weights]) -> list[Learned]:
        """For each batch of one whole rollout, at the multipliers' new values."""
        ...

    def actor_loss(self, log_prob: Tensor, rollout: Rollout, learned: Learned, clip: float) -> Tensor:
        """Scalar, a mean over the batch's responses; log_prob float[B, T] of the actor as it is now."""
        ...


class _Critics:
    """What methods with critics share. Args: algorithm; roles of the cost models."""

    takes_old = True

    def __init__(self, algorithm: Any, costs: Sequence[str]) -> None:
        self.algorithm, self.costs = algorithm, tuple(costs)

    def measured(self, cost: Tensor, group: Tensor) -> list[float]:
        values: list[float] = cost.tolist()
        return values

    def actor_loss(self, log_prob: Tensor, rollout: Rollout, learned: Learned, clip: float) -> Tensor:
        e = rollout.experience
        return actor_loss(log_prob, e.log_prob, learned.advantage, e.mask, clip)


class _PPO(_Critics):
    critics = {"reward_critic": "reward"}  # noqa: RUF012 -- never written to

    def learned(self, rollouts: Sequence[Rollout], weights: Sequence[Weights]) -> list[Learned]:
        targets = [self._targets(rollout, weight) for rollout, weight in zip(rollouts, weights, strict=True)]
        return [Learned(target.advantage, {"reward_critic": target.returns}) for target in targets]

    def _targets(self, rollout: Rollout, weights: Weights) -> Advantage:
        targets: Advantage = self.algorithm.targets(_reward_experience(rollout))
        return targets


class _RewardShaping(_PPO):
    def _targets(self, rollout: Rollout, weights: Weights) -> Advantage:
        shaped = torch.zeros_like(rollout.experience.reward)
        for role in self.costs:
            shaped = shaped + weights[role] * rollout.cost_of(role)
        targets: Advantage = self.algorithm.targets(_reward_experience(rollout), shaped, 1.0)
        return targets


class _PPOLagrangian(_Critics):
    @property
    def critics(self) -> dict[str, str]:
        return {"reward_critic": "reward"} | {f"{role}_critic": role for role in self.costs}

    def learned(self, rollouts: Sequence[Rollout], weights: Sequence[Weights]) -> list[Learned]:
        return [self._learned(self.algorithm, r, w) for r, w in zip(rollouts, weights, strict=True)]

    def _learned(self, algorithm: PPOLagrangian, rollout: Rollout, weights: Weights) -> Learned:
        further = [rollout.further[role] for role in self.costs[1:]]
        multipliers = [_column(weights[role]) for role in self.costs]
        targets, more = algorithm.several(rollout.experience, [(f.cost, f.value) for f in further], multipliers)
        critics = ("reward_critic", *(f"{role}_critic" for role in self.costs))
        returns = (targets.returns_reward, targets.returns_cost, *more)
        return Learned(targets.advantage, dict(zip(critics, returns, strict=True)))


class _RePO(_PPOLagrangian):
    def __init__(self, algorithm: RePO, costs: Sequence[str]) -> None:
        if len(costs) > 1:
            raise PoiseError("repo has one cost model", where="align", do="give one, or take ppo_lagrangian")
        super().__init__(algorithm, costs)

    def measured(self, cost: Tensor, group: Tensor) -> list[float]:
        return prompt_costs(cost, group)

    def learned(self, rollouts: Sequence[Rollout], weights: Sequence[Weights]) -> list[Learned]:
        cost, group = (
            torch.cat(parts) for parts in zip(*((r.experience.cost, r.group) for r in rollouts), strict=True)
        )
        violating = self.algorithm.row_multipliers(cost, 1.0, group).split([len(r.group) for r in rollouts])
        return [
            self._learned(self.algorithm.ppo, r, {"cost": w["cost"] * rows})
            for r, w, rows in zip(rollouts, weights, violating, strict=True)
        ]


class _Scores(NamedTuple):
    """Of the N responses of a rollout: reward and costs float[N] each, group int64[N]; multipliers, one a cost."""

    reward: Tensor
    costs: list[Tensor]
    group: Tensor
    multipliers: list[float | Tensor]


class _CriticFree(ABC):
    """What critic-free methods share: a response is compared with its siblings, wherever their batches are."""

    critics: Mapping[str, str] = {}

    def __init__(self, algorithm: Any, costs: Sequence[str]) -> None:
        self.algorithm, self.costs = algorithm, tuple(costs)

    def measured(self, cost: Tensor, group: Tensor) -> list[float]:
        values: list[float] = cost.tolist()
        return values

    def learned(self, rollouts: Sequence[Rollout], weights: Sequence[Weights]) -> list[Learned]:
        reward, group = (
            torch.cat(parts) for parts in zip(*((r.experience.reward, r.group) for r in rollouts), strict=True)
        )
        scores = _Scores(
            reward,
            [torch.cat([rollout.cost_of(role) for rollout in rollouts]) for role in self.costs],
            group,
            [_joined([weight[role] for weight in weights]) for role in self.costs],
        )
        advantage = self._advantage(scores, rollouts)
        return [Learned(part, {}) for part in torch.split(advantage, [len(r.group) for r in rollouts])]

    @abstractmethod
    def _advantage(self, scores: _Scores, rollouts: Sequence[Rollout]) -> Tensor:
        """float[N]."""


class _GRPOLagrangian(_CriticFree):
    takes_old = False

    def _advantage(self, scores: _Scores, rollouts: Sequence[Rollout]) -> Tensor:
        advantage: Tensor = self.algorithm.advantage(scores.reward, scores.costs, scores.group, scores.multipliers)
        return advantage

    def actor_loss(self, log_prob: Tensor, rollout: Rollout, learned: Learned, clip: float) -> Tensor:
        e = rollout.experience
        loss: Tensor = self.algorithm.loss(log_prob, e.log_prob, e.reference_log_prob, learned.advantage, e.mask)
        return loss


class _RLOOLagrangian(_CriticFree):
    """The scale of a component is that of the whole rollout, so processes exchange their scores first."""

    takes_old = True

    def _advantage(self, scores: _Scores, rollouts: Sequence[Rollout]) -> Tensor:
        reward, costs, group, multipliers = scores
        numbers = int(max(gathered([float(group.max())]))) + 1
        mine = slice(start := sum(_counts(group)[: world().rank]), start + len(group))
        everyone = _everyone(reward), [_everyone(c) for c in costs], _everyone(group + world().rank * numbers)
        lambdas = [_everyone(m) if isinstance(m, Tensor) else m for m in multipliers]
        advantage: Tensor = self.algorithm.advantage(*everyone, lambdas, _everyone(_divergence(rollouts)))
        return advantage[mine]

    def actor_loss(self, log_prob: Tensor, rollout: Rollout, learned: Learned, clip: float) -> Tensor:
        loss: Tensor = self.algorithm.loss(
            log_prob, rollout.experience.log_prob, learned.advantage, rollout.experience.mask
        )
        return loss


ONLINE: Mapping[str, type[Algorithm]] = {
    "ppo": PPO,
    "reward_shaping": RewardShaping,
    "ppo_lagrangian": PPOLagrangian,
    "grpo_lagrangian": GRPOLagrangian,
    "rloo_lagrangian": RLOOLagrangian,
    "repo": RePO,
}
"""Constants of every online method by name."""

_METHODS: Mapping[type[Algorithm], Any] = {
    PPO: _PPO,
    RewardShaping: _RewardShaping,
    PPOLagrangian: _PPOLagrangian,
    GRPOLagrangian: _GRPOLagrangian,
    RLOOLagrangian: _RLOOLagrangian,
    RePO: _RePO,
}


def online(algorithm: Algorithm, costs: Sequence[str] = ("cost",)) -> Method:
    """The method of these constants, for the cost models with these roles."""
    method: Method = _METHODS[type(algorithm)](algorithm, costs)
    return method


def online_roles(algorithm: Algorithm, constraints: Sequence[Constraint] = ONE) -> tuple[str, ...]:
    """Roles that a trunk needs for a method: "actor", then those with a scalar head (models first, then critics)."""
    costs = tuple(dict.fromkeys(each.role for each in constraints))
    return ("actor", "reward", *costs, *online(algorithm, costs).critics)


def _reward_experience(rollout: Rollout) -> RewardExperience:
    e = rollout.experience
    return RewardExperience(e.reward, e.log_prob, e.reference_log_prob, e.value_reward, e.mask)


def _divergence(rollouts: Sequence[Rollout]) -> Tensor:
    """log pi(y | x) - log pi_ref(y | x) of every response, float[N]."""
    e = [rollout.experience for rollout in rollouts]
    return torch.cat([divergence(x.log_prob, x.reference_log_prob, x.mask) for x in e])


def _counts(group: Tensor) -> list[int]:
    """How many responses each process has."""
    return [int(count) for count in gathered([float(len(group))])]


def _everyone(values: Tensor) -> Tensor:
    """The values [N] of all processes in rank order."""
    if world().size == 1:
        return values
    return torch.tensor(gathered(values.tolist()), device=values.device).to(values.dtype)


def _column(weight: float | Tensor) -> float | Tensor:
    """A lambda of its own for each response, at each of its tokens: float[B] -> float[B, 1]."""
    return weight[:, None] if isinstance(weight, Tensor) else weight


def _joined(weights: Sequence[float | Tensor]) -> float | Tensor:
    """One lambda for all batches, or float[N] of their responses."""
    tensors = [weight for weight in weights if isinstance(weight, Tensor)]
    return torch.cat(tensors) if tensors else weights[0]
