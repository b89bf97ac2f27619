"""The trainer of the offline methods: AdamW over the phases of a run, from the last checkpoint where there is one.

A step's gradient is the summed loss of its items divided by their weight, whatever the micro-batches are. Items of a
step are computed in order of length, so that a micro-batch holds little padding; which items stand in a step, and the
order of steps, are shuffles from seed, phase and epoch. Everything that changes is in the checkpoint, so a run that was
killed at any moment ends in the same bits as one that was not. Several processes share the micro-batches of a step
(`engine.processes`) and sum what they found, so that all take the step that one would take; the first writes.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from poise.align.engine.processes import by_first, mine, share, shared_out, sum_gradients, total
from poise.align.sft.training import learning_rate
from poise.align.train.objectives import Objective
from poise.align.train.recipe import TrainingSection
from poise.data.rows import uniform_seed
from poise.errors import PoiseError
from poise.models.checkpoint import load_optimizer, load_state, optimizer_state, save_state
from poise.models.encoder import ignore
from poise.models.memory import give_back
from poise.models.trunk import Trunk

Entry = dict[str, Any]
_NAMED = 4  # rows named in a message


class Phase(NamedTuple):
    """Args: name; make, called when the phases before it are done, as it may need what they trained."""

    name: str
    make: Callable[[], Objective]


def plan_steps(objective: Objective, settings: TrainingSection, seed: int) -> list[list[list[int]]]:
    """The micro-batches of every step; every item once an epoch.

    Which items stand together is one shuffle, so that what is known of them (`Objective.prepare`) holds in all epochs;
    the order of the steps is shuffled anew in each.
    """

    def shuffled(things: Sequence[Any], *purpose: str) -> list[Any]:
        order = sorted(
            range(len(things)), key=lambda at: uniform_seed(seed, "align", objective.name, *purpose, str(at))
        )
        return [things[at] for at in order]

    size = settings.pairs_per_step
    made = [_by_length(objective, step) for step in _parts(shuffled(objective.train, "items"), size)]
    steps = [_parts(step, settings.pairs_per_batch) for step in made]
    whole = [step for epoch in range(settings.epochs) for step in shuffled(steps, str(epoch))]
    return whole[: settings.max_steps or None]


def looks_of(objective: Objective, settings: TrainingSection) -> list[list[int]]:
    """The held-out items in the groups in which they are evaluated."""
    return _parts(_by_length(objective, objective.held_out), settings.pairs_per_batch)


@torch.no_grad()
def evaluate(objective: Objective, groups: Sequence[Sequence[int]], on_rows: Callable[[int], object] = ignore) -> Entry:
    """Means over the held-out items. Args: groups of them, see `looks_of`."""
    sums: Counter[str] = Counter()
    for items in shared_out(groups, on_rows):
        sums.update(objective.measure(items).sums)
    weight = sum(objective.weights[at] for at in objective.held_out)
    return {**_means(objective, sums, weight), "items": len(objective.held_out)}


class OfflineTraining:
    """One run.

    Args:
        trunk: with the roles of all phases.
        phases: in order.
        settings, seed: of the loop.
        checkpoint: file of the state; an existing one is continued.
        on_step: called with the phase's name, its steps done (first those of the checkpoint), all its steps, loss.
        on_rows: called with the number of held-out items after each batch of an evaluation.

    Attributes:
        history: one entry a step: phase, step, loss, what the objective measures, rate, norm of the gradient.
        evaluations: phase, step and means over the held-out items.
        seconds, tokens, padding, items: of the steps alone, over all sittings.
    """

    def __init__(
        self,
        trunk: Trunk,
        phases: Sequence[Phase],
        settings: TrainingSection,
        seed: int,
        *,
        checkpoint: Path,
        on_step: Callable[[str, int, int, float], object] = lambda phase, done, total, loss: None,
        on_rows: Callable[[int], object] = ignore,
    ) -> None:
        self.trunk, self.phases, self.settings, self.seed = trunk, phases, settings, seed
        self._checkpoint, self._on_step, self._on_rows = checkpoint, on_step, on_rows
        self.history: list[Entry] = []
        self.evaluations: list[Entry] = []
        self.seconds, self.tokens, self.padding, self.items = 0.0, 0, 0, 0

    def run(self) -> None:
        """Train what is left.

        Raises:
            PoiseError: a loss or gradient is not finite (exit code 4; what was trained before that step is in the
                checkpoint), or the checkpoint is damaged.
        """
        state = self._resume()
        share(parameter for role in self.trunk.roles for parameter in self.trunk.parameters_of(role))
        for number in range(state["phase"] if state else 0, len(self.phases)):
            resumed = state if state and state["phase"] == number else None
            self._run_phase(number, self.phases[number].make(), resumed)

    def _run_phase(self, number: int, objective: Objective, state: dict[str, Any] | None) -> None:
        if state is None and objective.start is not None:
            self.trunk.load_role(objective.role, self.trunk.state_of(objective.start), saved_as=objective.start)
        parameters = self._parameters(objective)
        optimizer = torch.optim.AdamW(
            parameters,
            lr=self.settings.learning_rate,
            betas=(0.9, 0.95),
            weight_decay=self.settings.weight_decay,
            fused=True,
        )
        if state is not None:
            load_optimizer(optimizer, state["optimizer"])
        steps, looks = plan_steps(objective, self.settings, self.seed), looks_of(objective, self.settings)
        objective.prepare([*dict.fromkeys(tuple(items) for step in steps for items in step), *looks])
        begun, total, every = state["step"] if state else 0, len(steps), self.settings.evaluate_every
        self._on_step(objective.name, begun, total, self.history[-1]["loss"] if begun else math.nan)
        if state is None:
            self._evaluate(objective, looks, 0)
        for step in range(begun, total):
            started = time.perf_counter()
            self._descend(number, objective, optimizer, parameters, step, steps)
            self.seconds += time.perf_counter() - started
            done = step + 1
            if done == total or (every and done % every == 0):
                self._evaluate(objective, looks, done)
            if done == total or done % self.settings.save_every == 0:
                self._save(number, done, optimizer)
            give_back(done)
            self._on_step(objective.name, done, total, self.history[-1]["loss"])
        optimizer.zero_grad()  # gives the room of this role's gradients to the next phase

    def _descend(
        self,
        number: int,
        objective: Objective,
        optimizer: torch.optim.Optimizer,
        parameters: list[torch.nn.Parameter],
        step: int,
        steps: list[list[list[int]]],
    ) -> None:
        """One optimizer step."""
        batches = steps[step]
        weight = sum(objective.weights[at] for items in batches for at in items)
        sums: Counter[str] = Counter()
        tokens, padding, odd = 0, 0, [False] * len(batches)
        optimizer.zero_grad()
        for at in mine(range(len(batches))):
            measured = objective.measure(batches[at])
            odd[at] = not math.isfinite(float(measured.loss.detach()))
            if odd[at]:
                break
            (measured.loss / weight).backward()  # type: ignore[no-untyped-call]
            sums.update(measured.sums)
            tokens, padding = tokens + measured.tokens, padding + measured.padding
        tokens, padding, *wrong = map(int, total([tokens, padding, *odd]))
        if any(wrong):
            self._stop(number, objective, optimizer, step, "the loss", batches[wrong.index(1)])
        sum_gradients(parameters)
        norm = float(torch.nn.utils.clip_grad_norm_(parameters, self.settings.clip))
        if not math.isfinite(norm):
            self._stop(number, objective, optimizer, step, "the gradient", [at for items in batches for at in items])
        rate = learning_rate(step, len(steps), self.settings)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        self.tokens, self.padding = self.tokens + tokens, self.padding + padding
        self.items += sum(map(len, batches))
        means = _means(objective, sums, weight)
        self.history.append({"phase": objective.name, "step": step + 1, **means, "rate": rate, "norm": norm})

    def _stop(
        self,
        number: int,
        objective: Objective,
        optimizer: torch.optim.Optimizer,
        step: int,
        what: str,
        items: list[int],
    ) -> None:
        """Keep what was trained before this step, and name its rows.

        Raises:
            PoiseError: always.
        """
        self._save(number, step, optimizer)
        more = f" and {len(items) - _NAMED} more" if len(items) > _NAMED else ""
        rows = ", ".join(objective.where(at) for at in items[:_NAMED]) + more
        raise PoiseError(
            f"{what} of step {step + 1} is not a number, in the batch of {rows}",
            where=f"phase {objective.name!r}",
            do=f"the weights after step {step} are kept; take a lower training.learning_rate or mend these rows",
            exit_code=4,
        )

    def _parameters(self, objective: Objective) -> list[torch.nn.Parameter]:
        if objective.parameters is None:
            return self.trunk.parameters_of(objective.role)
        wanted, role = set(objective.parameters), objective.role
        named = zip(self.trunk.state_of(role), self.trunk.parameters_of(role), strict=True)
        return [parameter for name, parameter in named if name in wanted]

    def _evaluate(self, objective: Objective, looks: list[list[int]], step: int) -> None:
        if looks:
            means = evaluate(objective, looks, self._on_rows)
            self.evaluations.append({"phase": objective.name, "step": step, **means})

    def _save(self, phase: int, step: int, optimizer: torch.optim.Optimizer) -> None:
        state = {
            "phase": phase,
            "step": step,
            "roles": {role: self.trunk.state_of(role) for role in self.trunk.roles},
            "optimizer": optimizer_state(optimizer),
            "history": self.history,
            "evaluations": self.evaluations,
            "counts": [self.tokens, self.padding, self.items],
            "seconds": self.seconds,
        }
        by_first(lambda: save_state(self._checkpoint, state))

    def _resume(self) -> dict[str, Any] | None:
        if not self._checkpoint.is_file():
            return None
        state = load_state(self._checkpoint)
        if state is None or state["roles"].keys() != set(self.trunk.roles):
            where = str(self._checkpoint)
            raise PoiseError("the checkpoint is damaged", where=where, do="delete it; training starts again")
        for role, tensors in state["roles"].items():
            self.trunk.load_role(role, tensors)
        self.history, self.evaluations, self.seconds = state["history"], state["evaluations"], state["seconds"]
        self.tokens, self.padding, self.items = state["counts"]
        return state


def _means(objective: Objective, sums: Mapping[str, float], weight: float) -> Entry:
    """What the processes measured together, over the weight of all items."""
    names = objective.measures
    return {name: value / weight for name, value in zip(names, total([sums[name] for name in names]), strict=True)}


def _by_length(objective: Objective, items: Sequence[int]) -> list[int]:
    return sorted(items, key=lambda at: (objective.lengths[at], at))


def _parts(items: Sequence[int], size: int) -> list[list[int]]:
    return [list(items[at : at + size]) for at in range(0, len(items), size)]
