"""A tiny trunk with all five roles of constrained RL."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from poise.models.trunk import Trunk

sys.path.insert(0, str(Path(__file__).parent))  # online_case and launching, for tests below here

ROLES = ("actor", "reward", "cost", "reward_critic", "cost_critic")


@pytest.fixture
def make_roles(make_trunk: Callable[..., Trunk]) -> Callable[[], Trunk]:
    """A fresh trunk; reward and cost are random but the same in every one, the critics are copies of them."""

    def make() -> Trunk:
        trunk = make_trunk(*ROLES, heads=ROLES[1:], shared_layers=2, rank=4)
        generator = torch.Generator().manual_seed(5)
        with torch.no_grad():
            for role in ("reward", "cost"):
                for tensor in trunk.state_of(role).values():
                    tensor.add_(torch.randn(tensor.shape, generator=generator) * 0.1)
                trunk.load_role(f"{role}_critic", trunk.state_of(role), saved_as=role)
        return trunk

    return make
