"""Trains the reward and the cost adapter together: the shared layers run once for both.

Each step takes all pairs of a few prompts. A response that stands in several pairs is scored once. The two adapters
have their own losses, gradients and optimizers; they share nothing but the frozen trunk.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from poise.models.checkpoint import load_optimizer, load_state, optimizer_state, save_state
from poise.models.encoder import ignore
from poise.models.trunk import Tokens, Trunk, collate
from poise.preference.losses import PreferenceLoss, cost_loss, reward_loss
from poise.preference.pairs import Example, Pair, PreferenceData, shuffled_batches

ROLES = ("reward", "cost")
_CHUNK = 24  # rows of near-equal length scored together, so that little of a step is padding


class PreferenceTraining(NamedTuple):
    """Hyper-parameters of both adapters; the learning rate falls linearly to a tenth after a short warm-up."""

    epochs: int
    prompts_per_step: int
    learning_rate: float
    regularization: float
    seed: int


def reward_step_loss(
    scores: Tensor, pairs: Sequence[Pair], index: dict[int, int], settings: PreferenceTraining
) -> PreferenceLoss | None:
    """Reward loss of the pairs with a `better`; None without any. Args: scores float[N] of the step's examples."""
    judged = [(p.rows[p.better], p.rows[1 - p.better]) for p in pairs if p.better is not None]
    if not judged:
        return None
    better, worse = (scores[[index[row] for row in rows]] for rows in zip(*judged, strict=True))
    return reward_loss(better, worse, settings.regularization)


def cost_step_loss(
    scores: Tensor, pairs: Sequence[Pair], index: dict[int, int], settings: PreferenceTraining, data: PreferenceData
) -> PreferenceLoss | None:
    """Cost loss of the pairs with a `safer`; None without any. Args: scores float[N] of the step's examples."""
    judged = [(p.rows[p.safer], p.rows[1 - p.safer]) for p in pairs if p.safer is not None]
    if not judged:
        return None
    safer, unsafer = (list(rows) for rows in zip(*judged, strict=True))
    signs = [
        scores.new_tensor([1.0 if data.examples[row].unsafe else -1.0 for row in rows]) for rows in (safer, unsafer)
    ]
    costs = [scores[[index[row] for row in rows]] for rows in (safer, unsafer)]
    return cost_loss(costs[0], costs[1], signs[0], signs[1], settings.regularization)


def train_preference(
    trunk: Trunk,
    data: PreferenceData,
    settings: PreferenceTraining,
    *,
    checkpoint: Path | None = None,
    checkpoint_every: int = 20,
    on_step: Callable[[int, dict[str, float]], object] = lambda step, losses: None,
) -> dict[str, list[float]]:
    """Train both adapters in place; returns the losses of each step by role (NaN for a step without such pairs)."""
    plan = shuffled_batches(data, settings.prompts_per_step, settings.epochs, settings.seed)
    optimizers = {
        role: torch.optim.AdamW(trunk.parameters_of(role), lr=settings.learning_rate, weight_decay=0.0)
        for role in ROLES
    }
    history = _resume(checkpoint, trunk, optimizers)
    for step in range(len(history["reward"]), len(plan)):
        pairs = [data.pairs[i] for i in plan[step]]
        rows = sorted({row for pair in pairs for row in pair.rows}, key=lambda r: _length(data.examples[r]))
        index = {row: i for i, row in enumerate(rows)}
        chunks = [_tokens(trunk, data, rows[at : at + _CHUNK]) for at in range(0, len(rows), _CHUNK)]
        lowers = [trunk.lower(tokens.ids) for tokens in chunks]
        losses = {}
        for role in ROLES:
            parts = zip(chunks, lowers, strict=True)
            scores = torch.cat([trunk.score(lower, tokens.length, role) for tokens, lower in parts])
            result = (
                reward_step_loss(scores, pairs, index, settings)
                if role == "reward"
                else cost_step_loss(scores, pairs, index, settings, data)
            )
            losses[role] = _descend(result, optimizers[role], _rate(step, len(plan)) * settings.learning_rate)
            history[role].append(losses[role])
        on_step(step, losses)
        if checkpoint is not None and (step + 1) % checkpoint_every == 0:
            state = {role: trunk.state_of(role) for role in ROLES}
            moments = {role: optimizer_state(optimizers[role]) for role in ROLES}
            save_state(checkpoint, {"roles": state, "optimizers": moments, "history": history})
    return history


@torch.inference_mode()
def score_examples(
    trunk: Trunk, data: PreferenceData, *, batch_size: int = 64, on_rows: Callable[[int], object] = ignore
) -> dict[str, Tensor]:
    """Reward and cost float32[N] of every example."""
    order = sorted(range(len(data.examples)), key=lambda i: _length(data.examples[i]))
    out = {role: torch.empty(len(order)) for role in ROLES}
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        tokens = _tokens(trunk, data, rows)
        lower = trunk.lower(tokens.ids)
        for role in ROLES:
            out[role][rows] = trunk.score(lower, tokens.length, role).cpu()
        on_rows(len(rows))
    return out


def _length(example: Example) -> int:
    return len(example.prompt) + len(example.response)


def _tokens(trunk: Trunk, data: PreferenceData, rows: Sequence[int]) -> Tokens:
    return collate([data.examples[r].prompt for r in rows], [data.examples[r].response for r in rows], trunk.device)


def _rate(step: int, steps: int) -> float:
    warm = max(1, steps // 20)
    return min((step + 1) / warm, 1.0 - 0.9 * step / steps)


def _descend(result: PreferenceLoss | None, optimizer: torch.optim.Optimizer, rate: float) -> float:
    if result is None:
        return float("nan")
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.zero_grad()
    result.loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], 1.0)
    optimizer.step()
    return float(result.loss.detach())


def _resume(checkpoint: Path | None, trunk: Trunk, optimizers: dict[str, torch.optim.AdamW]) -> dict[str, list[float]]:
    state: dict[str, Any] | None = load_state(checkpoint) if checkpoint is not None else None
    if state is None:
        return {role: [] for role in ROLES}
    for role in ROLES:
        trunk.load_role(role, state["roles"][role])
        load_optimizer(optimizers[role], state["optimizers"][role])
    history: dict[str, list[float]] = state["history"]
    return history
