"""Advantages without a critic, KL estimators, and how components are put together: by hand, and by their properties."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from poise.align.algorithms.grpo_lagrangian import GRPOLagrangian
from poise.align.algorithms.rloo_lagrangian import RLOOLagrangian, divergence
from poise.align.core import (
    KL_ESTIMATORS,
    actor_loss,
    batch_scaled,
    combine,
    group_mean,
    group_normalized,
    kl_k1,
    kl_k2,
    kl_k3,
    leave_one_out,
    sequence_actor_loss,
    spread,
    token_mean,
)

quick = settings(deadline=None, max_examples=25)
F64 = torch.float64
seeds = st.integers(0, 2**31)


def numbers(*values: float) -> Tensor:
    """float64[N]."""
    return torch.tensor(values, dtype=F64)


def close(actual: Tensor, expected: Tensor, tolerance: float = 1e-9) -> None:
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def test_group_advantages_by_hand() -> None:
    # groups, interleaved: prompt 0 has (1, 3, 8), mean 4; prompt 1 has (5, 5), mean 5
    scores, groups = numbers(1, 5, 3, 5, 8), torch.tensor([0, 1, 0, 1, 0])
    close(group_mean(scores, groups), numbers(4, 5, 4, 5, 4))
    # deviations (-3, -1, 4), sample variance 26 / 2 = 13
    s = math.sqrt(13)
    out = group_normalized(scores, groups)
    close(out, numbers(-3 / (s + 1e-4), 0, -1 / (s + 1e-4), 0, 4 / (s + 1e-4)))
    # others' means: (3 + 8) / 2, (1 + 8) / 2, (1 + 3) / 2; and 5, 5
    close(leave_one_out(scores, groups), numbers(1 - 5.5, 0, 3 - 4.5, 0, 8 - 2))


def test_batch_scaled_and_spread_by_hand() -> None:
    # root mean square of (3, -4, 0, 0) is sqrt(25 / 4) = 2.5
    close(batch_scaled(numbers(3, -4, 0, 0), epsilon=0.5), numbers(1, -4 / 3, 0, 0))
    mask = torch.tensor([[False, True], [True, True]])
    assert spread(torch.tensor([2.0, -1.0]), mask).tolist() == [[0, 2], [-1, -1]]


def test_a_group_of_one_is_refused() -> None:
    for rule in (group_normalized, leave_one_out):
        with pytest.raises(ValueError, match="at least two responses"):
            rule(numbers(1, 2, 3), torch.tensor([0, 0, 4]))


def test_kl_estimators_by_hand() -> None:
    # u = ln 2 where pi = 1/2 and ref = 1/4: k1 = ln 2, k2 = ln^2 2 / 2, k3 = 1/2 - 1 + ln 2
    pi, ref = numbers(0.5).log(), numbers(0.25).log()
    close(kl_k1(pi, ref), numbers(math.log(2)))
    close(kl_k2(pi, ref), numbers(math.log(2) ** 2 / 2))
    close(kl_k3(pi, ref), numbers(math.log(2) - 0.5))
    assert set(KL_ESTIMATORS) == {"k1", "k2", "k3"}


@quick
@given(seeds)
def test_k1_and_k3_average_to_the_divergence(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    pi, ref = (torch.randn(6, generator=generator, dtype=F64).log_softmax(0) for _ in range(2))
    exact = (pi.exp() * (pi - ref)).sum()
    for rule in (kl_k1, kl_k3):
        close((pi.exp() * rule(pi, ref)).sum(), exact)
    assert bool((kl_k3(pi, ref) >= 0).all()) and bool((kl_k2(pi, ref) >= 0).all())


def test_token_mean_adds_up_over_micro_batches() -> None:
    values, mask = torch.arange(8.0).reshape(4, 2), torch.tensor([[1, 0], [1, 1], [0, 1], [1, 1]], dtype=torch.bool)
    parts = [token_mean(v, m, total=6) for v, m in zip(values.split(1), mask.split(1), strict=True)]
    # (0 + 2 + 3 + 5 + 6 + 7) / 6
    assert token_mean(values, mask).item() == pytest.approx(23 / 6)
    assert sum(part.item() for part in parts) == pytest.approx(23 / 6)


def test_combine_with_several_constraints_and_with_one_lambda_a_row() -> None:
    # (6 - 1 * 2 - 2 * 1) / (1 + 1 + 2)
    close(combine(numbers(6), [numbers(2), numbers(1)], [1.0, 2.0]), numbers(0.5))
    rows = torch.tensor([[0.0], [3.0]], dtype=F64)
    close(combine(numbers(2, 2)[:, None], numbers(1, 1)[:, None], rows), numbers(2, -0.25)[:, None])
    with pytest.raises(ValueError, match="2 cost advantages need as many multipliers, not 1"):
        combine(numbers(6), [numbers(2), numbers(1)], 1.0)


@pytest.mark.parametrize(
    ("ratio", "advantage", "objective"), [(1.1, 2.0, 2.2), (1.5, 2.0, 2.4), (1.5, -2.0, -3.0), (0.5, -2.0, -1.6)]
)
def test_the_sequence_ratio_is_the_product_of_its_tokens(ratio: float, advantage: float, objective: float) -> None:
    log_prob = torch.full((1, 3), math.log(ratio) / 2, dtype=F64)
    mask = torch.tensor([[True, False, True]])
    loss = sequence_actor_loss(log_prob, torch.zeros(1, 3, dtype=F64), numbers(advantage), mask, clip=0.2)
    assert loss.item() == pytest.approx(-objective)


@pytest.mark.parametrize(("log_ratio", "advantage", "slope"), [(100.0, 1.0, 0.0), (100.0, -1.0, math.exp(20))])
def test_a_long_response_whose_ratio_is_no_float_has_a_slope(log_ratio: float, advantage: float, slope: float) -> None:
    """e^100 is infinite in float32: a good response has moved far enough, a bad one is pushed back."""
    log_prob = torch.full((1, 50), log_ratio / 50).requires_grad_()
    mask = torch.ones(1, 50, dtype=torch.bool)
    loss = sequence_actor_loss(log_prob, torch.zeros(1, 50), torch.tensor([advantage]), mask)
    (gradient,) = torch.autograd.grad(loss, log_prob)
    torch.testing.assert_close(gradient, torch.full((1, 50), slope))
    assert bool(loss.isfinite())
    token = torch.tensor([[log_ratio]]).requires_grad_()
    loss = actor_loss(token, torch.zeros(1, 1), torch.tensor([[advantage]]), mask[:, :1])
    assert torch.autograd.grad(loss, token)[0].item() == pytest.approx(slope)


def test_a_step_at_a_ratio_that_is_no_float_makes_the_bad_response_less_likely() -> None:
    """Fifty tokens that the policy has come to like e^2 times as much: the bad response falls, the good one rests."""
    theta = torch.randn(50, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    ids, mask = torch.tensor([[0] * 50, [1] * 50]), torch.ones(2, 50, dtype=torch.bool)

    def log_prob() -> Tensor:
        return theta.log_softmax(-1)[torch.arange(50), ids]

    before = log_prob()
    loss = sequence_actor_loss(before, before.detach() - 2, torch.tensor([-1.0, 1.0]), mask)
    good_alone = sequence_actor_loss(before[1:], before.detach()[1:] - 2, torch.tensor([1.0]), mask[1:])
    assert not torch.autograd.grad(good_alone, theta, retain_graph=True)[0].any()
    loss.backward()
    assert theta.grad is not None and bool(theta.grad.isfinite().all())
    torch.nn.utils.clip_grad_norm_([theta], 1.0)
    with torch.no_grad():
        theta -= 0.5 * theta.grad
        assert bool(log_prob()[0].sum() < before[0].sum() - 0.1)


def test_grpo_advantage_and_loss_by_hand() -> None:
    # group: rewards (0, 2), Z = -+1 / sqrt 2; costs (0, 1), Z the same; lambda = 3: (1 - 3) / 4 of +-1 / sqrt 2
    algorithm = GRPOLagrangian(kl=0.5, clip=0.2)
    groups = torch.tensor([7, 7])
    z = math.sqrt(0.5)
    advantage = algorithm.advantage(numbers(0, 2), numbers(0, 1), groups, 3.0)
    close(advantage, numbers(z / 2, -z / 2), 1e-3)
    two = algorithm.advantage(numbers(0, 2), [numbers(0, 1), numbers(1, 0)], groups, [1.0, 1.0])
    close(two, numbers(-z / 3, z / 3), 1e-3)  # the two costs cancel
    # on policy the surrogate is -mean(A) = 0 here; k3 at u = ln 2 is ln 2 - 1/2
    log_prob = torch.full((2, 1), math.log(0.5), dtype=F64)
    loss = algorithm.loss(
        log_prob, log_prob, log_prob - math.log(2), numbers(1, -1), torch.ones(2, 1, dtype=torch.bool)
    )
    assert loss.item() == pytest.approx(0.5 * (math.log(2) - 0.5))


def test_rloo_advantage_by_hand() -> None:
    # reward (0, 2): leave one out (-2, 2), root mean square 2: (-1, 1); cost (1, 0): (1, -1); lambda 1: (-1, 1)
    # divergence (3, 1): (2, -2) times kl 0.1, taken off
    algorithm = RLOOLagrangian(kl=0.1)
    advantage = algorithm.advantage(numbers(0, 2), numbers(1, 0), torch.tensor([0, 0]), 1.0, numbers(3, 1))
    close(advantage, numbers(-1.2, 1.2), 1e-3)
    away = divergence(torch.tensor([[1.0, 9.0]]), torch.tensor([[0.5, 0.0]]), torch.tensor([[True, False]]))
    assert away.tolist() == [0.5]


@quick
@given(seeds, st.sampled_from([0.0, 0.5, 4.0, 100.0]))
def test_the_weight_of_kl_does_not_depend_on_lambda(seed: int, multiplier: float) -> None:
    """What a change of the divergence adds to the advantage is -kl times it, for every lambda and spread of scores."""
    generator = torch.Generator().manual_seed(seed)
    reward, cost, away, change = (torch.randn(8, generator=generator, dtype=F64) for _ in range(4))
    groups = torch.arange(8) // 4
    algorithm = RLOOLagrangian(kl=0.3)
    before = algorithm.advantage(100 * reward, cost, groups, multiplier, away)
    after = algorithm.advantage(100 * reward, cost, groups, multiplier, away + change)
    close(after - before, -0.3 * leave_one_out(change, groups))


def weights_of(advantage: Tensor, reward: Tensor, cost: Tensor, groups: Tensor) -> float:
    """How much a cost of one spread weighs beside a reward of one spread, by least squares."""
    columns = torch.stack([group_normalized(reward, groups), -group_normalized(cost, groups)], -1)
    solution = torch.linalg.lstsq(columns, advantage[:, None]).solution[:, 0]
    return float(solution[1] / solution[0])


def test_components_keep_one_to_lambda_only_when_normalised_first() -> None:
    """A reward of spread 10 beside an indicator cost of 30 %: the pathology of Constrained GRPO."""
    generator = torch.Generator().manual_seed(0)
    groups = torch.arange(64).repeat_interleave(16)
    reward = 10 * torch.randn(len(groups), generator=generator, dtype=F64)
    cost = (torch.rand(len(groups), generator=generator) < 0.3).to(F64)
    right = GRPOLagrangian().advantage(reward, cost, groups, 2.0)
    wrong = GRPOLagrangian(scalarize="reward").advantage(reward, cost, groups, 2.0)
    ratio = [weights_of(a, reward, cost, groups) for a in (right, wrong)]
    assert ratio[0] == pytest.approx(2.0, abs=1e-6)
    assert 0.05 < ratio[1] < 0.15  # some twenty times too weak
