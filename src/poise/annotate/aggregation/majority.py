"""The most frequent value of each item; a tie stays undecided."""

from __future__ import annotations

import numpy as np

from poise.annotate.aggregation.em import Consensus, vote_shares
from poise.annotate.agreement.ratings import Floats, Ratings


def majority(ratings: Ratings) -> Consensus:
    """Vote shares as posterior; `Consensus.choice` leaves ties at -1.

    A rater's confusion and quality are counted against the vote shares, their own vote included.
    """
    size = len(ratings.values)
    shares = vote_shares(ratings.item, ratings.value, ratings.items, size)
    counts = expected_counts(ratings, shares)
    with np.errstate(invalid="ignore", divide="ignore"):
        confusion = counts / counts.sum(2, keepdims=True)
        quality = np.trace(counts, axis1=1, axis2=2) / counts.sum((1, 2))
    judged = ratings.per_item > 0
    prior = shares[judged].mean(0) if judged.any() else np.full(size, np.nan)
    return Consensus(np.where(judged[:, None], shares, np.nan), prior, confusion, quality, 0, True, float("nan"))


def expected_counts(ratings: Ratings, posterior: Floats) -> Floats:
    """[R, truth, value] how often a rater gave a value, in expectation for each truth."""
    size, raters = len(ratings.values), len(ratings.raters)
    cell = ratings.rater * size + ratings.value
    tables = [np.bincount(cell, posterior[ratings.item, t], minlength=raters * size) for t in range(size)]
    return np.stack([table.reshape(raters, size) for table in tables], axis=1)
