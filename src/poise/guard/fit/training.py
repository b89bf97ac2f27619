"""The training loop of the guard; a killed run goes on from its last checkpoint."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from poise.data import uniform_seed
from poise.errors import PoiseError
from poise.guard.fit.enrich import disguised
from poise.guard.fit.loss import GuardTargets, guard_loss, pair_loss
from poise.guard.fit.model import GuardLogits, GuardModel
from poise.guard.fit.plan import TrainingPlan
from poise.guard.fit.rows import Row
from poise.guard.windows import Window
from poise.models.checkpoint import load_optimizer, load_state, optimizer_state, save_state
from poise.models.memory import give_back

CHECKPOINT_EVERY = 100


def fit(
    guard: GuardModel,
    rows: Sequence[Row],
    plan: TrainingPlan,
    seed: int,
    *,
    checkpoint: Path | None = None,
    on_step: Callable[[int, int, float], object] = lambda step, steps, loss: None,
) -> list[float]:
    """Train on the rows; returns the loss of each step.

    With `plan.averaged` the guard ends as the mean of its weights after each of the last steps (Izmailov et al. 2018).

    Args:
        checkpoint: file to go on from and to write to.
        on_step: hears (steps done, all steps, loss).

    Raises:
        PoiseError: no rows, or a loss that is not a number.
    """
    if not rows:
        raise PoiseError("no row to train on", do="name sets with labels")
    pieces = [guard.windows((row.prompt, row.response)) for row in rows]
    order = _order([len(p[0][0]) + len(p[0][1]) for p in pieces], plan, seed)
    optimizer = _optimizer(guard, plan)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: warm_linear(step, len(order)))
    moving = nn.ParameterList(p for p in guard.parameters() if p.requires_grad)
    average = AveragedModel(moving if plan.averaged else nn.ParameterList())
    losses: list[float] = []
    if checkpoint is not None and (state := load_state(checkpoint)) is not None:
        guard.load_state_dict(state["guard"])
        load_optimizer(optimizer, state["optimizer"])
        average.load_state_dict(state["average"])
        schedule.last_epoch, losses = state["schedule"], state["losses"]
    for step in range(len(losses), len(order)):
        guard.train()
        torch.manual_seed(uniform_seed(seed, "dropout", str(step)))
        loss = _loss(guard, rows, pieces, order[step], step, plan, seed)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(guard.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step >= len(order) * (1 - plan.averaged):
            average.update_parameters(moving)
        losses.append(float(loss.detach()))
        if not math.isfinite(losses[-1]):
            raise PoiseError(f"the loss of step {step + 1} is {losses[-1]}", do="lower the learning rates", exit_code=4)
        give_back(step + 1)
        on_step(step + 1, len(order), losses[-1])
        if checkpoint is not None and (step + 1) % CHECKPOINT_EVERY == 0:
            state = {"guard": guard.state_dict(), "optimizer": optimizer_state(optimizer), "losses": losses}
            save_state(checkpoint, {**state, "average": average.state_dict(), "schedule": schedule.last_epoch})
    if average.n_averaged:
        with torch.no_grad():
            for last, mean in zip(moving, average.module.parameters(), strict=True):
                last.copy_(mean)
    guard.eval()
    return losses


def _optimizer(guard: GuardModel, plan: TrainingPlan) -> torch.optim.AdamW:
    """AdamW with a rate each for trunk, heads and the cut points between severities, which don't decay."""
    cuts = [guard.heads.first_cut, guard.heads.gaps]
    heads = [p for p in (*guard.heads.parameters(), *guard.refusal.parameters()) if all(p is not c for c in cuts)]
    trunk = [p for p in guard.encoder.parameters() if p.requires_grad]
    return torch.optim.AdamW(
        [
            {"params": trunk, "lr": plan.learning_rate, "weight_decay": plan.weight_decay},
            {"params": heads, "lr": plan.head_learning_rate, "weight_decay": plan.weight_decay},
            {"params": cuts, "lr": plan.cut_learning_rate, "weight_decay": 0.0},
        ]
    )


def _loss(
    guard: GuardModel,
    rows: Sequence[Row],
    pieces: Sequence[list[Window]],
    chosen: Sequence[int],
    step: int,
    plan: TrainingPlan,
    seed: int,
) -> Tensor:
    """Of the chosen rows, and of the safer answers of those that have one; of a long text another window each epoch."""

    def window(row: Row, known: list[Window] | None) -> Window:
        shown = disguised(row, step, plan.disguised, seed)
        found = known if known is not None and shown is row else guard.windows((shown.prompt, shown.response))
        return found[uniform_seed(seed, "window", str(step), row.prompt, row.response or "") % len(found)]

    own = [rows[i] for i in chosen]
    windows = [window(row, pieces[i]) for row, i in zip(own, chosen, strict=True)]
    paired = [at for at, row in enumerate(own) if row.safer is not None]
    windows += [window(own[at]._replace(response=own[at].safer), None) for at in paired]
    logits = guard(windows)
    loss = guard_loss(
        GuardLogits(*(part[: len(own)] for part in logits)),
        targets_of(own, guard.device),
        category_weight=plan.category_weight,
        refusal_weight=plan.refusal_weight,
        focus=plan.focus,
        smoothing=plan.smoothing,
    )
    if paired and plan.pair_weight:
        unsafe = logits.at_least[:, 0]
        loss = loss + plan.pair_weight * len(paired) / len(own) * pair_loss(unsafe[paired], unsafe[len(own) :])
    return loss


def targets_of(rows: Sequence[Row], device: torch.device) -> GuardTargets:
    """What the rows know, as tensors."""
    return GuardTargets(
        torch.tensor([row.categories for row in rows], device=device),
        torch.tensor([row.at_least for row in rows], device=device),
        torch.tensor([row.refusal for row in rows], device=device),
        torch.tensor([row.weight for row in rows], device=device),
    )


def warm_linear(step: int, steps: int) -> float:
    """Share of the peak learning rate: up over the first tenth, then down to zero."""
    warm = max(1, steps // 10)
    return min((step + 1) / warm, max(0.0, (steps - step) / max(1, steps - warm)))


def _order(lengths: Sequence[int], plan: TrainingPlan, seed: int) -> list[list[int]]:
    """Row indices of each step: shuffled each epoch, near-equal lengths together within blocks of 16 batches."""
    steps = []
    for epoch in range(plan.epochs):
        generator = torch.Generator().manual_seed(uniform_seed(seed, "order", str(epoch)))
        order = torch.randperm(len(lengths), generator=generator).tolist()
        block = plan.batch_size * 16
        chunks = []
        for start in range(0, len(order), block):
            part = sorted(order[start : start + block], key=lambda i: lengths[i])
            chunks += [part[i : i + plan.batch_size] for i in range(0, len(part), plan.batch_size)]
        steps += [chunks[i] for i in torch.randperm(len(chunks), generator=generator).tolist()]
    return steps
