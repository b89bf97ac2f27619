"""Trains the reward and the cost model together: the shared layers run once for both.

Each step takes all that a few prompts have. A response that stands in several pairs is scored once. Two adapters have
their own losses, gradients and optimizers; one adapter with two heads learns both losses in one backward pass.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from poise.errors import PoiseError
from poise.models.checkpoint import load_optimizer, load_state, optimizer_state, save_state
from poise.models.encoder import ignore
from poise.models.memory import give_back
from poise.models.trunk import Trunk
from poise.preference.losses import Labelled, PreferenceLoss, cost_loss, joined, reward_loss, sign_loss
from poise.preference.pairs import Pair, PreferenceData, Step, planned_steps
from poise.preference.scorer import ROLES, Scorer, size_of, tokens_of

_SHOWN = 6  # rows that a message about a batch names


class PreferenceTraining(NamedTuple):
    """Hyper-parameters of both models; the learning rate falls linearly to a tenth after a short warm-up.

    Args:
        epochs, prompts_per_step, learning_rate, seed: of the loop.
        regularization: weight of the squared scores in both losses.
        max_tokens: of a packed batch; 0 pads a response to a row. It changes the speed, and results by rounding only.
        margin, centering: of the reward loss.
        classification_only: leave the ranking term of the cost loss out.
        severity_margin: lead that the more harmful response needs for each level between the two, where both are known.
        severity_weight: an unsafe response counts 1 + this times its severity.
    """

    epochs: int
    prompts_per_step: int
    learning_rate: float
    regularization: float
    seed: int
    max_tokens: int = 0
    margin: float = 0.0
    centering: float = 0.0
    classification_only: bool = False
    severity_margin: float = 0.0
    severity_weight: float = 0.0


def reward_step_loss(
    scores: Tensor, pairs: Sequence[Pair], index: dict[int, int], settings: PreferenceTraining
) -> PreferenceLoss | None:
    """Reward loss of the pairs with a `better`; None without any. Args: scores float[N] of the step's examples."""
    judged = [(p.rows[p.better], p.rows[1 - p.better]) for p in pairs if p.better is not None]
    if not judged:
        return None
    better, worse = (scores[[index[row] for row in rows]] for rows in zip(*judged, strict=True))
    return reward_loss(better, worse, settings.regularization, margin=settings.margin, centering=settings.centering)


def cost_step_loss(
    scores: Tensor,
    pairs: Sequence[Pair],
    index: dict[int, int],
    settings: PreferenceTraining,
    data: PreferenceData,
    alone: Sequence[int] = (),
) -> PreferenceLoss | None:
    """Cost loss of the pairs with a `safer` and of the labels in `alone`; None without any.

    Args:
        scores: float[N] of the step's examples.
        index: example -> its place in `scores`.
        alone: examples with a label that stand in no such pair.
    """
    judged = [(p.rows[p.safer], p.rows[1 - p.safer]) for p in pairs if p.safer is not None]
    single = None
    if alone:
        labelled = Labelled(
            scores[[index[row] for row in alone]], _signs(scores, data, alone), _weights(scores, data, alone, settings)
        )
        single = sign_loss(labelled, settings.regularization)
    if not judged:
        return single
    safer, unsafer = (list(rows) for rows in zip(*judged, strict=True))
    low, high = (scores[[index[row] for row in rows]] for rows in (safer, unsafer))
    paired = cost_loss(
        low,
        high,
        _signs(scores, data, safer),
        _signs(scores, data, unsafer),
        settings.regularization,
        not settings.classification_only,
        margin=_gaps(scores, data, judged, settings),
        weight_safer=_weights(scores, data, safer, settings),
        weight_unsafer=_weights(scores, data, unsafer, settings),
    )
    return paired if single is None else joined(paired, len(judged), single, len(alone))


def _signs(like: Tensor, data: PreferenceData, rows: Sequence[int]) -> Tensor:
    """g float[N]: +1 unsafe, -1 safe, 0 unknown."""
    said = {True: 1.0, False: -1.0, None: 0.0}
    return like.new_tensor([said[data.examples[row].unsafe] for row in rows])


def _weights(like: Tensor, data: PreferenceData, rows: Sequence[int], settings: PreferenceTraining) -> Tensor | None:
    if not settings.severity_weight:
        return None
    return like.new_tensor([1 + settings.severity_weight * (data.examples[row].severity or 0) for row in rows])


def _gaps(
    like: Tensor, data: PreferenceData, judged: Sequence[tuple[int, int]], settings: PreferenceTraining
) -> Tensor | float:
    if not settings.severity_margin:
        return 0.0
    levels = [[data.examples[row].severity for row in pair] for pair in judged]
    gaps = [0 if low is None or high is None else max(0, high - low) for low, high in levels]
    return like.new_tensor(gaps) * settings.severity_margin


