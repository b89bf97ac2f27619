"""Losses of the reward and the cost model: values worked by hand, signs and gradients."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from poise.preference import cost_loss, reward_loss
from poise.preference.losses import Labelled, joined, sign_loss

quick = settings(deadline=None, max_examples=40)


def t(*values: float) -> Tensor:
    """float64[P]."""
    return torch.tensor(values, dtype=torch.float64)


def softplus(x: float) -> float:
    """-log sigmoid(-x)."""
    return math.log1p(math.exp(x))


def test_reward_loss_by_hand() -> None:
    # -log s(1 - 0) = 0.313262 (right), -log s(0 - 2) = 2.126928 (wrong): mean 1.220095
    # mu E R^2 = 0.1 * ((1 + 0) + (0 + 4)) / 2 = 0.25
    out = reward_loss(t(1, 0), t(0, 2), regularization=0.1)
    assert out.loss.item() == pytest.approx(1.220095 + 0.25, abs=1e-6)
    assert out.pair_accuracy.item() == 0.5
    assert out.sign_accuracy is None


def test_a_reward_tie_costs_log_2_and_is_no_hit() -> None:
    out = reward_loss(t(0), t(0))
    assert out.loss.item() == pytest.approx(math.log(2))
    assert out.pair_accuracy.item() == 0


def test_cost_loss_by_hand_with_all_three_terms() -> None:
    # pair 1: safe -1, unsafe 2: ranking softplus(-3) = 0.048587, signs softplus(-1) + softplus(-2) = 0.440190
    # pair 2: both unsafe, safer 1, unsafer 0.5: softplus(0.5) = 0.974077, softplus(-1) + softplus(-0.5) = 0.787339
    # mu E C^2 = 0.1 * ((1 + 4) + (1 + 0.25)) / 2 = 0.3125
    out = cost_loss(t(-1, 1), t(2, 0.5), t(-1, 1), t(1, 1), regularization=0.1)
    ranking, signs = (0.048587 + 0.974077) / 2, (0.440190 + 0.787339) / 2
    assert out.loss.item() == pytest.approx(ranking + signs + 0.3125, abs=1e-6)
    assert out.pair_accuracy.item() == 0.5
    assert out.sign_accuracy is not None
    assert out.sign_accuracy.item() == 1.0
    without = cost_loss(t(-1, 1), t(2, 0.5), t(-1, 1), t(1, 1), regularization=0.1, pairwise=False)
    assert without.loss.item() == pytest.approx(signs + 0.3125, abs=1e-6)
    assert without.pair_accuracy.item() == 0.5


def test_sign_accuracy_counts_both_sides() -> None:
    # safer: -1 said safe (right), 2 said safe (wrong); unsafer: 3 unsafe (right), 0 on the boundary (no hit)
    out = cost_loss(t(-1, 2), t(3, 0), t(-1, -1), t(1, 1))
    assert out.sign_accuracy is not None
    assert out.sign_accuracy.item() == 0.5


@pytest.mark.parametrize("pairwise", [True, False])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_cost_moves_to_its_side_of_zero(pairwise: bool, sign: float) -> None:
    # at zero: d/dC_safer = s(0) [pairwise] - g s(0); d/dC_unsafer = -s(0) [pairwise] - g s(0), with s(0) = 1/2
    safer, unsafer = t(0).requires_grad_(), t(0).requires_grad_()
    loss = cost_loss(safer, unsafer, t(sign), t(sign), pairwise=pairwise).loss
    slope_safer, slope_unsafer = torch.autograd.grad(loss, (safer, unsafer))
    ranking = 0.5 if pairwise else 0.0
    assert slope_safer.item() == pytest.approx(ranking - sign / 2)
    assert slope_unsafer.item() == pytest.approx(-ranking - sign / 2)


scores = st.lists(st.tuples(st.floats(-20, 20), st.floats(-20, 20)), min_size=1, max_size=6)


@quick
@given(scores)
def test_reward_slopes_raise_the_better_and_lower_the_worse(pairs: list[tuple[float, float]]) -> None:
    better, worse = (t(*side).requires_grad_() for side in zip(*pairs, strict=True))
    loss = reward_loss(better, worse, regularization=0.0).loss
    up, down = torch.autograd.grad(loss, (better, worse))
    assert (up < 0).all()
    torch.testing.assert_close(up, -down)
    assert loss.item() == pytest.approx(sum(softplus(w - b) for b, w in pairs) / len(pairs))


@quick
@given(scores, st.permutations(range(6)))
def test_order_and_copies_of_pairs_change_nothing(pairs: list[tuple[float, float]], order: list[int]) -> None:
    shuffled = [pairs[i] for i in order if i < len(pairs)] * 2
    (a, b), (c, d) = ([t(*side) for side in zip(*some, strict=True)] for some in (pairs, shuffled))
    torch.testing.assert_close(reward_loss(a, b).loss, reward_loss(c, d).loss)
    safe, unsafe = torch.tensor(-1.0), torch.tensor(1.0)
    plain, twice = cost_loss(a, b, safe, unsafe), cost_loss(c, d, safe, unsafe)
    torch.testing.assert_close(plain.loss, twice.loss)
    torch.testing.assert_close(plain.sign_accuracy, twice.sign_accuracy)


def test_large_scores_stay_finite() -> None:
    assert reward_loss(t(-1e4), t(1e4), 0.0).loss.item() == pytest.approx(2e4)
    assert cost_loss(t(1e4), t(-1e4), t(-1), t(1), 0.0).loss.item() == pytest.approx(4e4)


def test_margin_and_centring_of_the_reward_by_hand() -> None:
    # margin 0.5: softplus(-(1 - 0 - 0.5)) = 0.474077, softplus(-(0 - 2 - 0.5)) = 2.578890: mean 1.526483
    # centring 0.1: ((1 + 0)^2 + (0 + 2)^2) / 2 * 0.1 = 0.25
    out = reward_loss(t(1, 0), t(0, 2), 0.0, margin=0.5, centering=0.1)
    assert out.loss.item() == pytest.approx(1.526483 + 0.25, abs=1e-6)
    assert reward_loss(t(1, 0), t(0, 2), 0.0, margin=t(0.5, 0)).loss.item() == pytest.approx(
        (0.474077 + 2.126928) / 2, abs=1e-6
    )


def test_severity_as_margin_and_as_weight_by_hand() -> None:
    # as above: rankings 0.048587 and 0.974077; signs of safer 0.313262, 0.313262; of unsafer 0.126928, 0.474077
    plain = (t(-1, 1), t(2, 0.5), t(-1, 1), t(1, 1))
    # margins 2 and 0: the first ranking becomes softplus(-(3 - 2)) = 0.313262
    margin = cost_loss(*plain, 0.0, margin=t(2, 0)).loss.item()
    assert margin == pytest.approx((0.313262 + 0.974077) / 2 + 0.313262 + (0.126928 + 0.474077) / 2, abs=1e-6)
    # weights of the unsafer 3 and 1: (3 x + y) / 4 in its terms
    weight = cost_loss(*plain, 0.0, weight_unsafer=t(3, 1)).loss.item()
    expected = (3 * 0.048587 + 0.974077) / 4 + 0.313262 + (3 * 0.126928 + 0.474077) / 4
    assert weight == pytest.approx(expected, abs=1e-6)
    assert cost_loss(*plain, 0.0, weight_safer=t(1, 1), weight_unsafer=t(1, 1)).loss == cost_loss(*plain, 0.0).loss


def test_a_pair_without_a_label_is_ranked_only() -> None:
    # second pair has no labels: sign terms are those of the first alone
    out = cost_loss(t(-1, 1), t(2, 0.5), t(-1, 0), t(1, 0), 0.0)
    assert out.loss.item() == pytest.approx((0.048587 + 0.974077) / 2 + 0.313262 + 0.126928, abs=1e-6)
    assert out.sign_accuracy is not None
    assert out.sign_accuracy.item() == 1.0


def test_labels_alone_count_like_those_of_pairs() -> None:
    # two pairs and their four responses given alone: without the ranking it is the same loss
    pairs = cost_loss(t(-1, 1), t(2, 0.5), t(-1, 1), t(1, 1), 0.1, pairwise=False)
    single = sign_loss(Labelled(t(-1, 1, 2, 0.5), t(-1, 1, 1, 1)), 0.1)
    assert single.loss.item() == pytest.approx(pairs.loss.item())
    assert joined(pairs, 2, single, 4).loss.item() == pytest.approx(pairs.loss.item())
    # one pair beside two others: a half each
    other = sign_loss(Labelled(t(0, 0), t(1, -1)), 0.0)
    assert other.loss.item() == pytest.approx(2 * math.log(2))
    assert joined(pairs, 1, other, 2).loss.item() == pytest.approx((pairs.loss.item() + 2 * math.log(2)) / 2)
    weighted = sign_loss(Labelled(t(-1, 1), t(-1, -1), t(3, 1)), 0.0)
    assert weighted.loss.item() == pytest.approx(2 * (3 * 0.313262 + 1.313262) / 4, abs=1e-5)
