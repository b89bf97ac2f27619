"""PeCAN: MoCAN without reward and cost models (Huang et al., arXiv 2405.19544, algorithm 2).

Two DPO models, one of the helpfulness order and one of the harmlessness order, both from the reference, stand in for
them: a DPO model is a reward model up to a term of the prompt alone,

    R^(x, y) = beta log pi_r(y | x) / pi_ref(y | x),     C^(x, y) = -beta log pi_g(y | x) / pi_ref(y | x).

That term of the prompt shifts D but not its minimum in R^; in C^ it would shift the constraint, so the cost is taken
relative to the reference's mean (which adds the paper's beta KL(pi_ref || pi_g)). Then as in `mocan`: `solve_dual`,
`pseudo_labels`, DPO.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from poise.align.algorithms.mocan import relative_to_reference


class PairOfScores(NamedTuple):
    """Args: reward, cost float[N, M] for `mocan.solve_dual`; reward higher is better, cost higher is worse."""

    reward: Tensor
    cost: Tensor


def implicit_scores(helpful: Tensor, harmless: Tensor, reference: Tensor, beta: float = 0.1) -> PairOfScores:
    """R^ and C^ of M responses that the reference wrote to each of N prompts.

    Args:
        helpful, harmless, reference: log pi(y | x) float[N, M] under the two DPO models and the reference.
        beta: that of both DPO runs.
    """
    return PairOfScores(beta * (helpful - reference), relative_to_reference(-beta * (harmless - reference)))
