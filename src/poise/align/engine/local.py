"""The training loop on one machine: roll out, score, update the multiplier, the actor and the critics.

Every online method runs here (`methods`). Everything that changes over steps (roles, optimizers, multipliers, cost
windows, history, evaluations) is in `state_dict`, and chance is a hash of seed, step and prompt, so a run that was
killed continues as if it had not been. Several processes of one launch (`processes`) share the prompts of a step.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from poise.align.core import center, critic_loss
from poise.align.engine.checks import check
from poise.align.engine.constraints import ONE, Constraint, Constraints
from poise.align.engine.evaluation import Evaluation, Evaluator
from poise.align.engine.measurements import of_all_processes, summary
from poise.align.engine.methods import Algorithm, Learned, online
from poise.align.engine.processes import agreed, average_gradients, by_first, mine, share
from poise.align.engine.ptx import PTX
from poise.align.engine.rollout import Rollout, ScoreScale, measure, packed, roll_out
from poise.align.engine.settings import LoopSettings
from poise.align.engine.views import log_probs_of, shared_passes, values_of
from poise.align.multiplier import FixedMultiplier, Multiplier, Multipliers
from poise.data.rows import uniform_seed
from poise.errors import PoiseError
from poise.models.checkpoint import load_optimizer, load_state, optimizer_state, save_state
from poise.models.memory import give_back
from poise.models.trunk import Trunk


class LocalLoop:
    """One online method on a trunk with the roles that `methods.online_roles` names.

    Args:
        trunk: reward and cost roles trained; critics start as copies of them.
        prompts: (id, token ids with template) to draw from.
        algorithm: the method's constants.
        multiplier: a rule; `Multipliers` where there are several constraints; None for PPO, which has none.
        scale, settings: see their classes.
        constraints: what the multiplier speaks of.
        evaluation, ptx: see their classes.
        pack: compute a prompt once for all its responses (`views`); the results are the same to rounding.

    Raises:
        PoiseError: no prompts, a role that the trunk lacks, or settings that don't fit the method.
    """

    def __init__(
        self,
        trunk: Trunk,
        prompts: Sequence[tuple[str, list[int]]],
        algorithm: Algorithm,
        multiplier: Multiplier | Multipliers | None,
        scale: ScoreScale,
        settings: LoopSettings,
        *,
        constraints: Sequence[Constraint] = ONE,
        evaluation: Evaluation | None = None,
        ptx: PTX | None = None,
        pack: bool = False,
    ) -> None:
        self.trunk, self.prompts, self.algorithm = trunk, sorted(prompts), algorithm
        self.scale, self.settings, self.ptx, self.packed = scale, settings, ptx and ptx.checked(), pack
        self.constraints = Constraints(constraints, multiplier or FixedMultiplier(0.0))
        self.method = online(algorithm, self.constraints.roles)
        check(self.prompts, trunk, algorithm, constraints, settings, multiplier is None)
        self.evaluator = None if evaluation is None else Evaluator(evaluation, scale, self.constraints.named)
        for critic, start in self.method.critics.items():
            trunk.load_role(critic, trunk.state_of(start), saved_as=start)
        self.trained = ("actor", *self.method.critics)
        self.passes = shared_passes(trunk, ("reward", *self.constraints.roles))
        rates = {"actor": settings.actor_learning_rate}
        self.optimizers = {
            role: torch.optim.AdamW(
                trunk.parameters_of(role),
                lr=rates.get(role, settings.critic_learning_rate),
                betas=(0.9, 0.95),
                weight_decay=0.0,
                fused=True,
            )
            for role in self.trained
        }
        self.history: list[dict[str, float]] = []
        self._shuffled: tuple[int, list[int]] = (-1, [])
        self._ptx_identity = "" if ptx is None else ptx.identity()

    @property
    def multiplier(self) -> Multiplier | Multipliers:
        """As it stands now."""
        return self.constraints.multiplier

    def run(
        self,
        *,
        checkpoint: Path,
        checkpoint_every: int = 5,
        on_step: Callable[[dict[str, float]], object] = lambda row: None,
    ) -> list[dict[str, float]]:
        """Run the remaining steps; returns one row of measurements per step.

        Raises:
            PoiseError: a loss, gradient or score is not a number, or a checkpoint can't be written; the last one stays.
        """
        if (state := load_state(checkpoint)) is not None:
            self.load_state_dict(state)
        share(p for role in self.trained for p in self.trunk.parameters_of(role))
        for step in range(len(self.history), self.settings.steps):
            self._evaluate(step)
            self.history.append(self.step(step))
            give_back(step + 1)
            on_step(self.history[-1])
            if (step + 1) % checkpoint_every == 0:
                by_first(lambda: save_state(checkpoint, self.state_dict()))
        self._evaluate(self.settings.steps)
        return self.history

    def _evaluate(self, step: int) -> None:
        """Before this step, where the evaluation wants it; every process has the same actor, one looks."""
        if (evaluator := self.evaluator) is not None and evaluator.due(step, self.settings.steps):
            by_first(lambda: evaluator.look(self.trunk, step))

    def step(self, step: int) -> dict[str, float]:
        """One step of the algorithm, in the paper's order (see `ppo_lagrangian`)."""
        s, started, prompts = self.settings, time.perf_counter(), self.batch(step)
        names = [name for name, _ in prompts]
        sampled = roll_out(
            self.trunk,
            prompts,
            seed=s.seed,
            step=step,
            temperature=s.temperature,
            max_new_tokens=s.max_new_tokens,
            rows=s.rows_per_batch,
            turns=[turn for _, turn in self._asked(step)],
            each=s.responses_per_prompt,
        )
        batches = packed(self.trunk, sampled, s.rows_per_batch) if self.packed else sampled
        rolled = time.perf_counter()
        rollouts = [
            measure(
                self.trunk,
                responses,
                self.scale,
                s.temperature,
                costs=self.constraints.roles,
                critics=tuple(self.method.critics),
                passes=self.passes,
                actor=self.method.takes_old,
            )
            for responses in batches
        ]
        odd = [r for r in rollouts if not all(x.isfinite().all() for x in (*r.experience, *chain(*r.further.values())))]
        self._agree("a score or log-probability is not a number", odd, step, names)
        scored = time.perf_counter()
        self.constraints.update(rollouts, names, self.method.measured)
        learned = self.method.learned(rollouts, [self.constraints.weights(rollout, names) for rollout in rollouts])
        if s.center_advantages:
            masks, groups = [r.experience.mask for r in rollouts], [r.group for r in rollouts]
            middle = center([each.advantage for each in learned], masks, groups)
            learned = [each._replace(advantage=a) for each, a in zip(learned, middle, strict=True)]
        losses = self.update(rollouts, learned, step, names)
        return {
            **of_all_processes({**summary(rollouts), **losses}, len(prompts)),
            "step": float(step),
            **self.constraints.row(rollouts, names),
            "seconds_rollout": rolled - started,
            "seconds_scoring": scored - rolled,
            "seconds_update": time.perf_counter() - scored,
        }

    def batch(self, step: int) -> list[tuple[str, list[int]]]:
        """The prompts of one step, each as often as it is answered: a walk through shuffled epochs.

        Where an epoch ends a prompt may come twice. Of several processes each takes its share of what is asked.
        """
        return [self.prompts[i] for i, _ in self._asked(step)]

    def _asked(self, step: int) -> list[tuple[int, int]]:
        """(index of the prompt, how many responses to it come before in the whole step) of each own response."""
        n, size, each = len(self.prompts), self.settings.prompts_per_step, self.settings.responses_per_prompt
        came, chosen = Counter[str](), list[tuple[int, int]]()
        for at in range(step * size, (step + 1) * size):
            epoch, place = divmod(at, n)
            prompt = self._order(epoch)[place]
            name, _ = self.prompts[prompt]
            chosen.append((prompt, came[name]))
            came[name] += each
        return [(prompt, before + turn) for prompt, before in mine(chosen) for turn in range(each)]

    def _order(self, epoch: int) -> list[int]:
        """Shuffled indices of an epoch; the last one asked for is kept, a step asks once for each prompt."""
        if self._shuffled[0] != epoch:
            seed, names = self.settings.seed, [name for name, _ in self.prompts]
            order = sorted(range(len(names)), key=lambda i: uniform_seed(seed, str(epoch), names[i]))
            self._shuffled = epoch, order
        return self._shuffled[1]

    def update(
        self, rollouts: list[Rollout], learned: Sequence[Learned], step: int, names: Sequence[str]
    ) -> dict[str, float]:
        """Gradient steps on actor and critics, each over the whole rollout; returns the losses of the last pass.

        Rollouts whose actor was not asked are put in place with what it says in the first pass.

        Gradients are summed over batches in proportion to their rows, so the result does not depend on their size.
        """
        rows = sum(len(rollout.group) for rollout in rollouts)
        losses: dict[str, float] = {}
        for turn in range(self.settings.updates_per_rollout):
            losses, odd = dict.fromkeys(self.trained, 0.0), list[Rollout]()
            for optimizer in self.optimizers.values():
                optimizer.zero_grad()
            for at, each in enumerate(learned):
                weight = len(rollouts[at].group) / rows
                for role, loss in self._losses(rollouts, at, each):
                    if not math.isfinite(value := float(loss.detach())):
                        odd.append(rollouts[at])
                    (weight * loss).backward()  # type: ignore[no-untyped-call]
                    losses[role] += weight * value
            wrong = [role for role, loss in losses.items() if not math.isfinite(loss)]
            self._agree(f"loss of {', '.join(wrong)} is not a number", odd, step, names)
            if self.ptx is not None:
                losses["ptx"] = self._ptx(self.ptx, step, turn)
            norms = {role: self._clipped(role, rows) for role in self.trained}
            wrong = [role for role, norm in norms.items() if not math.isfinite(norm)]
            self._agree(f"gradient of {', '.join(wrong)} is not a number", rollouts if wrong else [], step, names)
            for optimizer in self.optimizers.values():
                optimizer.step()
        return {f"loss_{role}": loss for role, loss in losses.items()}

    def _clipped(self, role: str, rows: int) -> float:
        """Bring a role's gradient to that of all processes' rows, and to at most length 1; returns its length."""
        average_gradients(self.trunk.parameters_of(role), rows)
        return float(torch.nn.utils.clip_grad_norm_(self.trunk.parameters_of(role), 1.0))

    def _losses(self, rollouts: list[Rollout], at: int, learned: Learned) -> Iterator[tuple[str, Tensor]]:
        """(role, loss) one after another, so that only one role's graph is alive at a time."""
        s, rollout = self.settings, rollouts[at]
        log_prob = log_probs_of(self.trunk, rollout.tokens, rollout.lower, "actor", s.temperature)
        rollout = rollouts[at] = rollout.acted_by(log_prob)
        yield "actor", self.method.actor_loss(log_prob, rollout, learned, s.ratio_clip)
        for critic in self.method.critics:
            value = values_of(self.trunk, rollout.tokens, rollout.lower, critic)
            old, returns = rollout.value_of(critic), learned.returns[critic]
            yield critic, critic_loss(value, old, returns, rollout.experience.mask, s.value_clip)

    def _ptx(self, ptx: PTX, step: int, turn: int) -> float:
        """Adds the gradient of the PTX term; returns its value."""
        sum_of_parts = 0.0
        at = step * self.settings.updates_per_rollout + turn
        for loss in ptx.losses(self.trunk, self.settings.seed, at, self.settings.rows_per_batch):
            if not math.isfinite(value := float(loss.detach())):
                where = f"align step {step}, PTX rows {ptx.chosen(self.settings.seed, at)}"
                raise PoiseError("loss of the PTX term is not a number", where=where, do=_LOWER, exit_code=4)
            loss.backward()  # type: ignore[no-untyped-call]
            sum_of_parts += value
        return sum_of_parts

    def _agree(self, what: str, odd: Sequence[Rollout], step: int, names: Sequence[str]) -> None:
        """End the run in every process where any has an odd batch, naming its prompts."""
        if agreed(not odd):
            return
        prompts = sorted({names[number] for rollout in odd for number in rollout.group.tolist()})
        what = f"{what} (prompts {', '.join(prompts)})" if odd else "another process has stopped; see its message"
        raise PoiseError(what, where=f"align step {step}", do=_LOWER, exit_code=4)

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed run needs."""
        return {
            "run": self._identity(),
            "roles": {role: self.trunk.state_of(role) for role in self.trained},
            "optimizers": {role: optimizer_state(self.optimizers[role]) for role in self.trained},
            "multiplier": self.constraints.state_dict(),
            "history": self.history,
            "evaluations": [] if self.evaluator is None else self.evaluator.rows,
        }

    def _identity(self) -> dict[str, str]:
        """What must be the same in a run that continues: all but the number of steps."""
        settings = {name: repr(value) for name, value in self.settings._replace(steps=0)._asdict().items()}
        return {"method": repr(self.algorithm), "ptx": self._ptx_identity, **settings}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore `state_dict`.

        Raises:
            PoiseError: it is of a run with another method, other settings or other PTX rows.
        """
        for name, value in self._identity().items():
            if (there := state["run"].get(name)) != value and name != "rows_per_batch":
                raise PoiseError(
                    f"the checkpoint's {name} is {there}, this run's {value}",
                    where="align",
                    do="continue with the same settings, or delete the checkpoint",
                )
        for role in self.trained:
            self.trunk.load_role(role, state["roles"][role])
            load_optimizer(self.optimizers[role], state["optimizers"][role])
        self.constraints.load_state_dict(state["multiplier"])
        self.history = list(state["history"])
        if self.evaluator is not None:
            self.evaluator.rows = list(state["evaluations"])


_LOWER = "lower the learning rate; the last checkpoint is whole"
