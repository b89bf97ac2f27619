"""The training loop on one machine: roll out, score, update the multiplier, the actor and the critics.

Everything that changes over steps (adapters, optimizers, multiplier, cost window, history) is in `state_dict`, and
chance is a hash of seed, step and prompt, so a run that was killed continues as if it had not been.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from poise.align.algorithms.ppo_lagrangian import PPOLagrangian, Targets
from poise.align.core import actor_loss, critic_loss, masked_mean
from poise.align.engine.rollout import Rollout, ScoreScale, measure, roll_out, values_before
from poise.align.multiplier import LogMultiplier
from poise.data.rows import uniform_seed
from poise.errors import PoiseError
from poise.models.checkpoint import load_optimizer, load_state, optimizer_state, save_state
from poise.models.trunk import Trunk

TRAINED = ("actor", "reward_critic", "cost_critic")


class LoopSettings(NamedTuple):
    """Args: rates of actor and critics, how many prompts make a rollout, passes over it, clips as published."""

    steps: int
    prompts_per_step: int
    max_new_tokens: int
    temperature: float
    actor_learning_rate: float
    critic_learning_rate: float
    updates_per_rollout: int
    rows_per_update: int
    ratio_clip: float
    value_clip: float
    seed: int


class LocalLoop:
    """PPO-Lagrangian on a trunk with roles actor, reward, cost, reward_critic and cost_critic.

    Args:
        trunk: reward and cost adapters trained; both critics start as copies of them.
        prompts: (id, token ids with template) to draw from.
        algorithm, multiplier, scale, settings: see their classes.
    """

    def __init__(
        self,
        trunk: Trunk,
        prompts: Sequence[tuple[str, list[int]]],
        algorithm: PPOLagrangian,
        multiplier: LogMultiplier,
        scale: ScoreScale,
        settings: LoopSettings,
    ) -> None:
        if not prompts:
            raise PoiseError("no prompts to train on", where="align", do="check the train split of the prompts")
        self.trunk, self.prompts, self.algorithm = trunk, sorted(prompts), algorithm
        self.multiplier, self.scale, self.settings = multiplier, scale, settings
        trunk.load_role("reward_critic", trunk.state_of("reward"), saved_as="reward")
        trunk.load_role("cost_critic", trunk.state_of("cost"), saved_as="cost")
        rates = {"actor": settings.actor_learning_rate}
        self.optimizers = {
            role: torch.optim.AdamW(
                trunk.parameters_of(role), lr=rates.get(role, settings.critic_learning_rate), betas=(0.9, 0.95), weight_decay=0.0
            )
            for role in TRAINED
        }
        self.history: list[dict[str, float]] = []

    def run(
        self, *, checkpoint: Path, checkpoint_every: int = 5, on_step: Callable[[dict[str, float]], object] = lambda row: None
    ) -> list[dict[str, float]]:
        """Run the remaining steps; returns one row of measurements per step.

        Raises:
            PoiseError: a loss or score is not a number; the last checkpoint stays.
        """
        if (state := load_state(checkpoint)) is not None:
            self.load_state_dict(state)
        for step in range(len(self.history), self.settings.steps):
            self.history.append(self.step(step))
            on_step(self.history[-1])
            if (step + 1) % checkpoint_every == 0:
                save_state(checkpoint, self.state_dict())
        return self.history

    def step(self, step: int) -> dict[str, float]:
        """One step of the algorithm, in the paper's order (see `ppo_lagrangian`)."""
        s, started = self.settings, time.perf_counter()
        tokens = roll_out(
            self.trunk,
            self.batch(step),
            seed=s.seed,
            step=step,
            temperature=s.temperature,
            max_new_tokens=s.max_new_tokens,
        )
        rolled = time.perf_counter()
        rollout = measure(self.trunk, tokens, self.scale)
        if not all(x.isfinite().all() for x in rollout.experience):
            raise PoiseError("a score or log-probability is not a number", where=f"align step {step}", exit_code=4)
        scored = time.perf_counter()
        self.multiplier.update(rollout.experience.cost.tolist())
        targets = self.algorithm.targets(rollout.experience, self.multiplier.value)
        losses = self.update(rollout, targets, step)
        return {
            **self.summary(rollout),
            **losses,
            "step": float(step),
            "multiplier": self.multiplier.value,
            "seconds_rollout": rolled - started,
            "seconds_scoring": scored - rolled,
            "seconds_update": time.perf_counter() - scored,
        }

    def batch(self, step: int) -> list[tuple[str, list[int]]]:
        """The prompts of one step: a walk through shuffled epochs."""
        n, size = len(self.prompts), self.settings.prompts_per_step
        chosen = []
        for at in range(step * size, (step + 1) * size):
            epoch, place = divmod(at, n)
            chosen.append(self._order(epoch)[place])
        return [self.prompts[i] for i in chosen]

    def _order(self, epoch: int) -> list[int]:
        return sorted(range(len(self.prompts)), key=lambda i: uniform_seed(self.settings.seed, str(epoch), self.prompts[i][0]))

    def update(self, rollout: Rollout, targets: Targets, step: int) -> dict[str, float]:
        """Gradient steps on actor and critics; returns their mean losses."""
        s = self.settings
        totals = {role: 0.0 for role in TRAINED}
        count = 0
        for turn in range(s.updates_per_rollout):
            generator = torch.Generator().manual_seed(uniform_seed(s.seed, "update", str(step), str(turn)))
            for rows in torch.randperm(len(rollout.tokens.ids), generator=generator).split(s.rows_per_update):
                count += 1
                for role, loss in self._losses(rollout, targets, rows):
                    totals[role] += self._descend(role, loss, step)
        return {f"loss_{role}": total / count for role, total in totals.items()}

    def _losses(self, rollout: Rollout, targets: Targets, rows: Tensor) -> Any:
        """(role, loss) one after another, so that only one role's graph is alive at a time."""
        s, e = self.settings, rollout.experience
        tokens = type(rollout.tokens)(*(t[rows] for t in rollout.tokens))
        lower, mask = rollout.lower[rows], e.mask[rows]
        log_prob = self.trunk.response_log_probs(self.trunk.upper(lower, "actor"), tokens)
        yield "actor", actor_loss(log_prob, e.log_prob[rows], targets.advantage[rows], mask, s.ratio_clip)
        critics = (
            ("reward_critic", e.value_reward, targets.returns_reward),
            ("cost_critic", e.value_cost, targets.returns_cost),
        )
        for role, old, returns in critics:
            value = values_before(self.trunk, self.trunk.upper(lower, role), role)
            yield role, critic_loss(value, old[rows], returns[rows], mask, s.value_clip)

    def _descend(self, role: str, loss: Tensor, step: int) -> float:
        if not math.isfinite(value := float(loss.detach())):
            raise PoiseError(f"loss of {role} is not a number", where=f"align step {step}", do="lower its rate", exit_code=4)
        self.optimizers[role].zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.trunk.parameters_of(role), 1.0)
        self.optimizers[role].step()
        return value

    def summary(self, rollout: Rollout) -> dict[str, float]:
        """What people follow: mean reward and cost, violation rate (cost >= 0), KL to the reference, length."""
        e = rollout.experience
        divergence = ((e.log_prob - e.reference_log_prob) * e.mask).sum(-1).mean()
        return {
            "reward": float(e.reward.mean()),
            "cost": float(e.cost.mean()),
            "violation_rate": float((e.cost >= 0).float().mean()),
            "kl": float(divergence),
            "response_tokens": float(e.mask.sum(-1).float().mean()),
            "value_reward": float(masked_mean(e.value_reward, e.mask)),
            "value_cost": float(masked_mean(e.value_cost, e.mask)),
        }

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed run needs."""
        return {
            "roles": {role: self.trunk.state_of(role) for role in TRAINED},
            "optimizers": {role: optimizer_state(self.optimizers[role]) for role in TRAINED},
            "multiplier": self.multiplier.state_dict(),
            "history": self.history,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore `state_dict`."""
        for role in TRAINED:
            self.trunk.load_role(role, state["roles"][role])
            load_optimizer(self.optimizers[role], state["optimizers"][role])
        self.multiplier.load_state_dict(state["multiplier"])
        self.history = list(state["history"])
