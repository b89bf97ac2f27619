"""The offline methods on log-probabilities: values by hand, tables, and what must not change them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from poise.align.algorithms.bfpo import BFPO, selected
from poise.align.algorithms.dpo import DPO, IPO
from poise.align.algorithms.mocan import dual, pseudo_labels, relative_to_reference, solve_dual
from poise.align.algorithms.pairs import PairLogProbs, PairLoss
from poise.align.algorithms.pecan import implicit_scores
from poise.align.algorithms.sacpo import SACPO, merged
from poise.align.algorithms.safe_dpo import SafeDPO, reorder

quick = settings(deadline=None, max_examples=25)
F64 = torch.float64
seeds = st.integers(0, 2**31)
LN3 = math.log(3)


def numbers(*values: float) -> Tensor:
    """float64[N]."""
    return torch.tensor(values, dtype=F64)


def one_pair(gap: float) -> PairLogProbs:
    """A pair whose log-ratios are `gap` and 0, at some log-probabilities of the reference."""
    return PairLogProbs(numbers(gap - 7), numbers(-9), numbers(-7), numbers(-9))


def random_pairs(seed: int, count: int = 6) -> PairLogProbs:
    """With gradients for the policy."""
    generator = torch.Generator().manual_seed(seed)
    values = [-10 * torch.rand(count, generator=generator, dtype=F64) for _ in range(4)]
    return PairLogProbs(values[0].requires_grad_(), values[1].requires_grad_(), *values[2:])


def test_the_gap_by_hand() -> None:
    # (-1 - -2) - (-5 - -3) = 1 + 2
    pairs = PairLogProbs(numbers(-1), numbers(-5), numbers(-2), numbers(-3))
    assert pairs.gap.tolist() == [3.0]
    loss = DPO(0.5).loss(pairs)
    assert (loss.chosen_reward.tolist(), loss.rejected_reward.tolist()) == ([0.5], [-1.0])
    assert loss.accuracy.item() == 1.0


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (DPO(0.5).loss(one_pair(2 * LN3)), math.log(4 / 3)),  # s(ln 3) = 3/4
        (DPO(0.1).loss(one_pair(0)), math.log(2)),
        (IPO(0.25).loss(one_pair(3)), 1.0),  # (3 - 2)^2
        (IPO(0.1).loss(one_pair(5)), 0.0),  # at its target
        (SafeDPO(0.5, 10).loss(one_pair(2 * LN3), numbers(0)), math.log(4 / 3)),  # two safe answers: DPO
        (SafeDPO(1.0, 10).loss(one_pair(10 + LN3), numbers(1)), math.log(4 / 3)),
        (SafeDPO(1.0, LN3).loss(one_pair(0), numbers(1)), math.log(4)),  # s(-ln 3) = 1/4
        (BFPO(tau=0.5).loss(one_pair(3), torch.tensor([True]), torch.tensor([True])), 4.0),  # (3 - .5 / .5)^2
        (BFPO(tau=0.5).loss(one_pair(3), torch.tensor([False]), torch.tensor([True])), 25.0),  # (3 + 1 / .5)^2
    ],
)
def test_losses_by_hand(loss: PairLoss, expected: float) -> None:
    assert loss.loss.item() == pytest.approx(expected, abs=1e-12)


LOSSES: dict[str, Callable[[PairLogProbs], PairLoss]] = {
    "dpo": lambda pairs: DPO(0.3).loss(pairs),
    "ipo": lambda pairs: IPO(0.3).loss(pairs),
    "safe_dpo": lambda pairs: SafeDPO(0.3, 2.0).loss(pairs, (torch.arange(len(pairs.gap)) % 2).double()),
    "bfpo": lambda pairs: BFPO(0.3).loss(pairs, pairs.reference_chosen < -5, pairs.reference_rejected < -5),
}


@pytest.mark.parametrize("name", LOSSES)
@quick
@given(seed=seeds)
def test_micro_batches_add_up(name: str, seed: int) -> None:
    pairs = random_pairs(seed)
    whole = LOSSES[name](pairs).loss.sum() / 6
    parts = [LOSSES[name](PairLogProbs(*(x[at : at + 2] for x in pairs))).loss.sum() / 6 for at in (0, 2, 4)]
    gradients = [torch.autograd.grad(loss, pairs[:2], retain_graph=True) for loss in (whole, sum(parts))]
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("name", LOSSES)
@quick
@given(seed=seeds, shift=st.floats(-5, 5))
def test_a_term_of_the_prompt_alone_has_no_effect(name: str, seed: int, shift: float) -> None:
    """Both responses likelier by the same factor under policy, or under both models: the same loss."""
    pairs = random_pairs(seed)
    moved = pairs._replace(policy_chosen=pairs.policy_chosen + shift, policy_rejected=pairs.policy_rejected + shift)
    torch.testing.assert_close(LOSSES[name](moved).loss, LOSSES[name](pairs).loss)


@quick
@given(seeds, st.floats(0, 50))
def test_the_margin_of_safe_dpo_pushes_harder_and_only_where_safety_differs(seed: int, margin: float) -> None:
    pairs = random_pairs(seed)
    contrast = numbers(0, 1, 0, 1, 0, 1)
    slopes = [
        torch.autograd.grad(loss.loss.sum(), pairs.policy_chosen)[0]
        for loss in (DPO(0.1).loss(pairs), SafeDPO(0.1, margin).loss(pairs, contrast))
    ]
    torch.testing.assert_close(slopes[0][::2], slopes[1][::2])
    assert bool((slopes[1][1::2] <= slopes[0][1::2] + 1e-12).all())  # the chosen is raised at least as fast


def test_the_reordering_of_safe_dpo() -> None:
    # safe/safe stays, safe/unsafe stays with contrast, unsafe/safe is swapped, unsafe/unsafe is dropped
    better, worse = torch.tensor([False, False, True, True]), torch.tensor([False, True, False, True])
    out = reorder(better, worse)
    assert out.keep.tolist() == [True, True, True, False]
    assert out.swap.tolist() == [False, False, True, False]
    assert out.contrast.tolist() == [0, 1, 1, 0]
    assert out.shares == {"dropped": 0.25, "swapped": 0.25}


def test_the_four_targets_of_bfpo_are_of_one_order() -> None:
    flags = torch.tensor([[True, True], [True, False], [False, True], [False, False]])
    assert (BFPO(tau=1.0).target(*flags.T)).tolist() == [0.5, 1.0, -1.0, -0.5]
    assert BFPO().target(*flags.T).tolist() == pytest.approx([50, 100, -100, -50])
    # a policy over four answers trained on all pairs: safe helpful > safe > unsafe > unsafe helpful
    safe, helpful = torch.tensor([True, True, False, False]), torch.tensor([1, 0, 0, 1])
    logits = torch.zeros(4, requires_grad=True)
    pairs = [(w, other) for w, other in itertools.permutations(range(4), 2) if helpful[w] > helpful[other]]
    first, second = (torch.tensor(rows) for rows in zip(*pairs, strict=True))
    optimizer = torch.optim.Adam([logits], 0.05)
    for _ in range(300):
        log_pi = logits.log_softmax(0)
        zero = torch.zeros(len(pairs))
        measured = PairLogProbs(log_pi[first], log_pi[second], zero, zero)
        optimizer.zero_grad()
        BFPO(tau=1.0).loss(measured, safe[first], safe[second]).loss.mean().backward()
        optimizer.step()
    assert logits.argsort(descending=True).tolist() == [0, 1, 2, 3]


def test_selective_fine_tuning_takes_whole_parts_of_names() -> None:
    names = ["layers.0.mlp.down_proj.weight", "layers.0.mlp.up_proj.weight", "layers.0.slow_down_proj.weight"]
    assert selected(names) == names[:1]
    with pytest.raises(ValueError, match="no parameter has"):
        selected(["head.weight"])


def test_the_second_step_of_sacpo_has_the_first_as_reference() -> None:
    first, second = SACPO(beta=0.1, multiplier=4.0).steps
    assert (first.label, first.reference, first.loss.beta) == ("better", "start", 0.1)
    assert (second.label, second.reference, second.loss.beta) == ("safer", "helpful", 0.025)


def test_two_steps_reach_the_policy_of_the_lagrangian() -> None:
    """pi_SFT exp(R / beta), and that times exp(-C lambda / beta), is pi_SFT exp((R - lambda C) / beta)."""
    generator = torch.Generator().manual_seed(0)
    start, reward, cost = (torch.randn(5, generator=generator, dtype=F64) for _ in range(3))
    pairs = torch.tensor(list(itertools.combinations(range(5), 2)))
    settings = SACPO(beta=0.7, multiplier=2.5)
    reached = start.log_softmax(0)
    references = {"start": reached}
    for step, score in zip(settings.steps, (reward, -cost), strict=True):
        # the optimum of DPO on infinitely many Bradley-Terry labels has implicit rewards that differ as the scores do
        reached = (reached + score / step.loss.beta).log_softmax(0)
        log_ratio = reached - references[step.reference]
        gaps = step.loss.beta * (log_ratio[pairs[:, 0]] - log_ratio[pairs[:, 1]])
        torch.testing.assert_close(gaps, score[pairs[:, 0]] - score[pairs[:, 1]])
        references["helpful"] = reached
    torch.testing.assert_close(reached, (start + (reward - 2.5 * cost) / 0.7).log_softmax(0))


def test_merging_gives_the_ends_and_the_line_between() -> None:
    helpful = {"w": torch.tensor([1.0, -0.3]), "n": torch.tensor([3])}
    safe = {"w": torch.tensor([2.0, 0.1]), "n": torch.tensor([3])}
    assert all(torch.equal(merged(helpful, safe, 0.0)[name], helpful[name]) for name in helpful)
    assert all(torch.equal(merged(helpful, safe, 1.0)[name], safe[name]) for name in safe)
    assert merged(helpful, safe, 0.25)["w"].tolist() == pytest.approx([1.25, -0.2])
    with pytest.raises(ValueError, match="between 0"):
        merged(helpful, safe, 1.5)
    with pytest.raises(ValueError, match="w differs"):
        merged(helpful, safe | {"w": torch.zeros(3)}, 0.5)
    with pytest.raises(ValueError, match="whole numbers"):
        merged(helpful, safe | {"n": torch.tensor([4])}, 0.5)


def scores(seed: int) -> tuple[Tensor, Tensor]:
    """Reward and cost [prompts, responses]."""
    generator = torch.Generator().manual_seed(seed)
    reward, cost = (torch.randn(5, 40, generator=generator, dtype=F64) for _ in range(2))
    return reward, cost + 0.5 * reward


def test_the_dual_by_hand() -> None:
    # two responses, R = (ln 3, 0), C = (1, 0), beta = 1, d = 0.25, lambda = ln 3: exponents (d ln 3, d ln 3) agree
    reward, cost = torch.tensor([[LN3, 0.0]], dtype=F64), torch.tensor([[1.0, 0.0]], dtype=F64)
    out = dual(reward, cost, LN3, threshold=0.25, beta=1.0)
    assert out.value == pytest.approx(0.25 * LN3)
    assert out.slope == pytest.approx(0.25 - 0.5)
    # E[C] = 3 e^-l / (3 e^-l + 1) = 1/4 at e^-l = 1/9
    assert solve_dual(reward, cost, 0.25, 1.0) == pytest.approx(2 * LN3)


@quick
@given(seeds, st.floats(0, 3))
def test_the_slope_of_the_dual_is_its_derivative(seed: int, multiplier: float) -> None:
    reward, cost = scores(seed)
    up, down = (dual(reward, cost, multiplier + step, 0.1, 0.7).value for step in (1e-5, -1e-5))
    assert dual(reward, cost, multiplier, 0.1, 0.7).slope == pytest.approx((up - down) / 2e-5, abs=1e-7)


@pytest.mark.parametrize("seed", range(2))
def test_the_multiplier_is_that_of_a_grid_and_falls_with_the_threshold(seed: int) -> None:
    reward, cost = scores(seed)
    grid = [at / 20 for at in range(161)]
    before = math.inf
    for threshold in (-0.5, -0.2, 0.0, 0.5, 3.0):
        found = solve_dual(reward, cost, threshold, 0.7)
        best = min(grid, key=lambda at: dual(reward, cost, at, threshold, 0.7).value)
        assert found == pytest.approx(best, abs=0.051)
        assert found <= before
        before = found
    assert before == 0.0  # a slack constraint has no price


def test_what_the_dual_refuses() -> None:
    reward, cost = scores(0)
    with pytest.raises(ValueError, match="no policy on these responses"):
        solve_dual(reward, cost, -50.0, 0.7)
    with pytest.raises(ValueError, match="must both be"):
        solve_dual(reward[0], cost[0])
    with pytest.raises(ValueError, match="not a number"):
        solve_dual(reward, cost * math.nan)


def test_pseudo_labels_follow_the_tilted_scores() -> None:
    # s_1 - s_0 = (0 - 2 * 0) - (1 - 2 * 1) = 1: s(1) = 0.731
    reward, cost = torch.tensor([[1.0, 0.0]] * 2), torch.tensor([[1.0, 0.0]] * 2)
    assert pseudo_labels(reward, cost, 2.0, torch.tensor([0.73, 0.74])).tolist() == [1, 0]


def test_implicit_scores_stand_in_for_the_models() -> None:
    """Ideal DPO models give back reward and cost up to a term of the prompt, and the same multiplier."""
    reward, cost = scores(3)
    reference = torch.full((5, 40), -math.log(40), dtype=F64)
    helpful = (reference + reward / 0.7).log_softmax(-1)
    harmless = (reference - cost / 0.7).log_softmax(-1)
    found = implicit_scores(helpful, harmless, reference, 0.7)
    torch.testing.assert_close(found.cost, relative_to_reference(cost))
    torch.testing.assert_close(relative_to_reference(found.reward), relative_to_reference(reward))
    ours, theirs = (solve_dual(r, c, -0.2, 0.7) for r, c in (found, (reward, relative_to_reference(cost))))
    assert ours == pytest.approx(theirs) and ours > 0
