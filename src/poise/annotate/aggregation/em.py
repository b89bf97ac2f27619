"""Expectation-maximisation over the true value of each item, for all models of raters that have a confusion table.

Dawid-Skene, one coin and MACE differ only in how a rater's table P(value | truth) is made of expected counts; the rest
is here. One iteration is gathers and `bincount` on flat arrays, and items with the same answers of the same raters are
one item with a weight. Source of the E-step: Dawid and Skene 1979, equation 2.5, in logarithms:

    log p(T_j | answers) = log p_j + sum over answers (k, l) of log pi^(k)_jl  - log of the sum over j
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from poise.annotate.agreement.patterns import distinct
from poise.annotate.agreement.ratings import Floats, Ints, Ratings
from poise.errors import PoiseError

_FEW_CELLS = 20
"""Raters times values for which every answer of an item can have a bit of its own."""


class Step(NamedTuple):
    """What an M-step makes of expected counts.

    Args:
        confusion: [R, K, K] P(value | truth) of each rater, rows sum to one.
        prior: [K] of the truth.
        quality: [R] the model's own measure of a rater.
        penalty: log prior density of the parameters, up to a constant, so that the objective never falls.
    """

    confusion: Floats
    prior: Floats
    quality: Floats
    penalty: float


MStep = Callable[[Floats, Floats, Step | None], Step]
"""(expected counts [R, truth, value], expected items [truth], the step before) -> parameters."""


@dataclass(frozen=True)
class Consensus:
    """One value for each item, and how good the raters are.

    Args:
        posterior: [I, K] P(truth); NaN for items that nobody judged.
        prior: [K] P(truth) over items.
        confusion: [R, K, K] P(value | truth); NaN where a rater gave no value.
        quality: [R] share of values that are right (majority, Dawid-Skene), or what the model calls it.
        iterations: of EM; 0 for majority.
        converged: the objective stood still.
        objective: mean over items of log-likelihood plus log prior; NaN for majority.
    """

    posterior: Floats
    prior: Floats
    confusion: Floats
    quality: Floats
    iterations: int
    converged: bool
    objective: float

    def choice(self, threshold: float = 0.0) -> Ints:
        """[I] the likeliest value; -1 where nobody judged, two are equally likely, or it is below the threshold."""
        best, most, second = (np.zeros(len(self.posterior), kind) for kind in (np.int64, float, float))
        for value, column in enumerate(np.nan_to_num(self.posterior, nan=0.0).T):
            better = column > most
            second = np.where(better, most, np.maximum(second, column))
            best[better] = value
            most = np.where(better, column, most)
        return np.where((most <= 0.0) | (most - second <= 1e-9) | (most < threshold), -1, best)


def expectation_maximisation(ratings: Ratings, m_step: MStep, *, tolerance: float, iterations: int) -> Consensus:
    """Run EM from the vote shares until the objective per item rises less than `tolerance`.

    Raises:
        PoiseError: no value at all.
    """
    if not len(ratings.item):
        raise PoiseError("no judgement to aggregate", do="see that the question was answered by the raters you kept")
    raters, size = len(ratings.raters), len(ratings.values)
    cells, weight, back = _compressed(ratings)
    totals = _sums(cells, np.broadcast_to(weight, (1, len(weight))), raters * size)[0]
    posterior = _first_shares(cells, len(weight), size)
    step: Step | None = None
    before, objective, converged, done = -np.inf, -np.inf, False, 0
    for _ in range(iterations):
        done += 1
        weighted = posterior * weight
        counts = np.empty((size, raters * size))
        counts[1:] = _sums(cells, weighted[1:], raters * size)
        counts[0] = np.maximum(totals - counts[1:].sum(0), 0.0)
        by_rater = counts.reshape(size, raters, size).transpose(1, 0, 2)
        step = m_step(by_rater, weighted.sum(1), step)
        posterior, likelihood = _posterior(step, cells, len(weight))
        objective = (float((likelihood * weight).sum()) + step.penalty) / float(weight.sum())
        converged = objective - before < tolerance
        before = objective
        if converged:
            break
    if step is None:
        raise PoiseError(f"{iterations} iterations", do="allow at least one")
    full = np.where(back >= 0, posterior[:, back], np.nan).T
    silent = np.bincount(ratings.rater, minlength=raters) == 0
    confusion, quality = step.confusion.copy(), step.quality.copy()
    confusion[silent], quality[silent] = np.nan, np.nan
    return Consensus(full, step.prior, confusion, quality, done, converged, objective)


def vote_shares(item: Ints, value: Ints, items: int, size: int) -> Floats:
    """[items, K] share of each value among an item's; 0 where it has none."""
    votes = np.bincount(item * size + value, minlength=items * size).reshape(items, size).astype(float)
    shares: Floats = votes / np.maximum(votes.sum(1, keepdims=True), 1.0)
    return shares


