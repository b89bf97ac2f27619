"""Trains a `Moderator` on labelled QA rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from poise.data import Judgement, QARow, uniform_seed
from poise.guard.moderator import Moderator
from poise.guard.targets import targets
from poise.models.checkpoint import load_optimizer, load_state, optimizer_state, save_state
from poise.models.heads import ModerationTargets, moderation_loss


class GuardTraining(NamedTuple):
    """Hyper-parameters; both learning rates rise for a tenth of the steps and fall linearly to zero."""

    epochs: int
    batch_size: int
    learning_rate: float
    head_learning_rate: float
    weight_decay: float
    category_weight: float
    seed: int


def train_guard(
    guard: Moderator,
    rows: Sequence[QARow],
    judgements: Mapping[str, Judgement],
    settings: GuardTraining,
    *,
    checkpoint: Path | None = None,
    checkpoint_every: int = 50,
    on_step: Callable[[int, float], object] = lambda step, loss: None,
) -> list[float]:
    """Fine-tune all weights on the rows; returns the loss of each step.

    Args:
        judgements: the label or safe flag chosen for each row id; rows without one are left out.
        checkpoint: file to resume from and to write to every `checkpoint_every` steps.
        on_step: called with (step, loss), for progress.
    """
    known = [row for row in rows if (j := judgements.get(row.id)) is not None and j.value is not None]
    target = targets([row.id for row in known], judgements)
    plan = batches([len(r.prompt) + len(r.response) for r in known], settings)
    groups = [
        {"params": list(guard.encoder.parameters()), "lr": settings.learning_rate},
        {"params": list(guard.heads.parameters()), "lr": settings.head_learning_rate},
    ]
    optimizer = torch.optim.AdamW(groups, weight_decay=settings.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: warm_linear(step, len(plan)))
    losses = _resume(checkpoint, guard, optimizer, schedule)
    guard.train()
    for step in range(len(losses), len(plan)):
        torch.manual_seed(uniform_seed(settings.seed, "guard", str(step)))  # dropout
        chosen = plan[step]
        logits = guard([known[i].prompt for i in chosen], [known[i].response for i in chosen])
        part = ModerationTargets(*(t[chosen].to(guard.encoder.device) for t in target))
        loss = moderation_loss(logits, part, settings.category_weight)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(guard.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(float(loss.detach()))
        on_step(step, losses[-1])
        if checkpoint is not None and (step + 1) % checkpoint_every == 0:
            state = {"guard": guard.state_dict(), "optimizer": optimizer_state(optimizer), "losses": losses}
            save_state(checkpoint, {**state, "schedule": schedule.last_epoch})
    guard.eval()
    return losses


def warm_linear(step: int, steps: int) -> float:
    """Share of the peak learning rate: up over the first tenth, then down to zero."""
    warm = max(1, steps // 10)
    return min((step + 1) / warm, max(0.0, (steps - step) / max(1, steps - warm)))


def batches(lengths: Sequence[int], settings: GuardTraining) -> list[list[int]]:
    """Row indices of every step: shuffled each epoch, near-equal lengths together within blocks of 16 batches."""
    plan = []
    for epoch in range(settings.epochs):
        generator = torch.Generator().manual_seed(uniform_seed(settings.seed, "order", str(epoch)))
        order = torch.randperm(len(lengths), generator=generator).tolist()
        block = settings.batch_size * 16
        chunks = []
        for start in range(0, len(order), block):
            part = sorted(order[start : start + block], key=lambda i: lengths[i])
            chunks += [part[i : i + settings.batch_size] for i in range(0, len(part), settings.batch_size)]
        plan += [chunks[i] for i in torch.randperm(len(chunks), generator=generator).tolist()]
    return plan


def _resume(
    checkpoint: Path | None,
    guard: Moderator,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LambdaLR,
) -> list[float]:
    state = load_state(checkpoint) if checkpoint is not None else None
    if state is None:
        return []
    guard.load_state_dict(state["guard"])
    load_optimizer(optimizer, state["optimizer"])
    schedule.last_epoch = state["schedule"]
    losses: list[float] = state["losses"]
    return losses
