"""Moderation heads: ordinal severity that can't contradict itself."""

from __future__ import annotations

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from poise.models.heads import LEVELS, K, ModerationHeads

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


def test_cut_points_at_the_start() -> None:
    # weights zero: score 0 against cuts (0, ln 2, 2 ln 2), because softplus(0) = ln 2
    heads = ModerationHeads(2)
    torch.nn.init.zeros_(heads.severity.weight)
    torch.nn.init.zeros_(heads.severity.bias)
    ln2 = math.log(2)
    torch.testing.assert_close(heads(torch.ones(1, 2)).at_least, torch.tensor([[0.0, -ln2, -2 * ln2]]))
