"""Moderation heads: ordinal severity that can't contradict itself, and a loss over what is known."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from poise.models.heads import (
    LEVELS,
    K,
    ModerationHeads,
    ModerationLogits,
    ModerationTargets,
    moderation_loss,
    severity_probabilities,
)

NAN = math.nan
LN3 = math.log(3)
quick = settings(deadline=None, max_examples=40)


@quick
@given(st.integers(0, 2**31), st.floats(0.1, 100))
def test_severity_is_monotone_for_any_weights(seed: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    heads = ModerationHeads(4)
    with torch.no_grad():
        for parameter in heads.parameters():
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
    out = heads(scale * torch.randn(6, 4, generator=generator))
    assert out.categories.shape == (6, K)
    assert out.at_least.shape == (6, LEVELS - 1)
    assert (out.at_least.diff(dim=1) <= 0).all()
    p = severity_probabilities(out.at_least)
    assert p.shape == (6, LEVELS)
    assert (p >= 0).all()
    torch.testing.assert_close(p.sum(1), torch.ones(6))
    torch.testing.assert_close(1 - p[:, 0], torch.sigmoid(out.at_least[:, 0]), msg="unsafe is severity >= 1")


def test_cut_points_at_the_start() -> None:
    # weights zero: score 0 against cuts (0, ln 2, 2 ln 2), because softplus(0) = ln 2
    heads = ModerationHeads(2)
    torch.nn.init.zeros_(heads.severity.weight)
    torch.nn.init.zeros_(heads.severity.bias)
    ln2 = math.log(2)
    torch.testing.assert_close(heads(torch.ones(1, 2)).at_least, torch.tensor([[0.0, -ln2, -2 * ln2]]))


def test_severity_probabilities_by_hand() -> None:
    # P(>= 1, 2, 3) = (3/4, 1/2, 1/4) -> P(0..3) = 1/4 each; (1/2, 1/2, 1/4) -> (1/2, 0, 1/4, 1/4)
    at_least = torch.tensor([[LN3, 0.0, -LN3], [0.0, 0.0, -LN3]])
    expected = torch.tensor([[0.25, 0.25, 0.25, 0.25], [0.5, 0.0, 0.25, 0.25]])
    torch.testing.assert_close(severity_probabilities(at_least), expected)


def logits(at_least: list[list[float]], category_0: list[float]) -> ModerationLogits:
    """Logits [B, 3] as given and [B, K] with the first category as given, the others 0."""
    categories = torch.zeros(len(category_0), K, dtype=torch.float64)
    categories[:, 0] = torch.tensor(category_0)
    return ModerationLogits(categories.requires_grad_(), torch.tensor(at_least, dtype=torch.float64).requires_grad_())


def known(at_least: list[list[float]], category_0: list[float], weight: list[float]) -> ModerationTargets:
    """Targets that know the given severities and at most the first category."""
    categories = torch.full((len(category_0), K), NAN, dtype=torch.float64)
    categories[:, 0] = torch.tensor(category_0)
    severity, weights = (torch.tensor(x, dtype=torch.float64) for x in (at_least, weight))
    return ModerationTargets(categories, severity, weights)


def test_loss_by_hand_with_unknown_entries_and_weights() -> None:
    # severity: row 1 (weight 1) knows >= 1 = 1 at logit ln 3: ln(4/3)
    #           row 2 (weight 3) knows >= 1 = 0 at logit ln 3: ln 4, and >= 2 = 0 at logit 0: ln 2
    #           (1 ln(4/3) + 3 ln 4 + 3 ln 2) / (1 + 3 + 3)
    # categories: only row 1 knows its first, 0 at logit ln 3: ln 4
    out = logits([[LN3, 0.0, -LN3], [LN3, 0.0, -LN3]], [LN3, 0.0])
    target = known([[1, NAN, NAN], [0, 0, NAN]], [0, NAN], [1, 3])
    severity = (math.log(4 / 3) + 3 * math.log(4) + 3 * math.log(2)) / 7
    assert moderation_loss(out, target).item() == pytest.approx(severity + math.log(4))
    assert moderation_loss(out, target, category_weight=0.5).item() == pytest.approx(severity + 0.5 * math.log(4))


def test_unknown_entries_have_no_gradient() -> None:
    out = logits([[1.0, 0.5, -2.0], [3.0, 0.0, -1.0]], [1.0, 2.0])
    target = known([[1, NAN, NAN], [0, 0, NAN]], [0, NAN], [1, 3])
    slopes = torch.autograd.grad(moderation_loss(out, target), (out.categories, out.at_least))
    for slope, part in zip(slopes, (target.categories, target.at_least), strict=True):
        assert (slope[part.isnan()] == 0).all()
        assert (slope[~part.isnan()] != 0).all()


def test_a_batch_that_knows_nothing_costs_nothing() -> None:
    out = logits([[1.0, 0.0, -1.0]], [5.0])
    loss = moderation_loss(out, known([[NAN, NAN, NAN]], [NAN], [1]))
    assert loss.item() == 0
    slopes: tuple[Tensor, ...] = torch.autograd.grad(loss, (out.categories, out.at_least))
    assert not any(slope.any() for slope in slopes)


def test_a_row_without_weight_teaches_nothing() -> None:
    alone = moderation_loss(logits([[LN3, 0, -1]], [0.0]), known([[1, 0, 0]], [1], [2]))
    both = moderation_loss(logits([[LN3, 0, -1], [9, 9, 9]], [0.0, 9.0]), known([[1, 0, 0], [0, 0, 0]], [1, 0], [2, 0]))
    assert both.item() == pytest.approx(alone.item())
