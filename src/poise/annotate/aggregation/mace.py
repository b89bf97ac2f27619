"""Each rater either knows the value, or guesses from a distribution of their own.

Source: Hovy, Berg-Kirkpatrick, Vaswani, Hovy, Learning Whom to Trust with MACE, NAACL 2013, section 2: the truth is
uniform; rater j spams with probability 1 - theta_j, and then gives l with probability xi_jl whatever the truth is:

    P(l | t, j) = theta_j [l = t] + (1 - theta_j) xi_jl

"MACE-like": the paper fits by variational Bayes from random restarts and keeps the best; this is EM with pseudo-counts
from the vote shares, which gives the same answer each time.
"""

from __future__ import annotations

import numpy as np

from poise.annotate.aggregation.dawid_skene import ITERATIONS, TOLERANCE
from poise.annotate.aggregation.em import Consensus, Step, expectation_maximisation
from poise.annotate.agreement.ratings import Floats, Ratings

SMOOTHING = 0.1


def mace(
    ratings: Ratings, *, smoothing: float = SMOOTHING, tolerance: float = TOLERANCE, iterations: int = ITERATIONS
) -> Consensus:
    """EM from the vote shares; `quality` is theta_j, the competence.

    Args:
        smoothing: pseudo-count of knowing and of spamming, and of each guessed value.

    Raises:
        PoiseError: no value at all.
    """

    def m_step(counts: Floats, classes: Floats, before: Step | None) -> Step:
        size = counts.shape[1]
        matched = np.diagonal(counts, axis1=1, axis2=2)  # [R, K], given value and truth are k
        if before is None:
            knew = 0.5 * matched
        else:
            tables = np.diagonal(before.confusion, axis1=1, axis2=2)
            knew = matched * np.divide(before.quality[:, None], tables, out=np.zeros_like(tables), where=tables > 0)
        guessed = counts.sum(1) - knew  # [R, K], guesses of value k
        theta = (knew.sum(1) + smoothing) / np.maximum(counts.sum((1, 2)) + 2.0 * smoothing, 1e-300)
        xi = guessed + smoothing
        xi /= np.maximum(xi.sum(1, keepdims=True), 1e-300)
        confusion = theta[:, None, None] * np.eye(size) + ((1.0 - theta)[:, None] * xi)[:, None, :]
        penalty = 0.0
        if smoothing:
            penalty = smoothing * float((np.log(theta) + np.log1p(-theta)).sum() + np.log(xi).sum())
        return Step(confusion, np.full(size, 1.0 / size), theta, penalty)

    return expectation_maximisation(ratings, m_step, tolerance=tolerance, iterations=iterations)
