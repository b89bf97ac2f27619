"""The training loop on one machine: roll out, score, update the multiplier, the actor and the critics.

Everything that changes over steps (adapters, optimizers, multiplier, cost window, history) is in `state_dict`, and
chance is a hash of seed, step and prompt, so a run that was killed continues as if it had not been.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from poise.align.algorithms.ppo_lagrangian import PPOLagrangian, Targets
from poise.align.core import actor_loss, center, critic_loss
from poise.align.engine.rollout import Rollout, ScoreScale, measure, roll_out, values_before
from poise.align.multiplier import LogMultiplier
from poise.data.rows import uniform_seed
from poise.errors import PoiseError
from poise.models.checkpoint import load_optimizer, load_state, optimizer_state, save_state
from poise.models.trunk import Trunk

TRAINED = ("actor", "reward_critic", "cost_critic")


class LoopSettings(NamedTuple):
    """Args: rates of actor and critics, how many prompts make a rollout, passes over it, rows of near-equal
    length computed together (no effect on the result), clips as published."""

    steps: int
    prompts_per_step: int
    responses_per_prompt: int
    max_new_tokens: int
    temperature: float
    actor_learning_rate: float
    critic_learning_rate: float
    updates_per_rollout: int
    rows_per_batch: int
    ratio_clip: float
    value_clip: float
    center_advantages: bool
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
                trunk.parameters_of(role),
                lr=rates.get(role, settings.critic_learning_rate),
                betas=(0.9, 0.95),
                weight_decay=0.0,
            )
            for role in TRAINED
        }
        self.history: list[dict[str, float]] = []

    def run(
        self,
        *,
        checkpoint: Path,
        checkpoint_every: int = 5,
        on_step: Callable[[dict[str, float]], object] = lambda row: None,
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
        batches = roll_out(
            self.trunk,
            self.batch(step),
            seed=s.seed,
            step=step,
            temperature=s.temperature,
            max_new_tokens=s.max_new_tokens,
            rows=s.rows_per_batch,
        )
        rolled = time.perf_counter()
        rollouts = [measure(self.trunk, responses, self.scale, s.temperature) for responses in batches]
        if not all(x.isfinite().all() for rollout in rollouts for x in rollout.experience):
            raise PoiseError("a score or log-probability is not a number", where=f"align step {step}", exit_code=4)
        scored = time.perf_counter()
        self.multiplier.update([cost for rollout in rollouts for cost in rollout.experience.cost.tolist()])
        targets = [self.algorithm.targets(rollout.experience, self.multiplier.value) for rollout in rollouts]
        if s.center_advantages:
            masks, groups = [r.experience.mask for r in rollouts], [r.group for r in rollouts]
            middle = center([t.advantage for t in targets], masks, groups)
            targets = [t._replace(advantage=a) for t, a in zip(targets, middle, strict=True)]
        losses = self.update(rollouts, targets, step)
        return {
            **summary(rollouts),
            **losses,
            "step": float(step),
            "multiplier": self.multiplier.value,
            "seconds_rollout": rolled - started,
            "seconds_scoring": scored - rolled,
            "seconds_update": time.perf_counter() - scored,
        }

    def batch(self, step: int) -> list[tuple[str, list[int]]]:
        """The prompts of one step, each as often as it is answered: a walk through shuffled epochs."""
        n, size = len(self.prompts), self.settings.prompts_per_step
        chosen = []
        for at in range(step * size, (step + 1) * size):
            epoch, place = divmod(at, n)
            chosen.append(self._order(epoch)[place])
        return [self.prompts[i] for i in chosen for _ in range(self.settings.responses_per_prompt)]

    def _order(self, epoch: int) -> list[int]:
        return sorted(
            range(len(self.prompts)), key=lambda i: uniform_seed(self.settings.seed, str(epoch), self.prompts[i][0])
        )

    def update(self, rollouts: Sequence[Rollout], targets: Sequence[Targets], step: int) -> dict[str, float]:
        """Gradient steps on actor and critics, each over the whole rollout; returns the losses of the last pass.

        Gradients are summed over batches in proportion to their rows, so the result does not depend on their size.
        """
        total = sum(len(rollout.tokens.ids) for rollout in rollouts)
        losses: dict[str, float] = {}
        for _ in range(self.settings.updates_per_rollout):
            losses = dict.fromkeys(TRAINED, 0.0)
            for optimizer in self.optimizers.values():
                optimizer.zero_grad()
            for rollout, target in zip(rollouts, targets, strict=True):
                share = len(rollout.tokens.ids) / total
                for role, loss in self._losses(rollout, target):
                    if not math.isfinite(value := float(loss.detach())):
                        where = f"align step {step}"
                        raise PoiseError(
                            f"loss of {role} is not a number", where=where, do="lower its rate", exit_code=4
                        )
                    (share * loss).backward()  # type: ignore[no-untyped-call]
                    losses[role] += share * value
            for role, optimizer in self.optimizers.items():
                torch.nn.utils.clip_grad_norm_(self.trunk.parameters_of(role), 1.0)
                optimizer.step()
        return {f"loss_{role}": loss for role, loss in losses.items()}

    def _losses(self, rollout: Rollout, targets: Targets) -> Iterator[tuple[str, Tensor]]:
        """(role, loss) one after another, so that only one role's graph is alive at a time."""
        s, e = self.settings, rollout.experience
        hidden = self.trunk.upper(rollout.lower, "actor")
        log_prob = self.trunk.response_log_probs(hidden, rollout.tokens, s.temperature)
        yield "actor", actor_loss(log_prob, e.log_prob, targets.advantage, e.mask, s.ratio_clip)
        critics = (
            ("reward_critic", e.value_reward, targets.returns_reward),
            ("cost_critic", e.value_cost, targets.returns_cost),
        )
        for role, old, returns in critics:
            value = values_before(self.trunk, self.trunk.upper(rollout.lower, role), role)
            yield role, critic_loss(value, old, returns, e.mask, s.value_clip)

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


def summary(rollouts: Sequence[Rollout]) -> dict[str, float]:
    """What people follow: mean reward and cost, violation rate (cost >= 0), KL to the reference in nats, length."""
    e = [rollout.experience for rollout in rollouts]
    cost = torch.cat([x.cost for x in e])
    divergence = torch.cat([((x.log_prob - x.reference_log_prob) * x.mask).sum(-1) for x in e])
    return {
        "reward": float(torch.cat([x.reward for x in e]).mean()),
        "cost": float(cost.mean()),
        "violation_rate": float((cost >= 0).float().mean()),
        "kl": float(divergence.mean()),
        "response_tokens": float(torch.cat([x.mask.sum(-1) for x in e]).float().mean()),
    }
