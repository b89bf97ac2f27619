"""SACPO: stepwise alignment for constrained policies (Wachi et al., arXiv 2404.11049).

    pi_r  = argmax E[R] - beta KL(pi || pi_SFT)                    DPO on the helpfulness order, reference SFT
    pi_*  = argmax E[-C] - (beta / lambda) KL(pi || pi_r)          DPO on the harmlessness order, reference pi_r

The policy of the Lagrangian, pi_SFT exp((R - lambda C) / beta), factors into these two steps (theorem 1), so each is
plain DPO. Lambda is a constant of the second step; the paper tries beta / lambda in {.1, .05, .025, .01}. P-SACPO
merges the weights of the two steps, (1 - w) pi_r + w pi_*, which moves along the frontier without training again.

The other order (safety first) is the same code with the labels exchanged; it is not offered as an option.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from poise.align.algorithms.dpo import DPO


class Step(NamedTuple):
    """One DPO run. Args: label, which order makes `chosen`; reference, whose log-probabilities; loss, with its beta."""

    label: Literal["better", "safer"]
    reference: Literal["start", "helpful"]
    loss: DPO


class SACPO(NamedTuple):
    """Constants. Args: beta > 0 of the first step; multiplier is lambda > 0, so that the second has beta / lambda."""

    beta: float = 0.1
    multiplier: float = 4.0

    @property
    def steps(self) -> tuple[Step, Step]:
        """The two runs, in order; the policy of the second starts from the first, which is its reference too."""
        return (
            Step("better", "start", DPO(self.beta)),
            Step("safer", "helpful", DPO(self.beta / self.multiplier)),
        )


def merged(helpful: Mapping[str, Tensor], safe: Mapping[str, Tensor], weight: float) -> dict[str, Tensor]:
    """P-SACPO: (1 - weight) x step 1 + weight x step 2, tensor by tensor; 0 and 1 give the ends exactly.

    For adapters give the merged matrices, not the factors: a mean of factors is not the factor of a mean.

    Args:
        helpful, safe: state dicts with the same names and shapes; tensors that are not floating must be equal.
        weight: 0..1; the paper uses .25, .5, .75.

    Raises:
        ValueError: names or shapes differ, or the weight is outside 0..1.
    """
    if not 0 <= weight <= 1:
        raise ValueError(f"the merge weight is {weight}; it lies between 0 (helpful) and 1 (safe)")
    shapes = [{name: tensor.shape for name, tensor in state.items()} for state in (helpful, safe)]
    if shapes[0] != shapes[1]:
        odd = sorted(name for name, _ in shapes[0].items() ^ shapes[1].items())
        raise ValueError(f"the two steps are of different models: {odd[0]} differs")
    out = {}
    for name, first in helpful.items():
        if not first.is_floating_point() and not torch.equal(first, safe[name]):
            raise ValueError(f"{name} holds whole numbers that differ, they can't be merged")
        out[name] = torch.lerp(first, safe[name], weight) if first.is_floating_point() else first.clone()
    return out
