"""Each rater has a confusion matrix of their own.

Source: Dawid and Skene, Maximum Likelihood Estimation of Observer Error-Rates Using the EM Algorithm, Applied
Statistics 28 (1979). With T_ij = P(truth of item i is j) and n_il^(k) how often rater k gave item i the value l:

    pi_jl^(k) = sum_i T_ij n_il^(k) / sum_l sum_i T_ij n_il^(k)     (2.3)
    p_j = sum_i T_ij / I                                            (2.4)

Smoothing adds a pseudo-count to every cell (a Dirichlet prior), so that a value that a rater never gave is unlikely
and not impossible.
"""

from __future__ import annotations

import numpy as np

from poise.annotate.aggregation.em import Consensus, Step, expectation_maximisation
from poise.annotate.agreement.ratings import Floats, Ratings

SMOOTHING = 0.01
TOLERANCE = 1e-6
ITERATIONS = 200


def dawid_skene(
    ratings: Ratings, *, smoothing: float = SMOOTHING, tolerance: float = TOLERANCE, iterations: int = ITERATIONS
) -> Consensus:
    """EM from the vote shares; `quality` is a rater's expected share of right values, over the truths they met.

    A rater may answer about an item more than once, as in the paper.

    Args:
        smoothing: pseudo-count of each cell of the confusion matrices and of each class; 0 is the paper's.
        tolerance: EM ends when the objective per item rises less.

    Raises:
        PoiseError: no value at all.
    """

    def m_step(counts: Floats, classes: Floats, _before: Step | None) -> Step:
        smooth = counts + smoothing
        total = smooth.sum(2, keepdims=True)
        confusion = np.divide(smooth, total, out=np.full_like(smooth, 1.0 / counts.shape[2]), where=total > 0)
        prior = smoothed_prior(classes, smoothing)
        given = np.maximum(counts.sum((1, 2)), 1e-300)
        quality = np.trace(counts, axis1=1, axis2=2) / given
        penalty = smoothing * float(np.log(confusion).sum() + np.log(prior).sum()) if smoothing else 0.0
        return Step(confusion, prior, quality, penalty)

    return expectation_maximisation(ratings, m_step, tolerance=tolerance, iterations=iterations)


def smoothed_prior(classes: Floats, smoothing: float) -> Floats:
    """[K] class shares with a pseudo-count."""
    smooth = classes + smoothing
    shares: Floats = smooth / smooth.sum()
    return shares
