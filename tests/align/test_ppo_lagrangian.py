"""PPO-Lagrangian: what actor and critics learn from, worked by hand on two response tokens."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from poise.align.algorithms.ppo_lagrangian import Experience, PPOLagrangian

F64 = torch.float64


def row(*values: float) -> Tensor:
    """float64[1, T]."""
    return torch.tensor([values], dtype=F64)


# one prompt position (garbage 9), then two response tokens; R = 2, C = 4, log pi - log ref = (1, -1)
EXPERIENCE = Experience(
    reward=torch.tensor([2.0], dtype=F64),
    cost=torch.tensor([4.0], dtype=F64),
    log_prob=row(9, -1, -3),
    reference_log_prob=row(0, -2, -2),
    value_reward=row(9, 0.5, 1),
    value_cost=row(9, 1, 2),
    mask=torch.tensor([[False, True, True]]),
)


@pytest.mark.parametrize(("multiplier", "advantage"), [(0.0, (1.5, 1.5)), (1.0, (-0.75, 0.0)), (3.0, (-1.875, -0.75))])
def test_targets_by_hand(multiplier: float, advantage: tuple[float, float]) -> None:
    # kl = 0.5: r = (-0.5, 0.5 + 2), c = (0.5, -0.5 + 4); gamma = lam = 1
    # reward: delta_2 = 2.5 - 1 = 1.5, delta_1 = -0.5 + 1 - 0.5 = 0 -> A_r = (1.5, 1.5), returns (2, 2.5)
    # cost:   delta_2 = 3.5 - 2 = 1.5, delta_1 = 0.5 + 2 - 1 = 1.5 -> A_c = (3, 1.5), returns (4, 3.5)
    # A = (A_r - lambda A_c) / (1 + lambda)
    targets = PPOLagrangian(kl=0.5, gamma=1.0, lam=1.0).targets(EXPERIENCE, multiplier)
    torch.testing.assert_close(targets.advantage, row(0, *advantage))
    torch.testing.assert_close(targets.returns_reward, row(0, 2, 2.5))
    torch.testing.assert_close(targets.returns_cost, row(0, 4, 3.5))


def test_constants_reach_the_formulas() -> None:
    # score_clip = 1: r = (-0.5, 1), c = (0.5, 1); gamma = 0.5, lam = 0: A = delta
    # reward: delta_2 = 1 - 1 = 0, delta_1 = -0.5 + 0.5 * 1 - 0.5 = -0.5; cost: delta_2 = 1 - 2 = -1, delta_1 = 0.5
    targets = PPOLagrangian(kl=0.5, gamma=0.5, lam=0.0, score_clip=1.0).targets(EXPERIENCE, 1.0)
    torch.testing.assert_close(targets.advantage, row(0, (-0.5 - 0.5) / 2, (0 + 1) / 2))
    torch.testing.assert_close(targets.returns_reward, row(0, 0, 1))
    torch.testing.assert_close(targets.returns_cost, row(0, 1.5, 1))
