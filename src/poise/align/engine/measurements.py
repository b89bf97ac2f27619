"""What people follow while a run goes on: one row of means a step."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from poise.align.engine.processes import total, world
from poise.align.engine.rollout import Rollout


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


def of_all_processes(row: dict[str, float], rows: int) -> dict[str, float]:
    """Means over the rows of this process -> over those of all; as it is where there is one. Args: rows, how many."""
    if world().size == 1:
        return row
    *sums, count = total([*(value * rows for value in row.values()), float(rows)])
    return {name: value / count for name, value in zip(row, sums, strict=True)}