def train_preference(
    trunk: Trunk,
    data: PreferenceData,
    settings: PreferenceTraining,
    *,
    checkpoint: Path | None = None,
    checkpoint_every: int = 20,
    on_step: Callable[[int, dict[str, float]], object] = lambda step, losses: None,
) -> dict[str, list[float]]:
    """Train the models of a trunk (see `Scorer`) in place.

    Returns:
        By step: the loss of each role (NaN for a step that teaches it nothing), tokens computed, padding among them.

    Raises:
        PoiseError: a loss, a gradient or a weight is not finite (exit code 4); nothing of it is written, the last
            checkpoint stays, and the message names the rows.
    """
    plan = planned_steps(data, settings.prompts_per_step, settings.epochs, settings.seed)
    scorer = Scorer(trunk, settings.max_tokens)
    optimizers = {
        adapter: torch.optim.AdamW(scorer.parameters(adapter), lr=settings.learning_rate, weight_decay=0.0, fused=True)
        for adapter in scorer.adapters
    }
    history = _resume(checkpoint, scorer, optimizers)
    for step in range(len(history["reward"]), len(plan)):
        rate = _rate(step, len(plan)) * settings.learning_rate
        losses = _step(scorer, data, plan[step], settings, optimizers, rate, f"step {step + 1} of {len(plan)}")
        for name, value in losses.items():
            history[name].append(value)
        give_back(step + 1)
        on_step(step, {role: losses[role] for role in ROLES})
        if checkpoint is not None and (step + 1) % checkpoint_every == 0:
            moments = {adapter: optimizer_state(optimizer) for adapter, optimizer in optimizers.items()}
            save_state(checkpoint, {"roles": scorer.states(), "optimizers": moments, "history": history})
    return history


def _step(
    scorer: Scorer,
    data: PreferenceData,
    step: Step,
    settings: PreferenceTraining,
    optimizers: dict[str, torch.optim.AdamW],
    rate: float,
    name: str,
) -> dict[str, float]:
    """Score what the step learns from, adapter by adapter, so that only one graph is alive at a time."""
    pairs = [data.pairs[i] for i in step.pairs]
    rows = sorted(
        {row for pair in pairs for row in pair.rows} | set(step.alone), key=lambda r: tokens_of(data.examples[r])
    )
    index = {row: i for i, row in enumerate(rows)}
    batches = scorer.batches([data.examples[row] for row in rows])
    slots, padding = size_of(batches)
    out = {"tokens": float(slots), "padding": float(padding)}
    learns = {
        "reward": any(pair.better is not None for pair in pairs),
        "cost": bool(step.alone) or any(pair.safer is not None for pair in pairs),
    }
    for adapter in scorer.adapters:
        if not any(learns[role] for role in scorer.heads(adapter)):
            out |= dict.fromkeys(scorer.heads(adapter), math.nan)
            continue
        scores = scorer.scores(batches, adapter)
        found = {
            role: reward_step_loss(scores[role], pairs, index, settings)
            if role == "reward"
            else cost_step_loss(scores[role], pairs, index, settings, data, step.alone)
            for role in scorer.heads(adapter)
        }
        try:
            out |= _descend(found, optimizers[adapter], rate)
        except FloatingPointError as error:
            names = [data.examples[row].name or f"example {row}" for row in sorted(rows)]
            more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            raise PoiseError(
                f"{error}: rows {', '.join(names[:_SHOWN])}{more}",
                where=f"preference {name}",
                do="lower the learning rate; what was trained before this step is in the last checkpoint",
                exit_code=4,
            ) from error
    return out


@torch.inference_mode()
def score_examples(
    trunk: Trunk,
    data: PreferenceData,
    *,
    batch_size: int = 64,
    max_tokens: int = 0,
    on_rows: Callable[[int], object] = ignore,
) -> dict[str, Tensor]:
    """Reward and cost float32[N] of every example.

    Args:
        batch_size: examples of near-equal length that are looked at together.
        max_tokens: as of `PreferenceTraining`.
    """
    scorer = Scorer(trunk, max_tokens, batch_size)
    order = sorted(range(len(data.examples)), key=lambda i: tokens_of(data.examples[i]))
    if max_tokens:  # what shares a prompt comes together
        order = sorted(order, key=lambda i: data.examples[i].prompt)
    out = {role: torch.empty(len(order)) for role in ROLES}
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        batches = scorer.batches([data.examples[row] for row in rows])
        for adapter in scorer.adapters:
            for role, scores in scorer.scores(batches, adapter).items():
                out[role][rows] = scores.cpu()
        on_rows(len(rows))
    return out


def _rate(step: int, steps: int) -> float:
    warm = max(1, steps // 20)
    return min((step + 1) / warm, 1.0 - 0.9 * step / steps)


def _descend(found: dict[str, PreferenceLoss | None], optimizer: torch.optim.AdamW, rate: float) -> dict[str, float]:
    """One step on the sum of the losses; nothing moves where there is none.

    Raises:
        FloatingPointError: a loss, the gradient or a weight after the step is not finite.
    """
    losses = {role: math.nan if result is None else float(result.loss.detach()) for role, result in found.items()}
    present = [result.loss for result in found.values() if result is not None]
    if not present:
        return losses
    for role, result in found.items():
        if result is not None and not math.isfinite(losses[role]):
            raise FloatingPointError(f"the loss of {role} is {losses[role]}")
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.zero_grad()
    total = present[0] if len(present) == 1 else torch.stack(present).sum()
    total.backward()  # type: ignore[no-untyped-call]
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    norm = torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    if not math.isfinite(float(norm)):
        raise FloatingPointError(f"the gradient of {' and '.join(found)} is {float(norm)}")
    optimizer.step()
    if not math.isfinite(float(torch.nn.utils.get_total_norm(parameters))):
        raise FloatingPointError(f"the weights of {' and '.join(found)} are not finite after the step")
    return losses


def _resume(
    checkpoint: Path | None, scorer: Scorer, optimizers: dict[str, torch.optim.AdamW]
) -> dict[str, list[float]]:
    state: dict[str, Any] | None = load_state(checkpoint) if checkpoint is not None else None
    if state is None:
        return {name: [] for name in (*ROLES, "tokens", "padding")}
    scorer.load(state["roles"])
    for adapter, optimizer in optimizers.items():
        load_optimizer(optimizer, state["optimizers"][adapter])
    history: dict[str, list[float]] = state["history"]
    return history
