"""The training loop: AdamW, a cosine with warm-up, all learnt tokens of a step weighed alike, going on after a stop.

The defaults are those of the script that makes the responders of the paper (safe-rlhf, `scripts/sft.sh`): 3 epochs,
512 tokens, 4 rows x 8 micro-batches, learning rate 2e-5, warm-up 3 %, weight decay 0, seed 42. Left out: several
devices, gradient checkpointing, quantised weights.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, Protocol

import torch

from poise.align.sft.batches import Step, collate, plan
from poise.align.sft.loss import TokenLoss
from poise.align.sft.templates import Example
from poise.errors import PoiseError
from poise.models.checkpoint import load_optimizer, load_state, optimizer_state, save_state
from poise.models.encoder import ignore
from poise.models.memory import give_back

_NAMED = 4  # rows named in a message
FULL_RATE, LORA_RATE = 2e-5, 2e-4
"""Default learning rates; that of LoRA is ours, a tenfold one is usual."""


class Settings(NamedTuple):
    """What decides the result of a run, besides the model and the data; see the module's docstring for the defaults.

    Args:
        lora: train low-rank adapters instead of all weights.
        rank: of the adapters; their scaling is 2.
        adapter: save the adapters alone, not merged into the weights.
        template: "chat" or "pku".
        packed: several examples to a row.
        epochs: passes over the data.
        max_steps: at most so many optimizer steps, 0 for no limit.
        learning_rate: at the top, 0 for the default of the mode.
        warmup: share of the steps in which the rate rises.
        weight_decay: of AdamW, betas (0.9, 0.95).
        clip: largest norm of the gradient.
        batch_size: rows of a micro-batch.
        accumulate: micro-batches of a step.
        max_length: most tokens of an example, and of a packed row.
        eval_share: share of the prompts that are held out.
        eval_every: steps between evaluations, besides those before, after, and at the end of each epoch; 0 for none.
        seed: of the order, the held-out share and the adapters.
    """

    lora: bool = False
    rank: int = 16
    adapter: bool = False
    template: str = "chat"
    packed: bool = False
    epochs: int = 3
    max_steps: int = 0
    learning_rate: float = 0.0
    warmup: float = 0.03
    weight_decay: float = 0.0
    clip: float = 1.0
    batch_size: int = 4
    accumulate: int = 8
    max_length: int = 512
    eval_share: float = 0.05
    eval_every: int = 0
    seed: int = 42

    def checked(self) -> Settings:
        """The same with the default learning rate filled in.

        Raises:
            PoiseError: a value that makes no sense; names it.
        """
        least = {"rank": 1, "epochs": 1, "batch_size": 1, "accumulate": 1, "max_length": 8, "max_steps": 0}
        for name, low in {**least, "eval_every": 0, "learning_rate": 0, "weight_decay": 0, "clip": 1e-9}.items():
            value = getattr(self, name)
            if not low <= value < math.inf:
                raise PoiseError(f"{name} is {value}", where="sft", do=f"give at least {low:g}")
        for name in ("warmup", "eval_share"):
            if not 0 <= (value := getattr(self, name)) < 1:
                raise PoiseError(f"{name} is {value}", where="sft", do="give a share from 0 up to but not including 1")
        if self.adapter and not self.lora:
            raise PoiseError("an adapter is asked for, but all weights are trained", where="sft", do="add --lora")
        return self._replace(learning_rate=self.learning_rate or (LORA_RATE if self.lora else FULL_RATE))


class Evaluation(NamedTuple):
    """Loss of held-out answers. Args: loss: nats per learnt token; perplexity: its exponential; targets: tokens."""

    step: int
    loss: float
    perplexity: float
    targets: int


class Schedule(Protocol):
    """Settings that have a rate."""

    @property
    def learning_rate(self) -> float:
        """At the top."""
        ...

    @property
    def warmup(self) -> float:
        """Share of the steps in which it rises."""
        ...


def learning_rate(step: int, total: int, settings: Schedule) -> float:
    """The rate of step 0..total-1: a linear rise over `ceil(warmup * total)` steps, then half a cosine towards 0."""
    warm = math.ceil(settings.warmup * total)
    if step < warm:
        return settings.learning_rate * (step + 1) / warm
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, total - warm)))


@torch.no_grad()
def evaluate(
    loss: TokenLoss,
    examples: Sequence[Example],
    step: int,
    rows: int,
    pad: int,
    on_rows: Callable[[int], object] = ignore,
) -> Evaluation:
    """Loss and perplexity per learnt token; `rows` examples at a time, sorted by length, so nothing is random."""
    order = sorted(range(len(examples)), key=lambda at: len(examples[at].ids))
    was_training, total, targets = loss.model.training, 0.0, 0
    loss.model.eval()
    for start in range(0, len(order), rows):
        chosen = [[at] for at in order[start : start + rows]]
        value, count = loss(collate(examples, chosen, pad))
        total, targets = total + float(value), targets + count
        on_rows(len(chosen))
    loss.model.train(was_training)
    mean = total / targets
    return Evaluation(step, mean, math.exp(min(mean, 700.0)), targets)


class Training:
    """One run over a plan of steps.

    Args:
        loss: of the model that is trained; what requires a gradient is trained.
        examples: to learn from.
        held_out: to evaluate on; may be empty.
        settings: checked ones.
        pad: id of padding.
        checkpoint: file of the state; an existing one is continued.
        save_every: steps between checkpoints.
        on_step: called with steps done (the first call tells those of the checkpoint), all steps, and the loss.
        on_rows: called with the number of examples after each batch of an evaluation.

    Attributes:
        steps: one entry a step: step, loss (nats per learnt token), rate, norm (of the gradient before clipping),
            tokens (without padding), targets.
        evaluations: in the order they were made.
        seconds: of the steps alone, over all sittings.
    """

    def __init__(
        self,
        loss: TokenLoss,
        examples: Sequence[Example],
        held_out: Sequence[Example],
        settings: Settings,
        pad: int,
        *,
        checkpoint: Path,
        save_every: int,
        on_step: Callable[[int, int, float], object] = lambda done, total, loss: None,
        on_rows: Callable[[int], object] = ignore,
    ) -> None:
        self.loss, self.examples, self.held_out, self.settings, self.pad = loss, examples, held_out, settings, pad
        self._checkpoint, self._save_every, self._on_step, self._on_rows = checkpoint, save_every, on_step, on_rows
        self.parameters = {name: p for name, p in loss.model.named_parameters() if p.requires_grad}
        self.optimizer = torch.optim.AdamW(
            self.parameters.values(),
            lr=settings.learning_rate,
            betas=(0.9, 0.95),
            weight_decay=settings.weight_decay,
            fused=True,
        )
        self.plan, self.epoch_ends = plan(
            [len(example.ids) for example in examples],
            **{name: getattr(settings, name) for name in _PLANNED},
        )
        self.steps: list[dict[str, float]] = []
        self.evaluations: list[Evaluation] = []
        self.seconds = 0.0

    def run(self) -> None:
        """Train to the end of the plan, from the checkpoint where there is one.

        Raises:
            PoiseError: a loss or gradient is not finite (exit code 4; what was trained before that step is in the
                checkpoint), or the checkpoint is damaged.
        """
        total = len(self.plan)
        self._resume()
        self._on_step(len(self.steps), total, self.steps[-1]["loss"] if self.steps else math.nan)
        if not self.steps and not self.evaluations:
            self._evaluate()
        self.loss.model.train()
        for step in range(len(self.steps), total):
            started = time.perf_counter()
            self.steps.append(self._descend(step, self.plan[step], learning_rate(step, total, self.settings)))
            self.seconds += time.perf_counter() - started
            done = step + 1
            every = self.settings.eval_every
            if done < total and (done in self.epoch_ends or (every and done % every == 0)):
                self._evaluate()
            if done % self._save_every == 0 or done == total:
                self._save()
            give_back(done)
            self._on_step(done, total, self.steps[-1]["loss"])

    def _descend(self, step: int, batches: Step, rate: float) -> dict[str, float]:
        """One optimizer step: the gradient of the summed loss over all micro-batches, divided by all learnt tokens."""
        made = [collate(self.examples, rows, self.pad) for rows in batches]
        targets, total = sum(batch.targets for batch in made), 0.0
        self.optimizer.zero_grad()
        for batch, rows in zip(made, batches, strict=True):
            value, _ = self.loss(batch)
            if not math.isfinite(float(value.detach())):
                self._stop(step, "the loss", rows)
            (value / targets).backward()  # type: ignore[no-untyped-call]
            total += float(value.detach())
        norm = float(torch.nn.utils.clip_grad_norm_(self.parameters.values(), self.settings.clip))
        if not math.isfinite(norm):
            self._stop(step, "the gradient", [row for rows in batches for row in rows])
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        tokens = sum(len(self.examples[at].ids) for rows in batches for row in rows for at in row)
        entry = {"loss": total / targets, "rate": rate, "norm": norm, "tokens": tokens, "targets": targets}
        return {"step": step + 1, **entry}

    def _stop(self, step: int, what: str, rows: Sequence[Sequence[int]]) -> NoReturn:
        """Keep what was trained before this step, and name its rows.

        Raises:
            PoiseError: always.
        """
        self._save()
        places = [self.examples[at].where for row in rows for at in row]
        more = f" and {len(places) - _NAMED} more" if len(places) > _NAMED else ""
        raise PoiseError(
            f"{what} of step {step + 1} is not a number, in the batch of {', '.join(places[:_NAMED])}{more}",
            where="sft",
            do=f"the weights after step {step} are kept; start again with a lower --learning-rate, or mend these rows, "
            "and another --out",
            exit_code=4,
        )

    def _evaluate(self) -> None:
        if self.held_out:
            rows, step = self.settings.batch_size, len(self.steps)
            self.evaluations.append(evaluate(self.loss, self.held_out, step, rows, self.pad, self._on_rows))

    def _save(self) -> None:
        state: dict[str, Any] = {
            "parameters": self.parameters,
            "optimizer": optimizer_state(self.optimizer),
            "chance": torch.get_rng_state(),
            "steps": self.steps,
            "evaluations": [entry._asdict() for entry in self.evaluations],
            "seconds": self.seconds,
        }
        if self.loss.device.type == "cuda":
            state["chance_cuda"] = torch.cuda.get_rng_state(self.loss.device)
        save_state(self._checkpoint, state)

    @torch.no_grad()
    def _resume(self) -> None:
        if not self._checkpoint.exists():
            return
        state = load_state(self._checkpoint)
        if state is None or state["parameters"].keys() != self.parameters.keys():
            raise PoiseError(
                "the checkpoint is damaged", where=str(self._checkpoint), do="delete it; training starts again"
            )
        for name, parameter in self.parameters.items():
            parameter.copy_(state["parameters"][name])
        load_optimizer(self.optimizer, state["optimizer"])
        torch.set_rng_state(state["chance"])
        if "chance_cuda" in state and self.loss.device.type == "cuda":
            torch.cuda.set_rng_state(state["chance_cuda"], self.loss.device)
        self.steps, self.seconds = state["steps"], state["seconds"]
        self.evaluations = [Evaluation(**entry) for entry in state["evaluations"]]


_PLANNED = ("epochs", "max_steps", "packed", "batch_size", "accumulate", "max_length", "seed")
