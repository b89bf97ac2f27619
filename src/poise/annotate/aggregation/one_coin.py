"""Each rater has one number: how often they are right; wrong values are all equally likely.

The symmetric special case of Dawid-Skene ("homogenous"/"one-coin": Zhang, Chen, Zhou, Jordan, Spectral Methods meet EM,
JMLR 17 (2016), section 2.2), with few parameters for raters who judged little:

    P(l | j, rater k) = p_k if l = j else (1 - p_k) / (K - 1),    p_k = sum of T_i,l_ik / answers of k
"""

from __future__ import annotations

import math

import numpy as np

from poise.annotate.aggregation.dawid_skene import ITERATIONS, SMOOTHING, TOLERANCE, smoothed_prior
from poise.annotate.aggregation.em import Consensus, Step, expectation_maximisation
from poise.annotate.agreement.ratings import Floats, Ratings


def one_coin(
    ratings: Ratings, *, smoothing: float = SMOOTHING, tolerance: float = TOLERANCE, iterations: int = ITERATIONS
) -> Consensus:
    """EM from the vote shares; `quality` is p_k.

    Args:
        smoothing: pseudo-count of right and of wrong values of each rater, and of each class.

    Raises:
        PoiseError: no value at all.
    """

    def m_step(counts: Floats, classes: Floats, _before: Step | None) -> Step:
        size = counts.shape[1]
        right, given = np.trace(counts, axis1=1, axis2=2), counts.sum((1, 2))
        p = (right + smoothing) / np.maximum(given + 2.0 * smoothing, 1e-300)
        p = np.where(given + smoothing > 0, p, 0.5)
        if size == 1:
            p = np.ones_like(p)
        wrong = (1.0 - p) / max(size - 1, 1)
        confusion = np.where(np.eye(size, dtype=bool), p[:, None, None], wrong[:, None, None])
        prior = smoothed_prior(classes, smoothing)
        penalty = 0.0
        if smoothing and size > 1:
            penalty = smoothing * float((np.log(p) + np.log(1.0 - p)).sum() + np.log(prior).sum())
        return Step(confusion, prior, p, penalty if math.isfinite(penalty) else 0.0)

    return expectation_maximisation(ratings, m_step, tolerance=tolerance, iterations=iterations)