def _sums(cells: list[Ints], weighted: Floats, length: int) -> Floats:
    """[T, length] for each row of weights [T, P] the sum over answers, by cell."""
    out = np.zeros((len(weighted), length))
    for t, row in enumerate(weighted):
        for place in cells:
            out[t] += np.bincount(place, row[: len(place)], minlength=length)
    return out


def _first_shares(cells: list[Ints], patterns: int, size: int) -> Floats:
    """[K, P] vote shares."""
    votes = np.zeros((size, patterns))
    for place in cells:
        votes[place % size, np.arange(len(place))] += 1.0
    shares: Floats = votes / votes.sum(0)
    return shares


def _posterior(step: Step, cells: list[Ints], patterns: int) -> tuple[Floats, Floats]:
    """[K, P] P(truth | answers) and [P] log-likelihood of each pattern of answers."""
    with np.errstate(divide="ignore"):
        table, prior = np.log(step.confusion), np.log(step.prior)
    joint = np.empty((len(prior), patterns))
    for t, total in enumerate(joint):
        total[:] = prior[t]
        flat = np.ascontiguousarray(table[:, t, :]).ravel()
        for place in cells:
            total[: len(place)] += flat[place]
    most = joint.max(0)
    odds = np.exp(joint - most)
    total = odds.sum(0)
    return odds / total, most + np.log(total)


def _compressed(ratings: Ratings) -> tuple[list[Ints], Floats, Ints]:
    """Patterns of answers, those with most answers first.

    Patterns of few raters are told apart exactly, by one bit an answer; those of many by a 64-bit sum of hashes of
    their answers: for a million of them the chance that any two are confused is about 3 in 100 million.

    Returns:
        For the first, second, ... answer: rater * K + value of all patterns that have one, which are the first so many;
        the weights [P]; the pattern of each item, or -1.
    """
    cell = ratings.rater * len(ratings.values) + ratings.value
    starts = np.flatnonzero(np.diff(ratings.item, prepend=-1))
    once = len(cell) < 2 or int(np.diff(ratings.item * len(ratings.raters) + ratings.rater).min()) > 0
    few = once and len(ratings.raters) * len(ratings.values) <= _FEW_CELLS
    keys = np.add.reduceat(1 << cell if few else _mixed(cell), starts)
    first, inverse, many = distinct(keys) if few else _coded(keys)
    sizes = np.diff(starts, append=len(cell))[first]
    order = np.argsort(-sizes, kind="stable")
    begin, sizes = starts[first][order], sizes[order]
    cells = [cell[begin[: int((sizes > place).sum())] + place] for place in range(int(sizes[0]))]
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    back = np.full(ratings.items, -1, np.int64)
    back[ratings.item[starts]] = rank[inverse]
    return cells, many[order].astype(float), back


def _coded(keys: np.ndarray[tuple[int], np.dtype[np.uint64]]) -> tuple[Ints, Ints, Ints]:
    """As `distinct`, in the order in which the keys come: a hash table in place of a sort."""
    inverse = pa.array(keys).dictionary_encode().indices.to_numpy().astype(np.int64)
    many = np.bincount(inverse)
    first = np.empty(len(many), np.int64)
    first[inverse[::-1]] = np.arange(len(inverse))[::-1]  # the last to be written is the first that stands there
    return first, inverse, many


def _mixed(cell: Ints) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    """The finalizer of splitmix64, so that sums of its values do not collide."""
    x = (cell.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
