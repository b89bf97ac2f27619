"""The pure maths of constrained RL: values worked by hand, and invariance to everything outside the mask."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from poise.align.core import actor_loss, center, combine, critic_loss, gae, masked_mean, token_signals

F64 = torch.float64
quick = settings(deadline=None, max_examples=40)
seeds = st.integers(0, 2**31)


def row(*values: float) -> Tensor:
    """float64[1, T]."""
    return torch.tensor([values], dtype=F64)


def kept(*flags: int) -> Tensor:
    """bool[1, T]."""
    return torch.tensor([flags], dtype=torch.bool)


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)


def test_masked_mean_weighs_sequences_not_tokens() -> None:
    # (1 + 2 + 3) / 3 = 2 and 10 / 1 = 10 -> (2 + 10) / 2 = 6; a mean over tokens would say 4; row 3 does not count
    values = torch.tensor([[1.0, 2.0, 3.0], [10.0, 99.0, 99.0], [7.0, 7.0, 7.0]])
    mask = torch.tensor([[1, 1, 1], [1, 0, 0], [0, 0, 0]], dtype=torch.bool)
    assert masked_mean(values, mask).item() == 6.0


def test_token_signals_by_hand() -> None:
    # kl = 0.1, log pi - log ref = (1, 0, -2): penalty (0.1, 0, -0.2)
    # r = -penalty, + 3 at the last response token; c = +penalty, - 4 at the same place; the garbage column stays 0
    signals = token_signals(
        torch.tensor([3.0], dtype=F64),
        torch.tensor([-4.0], dtype=F64),
        row(-1, -2, -3, 70),
        row(-2, -2, -1, -70),
        kept(1, 1, 1, 0),
        kl=0.1,
    )
    close(signals.reward, row(-0.1, 0, 3.2, 0))
    close(signals.cost, row(0.1, 0, -4.2, 0))


def test_token_signals_put_the_score_at_the_last_response_token_of_each_row() -> None:
    mask = torch.tensor([[0, 1, 1, 0], [0, 0, 1, 1], [1, 0, 0, 0]], dtype=torch.bool)
    zero = torch.zeros(3, 4)
    signals = token_signals(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([4.0, 5.0, 6.0]), zero, zero, mask, kl=0.5)
    assert signals.reward.tolist() == [[0, 0, 1, 0], [0, 0, 0, 2], [3, 0, 0, 0]]
    assert signals.cost.tolist() == [[0, 0, 4, 0], [0, 0, 0, 5], [6, 0, 0, 0]]


def test_token_signals_are_clamped_on_both_sides() -> None:
    # penalties (80, -80) and scores +-60 at the end: -(-80) + 60 = 140 -> 50, -80 - 60 = -140 -> -50
    signals = token_signals(
        torch.tensor([60.0], dtype=F64), torch.tensor([-60.0], dtype=F64), row(80, -80), row(0, 0), kept(1, 1), kl=1.0
    )
    close(signals.reward, row(-50, 50))
    close(signals.cost, row(50, -50))
    zero = row(0, 0)
    own = token_signals(torch.tensor([1.0]), torch.tensor([9.0]), zero, zero, kept(1, 1), kl=1.0, clip=2.0)
    close(own.reward, row(0, 1))
    close(own.cost, row(0, 2))


def test_gae_on_three_tokens() -> None:
    # gamma = 0.9, lam = 0.5, x = (0, 0, 1), V = (0.5, 0.2, 0.4)
    # delta_2 = 1 - 0.4 = 0.6                 A_2 = 0.6
    # delta_1 = 0.9 * 0.4 - 0.2 = 0.16        A_1 = 0.16 + 0.45 * 0.6 = 0.43
    # delta_0 = 0.9 * 0.2 - 0.5 = -0.32       A_0 = -0.32 + 0.45 * 0.43 = -0.1265
    out = gae(row(0, 0, 1), row(0.5, 0.2, 0.4), kept(1, 1, 1), gamma=0.9, lam=0.5)
    close(out.advantage, row(-0.1265, 0.43, 0.6))
    close(out.returns, row(0.3735, 0.63, 1.0))


def test_gae_with_lam_one_is_the_return_minus_the_value() -> None:
    # gamma = lam = 1: returns (1 + 2 + 4, 2 + 4, 4) whatever the critic says
    out = gae(row(1, 2, 4), row(5, -3, 0.5), kept(1, 1, 1), gamma=1.0, lam=1.0)
    close(out.returns, row(7, 6, 4))
    close(out.advantage, row(2, 9, 3.5))


def test_combine_by_hand() -> None:
    # lambda = 3: (2 - 3 * 1) / 4 = -0.25; lambda = 0 leaves the reward's advantage alone
    close(combine(row(2), row(1), 3.0), row(-0.25))
    close(combine(row(2), row(1), 0.0), row(2))
    close(combine(row(2), row(1), 1e12), row(-1))


@pytest.mark.parametrize(
    ("ratio", "advantage", "objective", "moves"),
    [
        (1.1, 2.0, 2.2, True),  # inside the clip
        (1.5, 2.0, 2.4, False),  # min(3.0, 1.2 * 2)
        (1.5, -2.0, -3.0, True),  # min(-3.0, -2.4): a bad action that became likelier is pushed back
        (0.5, 2.0, 1.0, True),  # min(1.0, 1.6)
        (0.5, -2.0, -1.6, False),  # min(-1.0, 0.8 * -2)
    ],
)
def test_actor_loss_with_clipping(ratio: float, advantage: float, objective: float, moves: bool) -> None:
    log_prob = row(math.log(ratio)).requires_grad_()
    loss = actor_loss(log_prob, row(0), row(advantage), kept(1), clip=0.2)
    assert loss.item() == pytest.approx(-objective)
    (slope,) = torch.autograd.grad(loss, log_prob)
    assert slope.item() == pytest.approx(-ratio * advantage if moves else 0.0)


@pytest.mark.parametrize(
    ("value", "returns", "loss", "slope"),
    [
        (0.5, 2.0, 0.5 * 1.5**2, -1.5),  # inside the clip: 0.5 (V - R)^2
        (3.0, 1.5, 0.5 * 1.5**2, 1.5),  # clipped to 1: max(1.5^2, 0.5^2), V still falls towards R
        (3.0, 5.0, 0.5 * 4.0**2, 0.0),  # clipped to 1: max(2^2, 4^2), V has gone far enough
        (-3.0, -5.0, 0.5 * 4.0**2, 0.0),  # the same below
    ],
)
def test_critic_loss_with_clipping(value: float, returns: float, loss: float, slope: float) -> None:
    now = row(value).requires_grad_()
    out = critic_loss(now, row(0), row(returns), kept(1), clip=1.0)
    assert out.item() == pytest.approx(loss)
    assert torch.autograd.grad(out, now)[0].item() == pytest.approx(slope)


class Batch:
    """Random responses float64[B, T] with contiguous masks, and the same ones among garbage."""

    def __init__(self, seed: int, left: int, right: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.left, self.right, self.size = left, right, (3, 5)
        start = torch.randint(0, 3, (3, 1), generator=self.generator)
        length = torch.randint(1, 3, (3, 1), generator=self.generator)
        at = torch.arange(5)[None]
        self.mask = (at >= start) & (at < start + length)
        self.padded_mask = self.pad(self.mask, torch.zeros(3, left + 5 + right, dtype=torch.bool))

    def tensor(self) -> tuple[Tensor, Tensor]:
        """A clean tensor (zero outside the mask) and its padded twin (garbage outside the mask)."""
        clean = torch.randn(self.size, generator=self.generator, dtype=F64) * self.mask
        wide = 100 * torch.randn(3, self.left + 5 + self.right, generator=self.generator, dtype=F64)
        padded = torch.where(self.padded_mask, self.pad(clean, torch.zeros_like(wide)), wide)
        return clean, padded

    def pad(self, inner: Tensor, outer: Tensor) -> Tensor:
        outer[:, self.left : self.left + 5] = inner
        return outer


pads = st.integers(0, 3)


@quick
@given(seeds, pads, pads)
def test_garbage_outside_the_mask_changes_no_signal_and_no_advantage(seed: int, left: int, right: int) -> None:
    batch = Batch(seed, left, right)
    (log_prob, log_prob_p), (reference, reference_p), (value, value_p) = (batch.tensor() for _ in range(3))
    reward, cost = torch.randn(2, 3, generator=batch.generator, dtype=F64)
    plain = token_signals(reward, cost, log_prob, reference, batch.mask, 0.3)
    padded = token_signals(reward, cost, log_prob_p, reference_p, batch.padded_mask, 0.3)
    for name in ("reward", "cost"):
        x, x_p = getattr(plain, name), getattr(padded, name)
        close(x_p, batch.pad(x, torch.zeros_like(x_p)))
        noisy = torch.where(batch.padded_mask, x_p, value_p)
        clean, wide = gae(x, value, batch.mask, 0.9, 0.7), gae(noisy, value_p, batch.padded_mask, 0.9, 0.7)
        close(wide.advantage, batch.pad(clean.advantage, torch.zeros_like(x_p)))
        close(wide.returns, batch.pad(clean.returns, torch.zeros_like(x_p)))


@quick
@given(seeds, pads, pads, st.booleans())
def test_garbage_outside_the_mask_changes_no_loss(seed: int, left: int, right: int, empty_row: bool) -> None:
    batch = Batch(seed, left, right)
    (a, a_p), (b, b_p), (c, c_p) = (batch.tensor() for _ in range(3))
    mask = batch.padded_mask
    if empty_row:  # a whole row of garbage
        mask = torch.cat([mask, torch.zeros_like(mask[:1])])
        a_p, b_p, c_p = (torch.cat([x, 100 * torch.ones_like(x[:1])]) for x in (a_p, b_p, c_p))
    a_p.requires_grad_()
    close(masked_mean(a_p, mask), masked_mean(a, batch.mask))
    close(critic_loss(a_p, b_p, c_p, mask, 0.5), critic_loss(a, b, c, batch.mask, 0.5))
    loss = actor_loss(a_p, b_p, c_p, mask)
    close(loss, actor_loss(a, b, c, batch.mask))
    assert not torch.autograd.grad(loss, a_p)[0][~mask].any()


@quick
@given(seeds, st.floats(0, 20), st.floats(0, 20))
def test_the_kl_weight_does_not_depend_on_lambda(seed: int, multiplier: float, other: float) -> None:
    # gamma = lam = 1 and zero critics: A_r = -K_t + R and A_c = K_t + C with K_t the KL still to come, so
    # (A_r - lambda A_c) / (1 + lambda) = -K_t + (R - lambda C) / (1 + lambda)
    generator = torch.Generator().manual_seed(seed)
    log_prob, reference = torch.randn(2, 2, 4, generator=generator, dtype=F64)
    reward, cost = torch.randn(2, 2, generator=generator, dtype=F64)
    mask, zero = torch.ones(2, 4, dtype=torch.bool), torch.zeros(2, 4, dtype=F64)
    signals = token_signals(reward, cost, log_prob, reference, mask, kl=0.1)
    reward_part, cost_part = (gae(x, zero, mask, 1.0, 1.0).advantage for x in signals)
    to_come = 0.1 * (log_prob - reference).flip(1).cumsum(1).flip(1)
    for value in (multiplier, other):
        score = (reward - value * cost) / (1 + value)
        close(combine(reward_part, cost_part, value) - score[:, None], -to_come)


def test_center_takes_the_mean_over_a_prompts_responses_at_each_position() -> None:
    """Prompt 0 has rows (1, 3) and (5,): position 0 has mean (1 + 5) / 2 = 3, position 1 has (3 + 5) / 2 = 4, as the
    second row counts there with its last. Prompt 1 is alone."""
    first = torch.tensor([[9.0, 1.0, 3.0], [9.0, 7.0, 9.0]])
    second = torch.tensor([[9.0, 9.0, 5.0]])
    masks = [torch.tensor([[False, True, True], [False, True, False]]), torch.tensor([[False, False, True]])]
    groups = [torch.tensor([0, 1]), torch.tensor([0])]
    got = center([first, second], masks, groups)
    torch.testing.assert_close(got[0], torch.tensor([[0.0, -2.0, -1.0], [0.0, 0.0, 0.0]]))
    torch.testing.assert_close(got[1], torch.tensor([[0.0, 0.0, 2.0]]))


@quick
@given(seeds)
def test_center_leaves_the_end_of_the_longest_response_its_share(seed: int) -> None:
    """With siblings at zero an advantage keeps 1 - 1/G of itself at each of its tokens, however early they end."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 7, (4, 1), generator=generator)
    lengths[0] = 9
    mask, advantage = torch.arange(9)[None] < lengths, torch.zeros(4, 9, dtype=F64)
    advantage[0] = torch.randn(9, generator=generator, dtype=F64)
    (got,) = center([advantage], [mask], [torch.zeros(4, dtype=torch.long)])
    close(got[0], 0.75 * advantage[0])


