"""PPO, shaped rewards and RePO: what actor and critics learn from, by hand, beside PPO-Lagrangian."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from poise.align.algorithms.ppo import PPO, RewardExperience
from poise.align.algorithms.ppo_lagrangian import Experience, PPOLagrangian
from poise.align.algorithms.repo import RePO, prompt_costs
from poise.align.algorithms.reward_shaping import RewardShaping

quick = settings(deadline=None, max_examples=25)
F64 = torch.float64
seeds = st.integers(0, 2**31)


def row(*values: float) -> Tensor:
    """float64[1, T]."""
    return torch.tensor([values], dtype=F64)


# one prompt position (garbage 9), then two response tokens; R = 2, log pi - log ref = (1, -1)
MEASURED = RewardExperience(
    torch.tensor([2.0], dtype=F64), row(9, -1, -3), row(0, -2, -2), row(9, 0.5, 1), torch.tensor([[False, True, True]])
)


def test_ppo_by_hand() -> None:
    # kl = 0.5: r = (-0.5, 0.5 + 2), gamma = lam = 1: delta_2 = 2.5 - 1, delta_1 = -0.5 + 1 - 0.5 = 0
    targets = PPO(kl=0.5, lam=1.0).targets(MEASURED)
    torch.testing.assert_close(targets.advantage, row(0, 1.5, 1.5))
    torch.testing.assert_close(targets.returns, row(0, 2, 2.5))


def test_a_shaped_reward_by_hand() -> None:
    # R' = 2 - 0.5 * 4 = 0: r = (-0.5, 0.5): delta_2 = -0.5, delta_1 = 0
    targets = RewardShaping(PPO(kl=0.5, lam=1.0)).targets(MEASURED, torch.tensor([4.0], dtype=F64), 0.5)
    torch.testing.assert_close(targets.advantage, row(0, -0.5, -0.5))
    torch.testing.assert_close(targets.returns, row(0, 0, 0.5))


def experience(seed: int) -> Experience:
    """Six responses of up to four tokens, costs that are positive for the first three."""
    generator = torch.Generator().manual_seed(seed)
    grids = [torch.randn(6, 4, generator=generator, dtype=F64) for _ in range(4)]
    reward, cost = (torch.randn(6, generator=generator, dtype=F64) for _ in range(2))
    cost = torch.cat([cost[:3].abs(), -cost[3:].abs()])
    length = torch.randint(1, 5, (6, 1), generator=generator)
    return Experience(reward, cost, *grids, torch.arange(4)[None] < length)


@quick
@given(seeds)
def test_ppo_is_ppo_lagrangian_without_a_multiplier(seed: int) -> None:
    e = experience(seed)
    alone = PPO().targets(RewardExperience(e.reward, e.log_prob, e.reference_log_prob, e.value_reward, e.mask))
    both = PPOLagrangian().targets(e, 0.0)
    torch.testing.assert_close(alone.advantage, both.advantage)
    torch.testing.assert_close(alone.returns, both.returns_reward)


@quick
@given(seeds, st.floats(0.01, 20))
def test_repo_leaves_prompts_within_the_limit_to_the_reward(seed: int, multiplier: float) -> None:
    e, groups = experience(seed), torch.tensor([0, 0, 0, 1, 1, 1])
    targets = RePO().targets(e, multiplier, groups)
    constrained, free = (PPOLagrangian().targets(e, at) for at in (multiplier, 0.0))
    torch.testing.assert_close(targets.advantage[:3], constrained.advantage[:3])  # prompt 0 violates
    torch.testing.assert_close(targets.advantage[3:], free.advantage[3:])
    torch.testing.assert_close(targets.returns_cost, constrained.returns_cost)


def test_the_mean_of_a_prompt_decides_and_its_threshold() -> None:
    cost, groups = torch.tensor([3.0, -1.0, 0.25, 0.25]), torch.tensor([4, 2, 4, 2])
    assert prompt_costs(cost, groups) == [-0.375, 1.625]  # of prompts 2 and 4
    e = experience(0)._replace(cost=torch.tensor([1.0, -0.5, 0.2, 0.2, -1.0, 0.3], dtype=F64))
    groups = torch.tensor([0, 0, 1, 1, 2, 2])  # means 0.25, 0.2, -0.35
    free = PPOLagrangian().targets(e, 0.0).advantage
    changed = (RePO(threshold=0.22).targets(e, 2.0, groups).advantage != free).any(-1)
    assert changed.tolist() == [True, True, False, False, False, False]


@quick
@given(seeds, st.floats(0, 50))
def test_the_weight_of_kl_does_not_depend_on_lambda(seed: int, multiplier: float) -> None:
    """With scores and values of zero, what is left of the advantage is the KL term: the same for every lambda."""
    e = experience(seed)
    zero = torch.zeros(6, dtype=F64)
    bare = e._replace(
        reward=zero, cost=zero, value_reward=torch.zeros(6, 4, dtype=F64), value_cost=torch.zeros(6, 4, dtype=F64)
    )
    advantage = PPOLagrangian(kl=0.3).targets(bare, multiplier).advantage
    torch.testing.assert_close(advantage, PPOLagrangian(kl=0.3).targets(bare, 0.0).advantage)
    assert float(advantage.abs().max()) > 0


@pytest.mark.parametrize("cut", [1, 2, 5])
@quick
@given(seed=seeds)
def test_targets_do_not_depend_on_micro_batches(cut: int, seed: int) -> None:
    e = experience(seed)
    whole = PPOLagrangian().targets(e, 1.5)
    parts = [PPOLagrangian().targets(Experience(*(x[at : at + cut] for x in e)), 1.5) for at in range(0, 6, cut)]
    for ours, pieces in zip(whole, zip(*parts, strict=True), strict=True):
        torch.testing.assert_close(ours, torch.cat(pieces))