def test_center_is_blind_to_what_a_critic_gets_wrong_about_a_prompt() -> None:
    """Adding any number to all advantages of one prompt changes nothing, where one is alone at the end either."""
    advantage = torch.tensor([[1.0, 2.0], [3.0, 5.0], [4.0, 4.0]])
    mask, group = torch.tensor([[True, True], [True, False], [True, True]]), torch.tensor([0, 0, 1])
    shifted = advantage + torch.tensor([[10.0], [10.0], [-3.0]])
    torch.testing.assert_close(center([advantage], [mask], [group])[0], center([shifted], [mask], [group])[0])


@pytest.mark.parametrize("size", [2, 3])
def test_center_leaves_the_policy_gradient_its_direction(size: int) -> None:
    """The expectation over all groups of G responses (token 0 ends one, three tokens cut it), worked out exactly.

    Centring is (1 - 1/G) times what the policy's own mean at each position would do as a baseline. In a sum over tokens
    a baseline has no effect; in the mean over a response's own tokens it has one, as E sum_t b grad log pi_t / T =
    b grad E 1/T for a constant b.
    """
    generator = torch.Generator().manual_seed(0)
    theta = torch.randn(3, 3, generator=generator, dtype=F64).requires_grad_()  # logits of each token at each place
    answers = [(0,), (1, 0), (2, 0), *((*y, z) for y in product((1, 2), repeat=2) for z in range(3))]
    length = torch.tensor([[len(y)] for y in answers])
    ids, mask = torch.tensor([[*y, 0, 0][:3] for y in answers]), torch.arange(3) < length
    log_prob = torch.where(mask, theta.log_softmax(-1)[torch.arange(3), ids], 0.0)
    chance = log_prob.detach().sum(-1).exp()
    assert chance.sum().item() == pytest.approx(1.0)
    advantage = 5 + torch.randn(len(answers), 3, generator=generator, dtype=F64)
    lasting = advantage.gather(1, torch.minimum(torch.arange(3), length - 1))
    groups = torch.cartesian_prod(*[torch.arange(len(answers))] * size)
    drawn, weight = groups.flatten(), chance[groups].prod(-1).repeat_interleave(size) / size
    numbers = torch.arange(len(groups)).repeat_interleave(size)
    (centered,) = center([advantage[drawn]], [mask[drawn]], [numbers])

    def gradient(weight: Tensor, advantage: Tensor, rows: Tensor, share: Tensor) -> Tensor:
        loss = (weight[:, None] * share[rows] * advantage * log_prob[rows]).sum()
        return torch.autograd.grad(loss, theta, retain_graph=True)[0]

    every, scale = torch.arange(len(answers)), 1 - 1 / size
    for share, is_sum in ((torch.ones_like(length), True), (1 / length.to(F64), False)):
        got, plain = gradient(weight, centered, drawn, share), gradient(chance, advantage, every, share)
        close(got, scale * gradient(chance, advantage - chance @ lasting, every, share))
        assert plain.norm() > 0.01 and torch.allclose(got, scale * plain) == is_sum
