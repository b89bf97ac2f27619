"""Acceptance sampling: may a batch of labels be used, when a random part of it was checked?

Conventions: `errors` of `checked` labels were wrong, drawn at random without replacement from `batch` labels. Bounds
are one-sided: the true rate exceeds `upper` with a probability of at most 1 - confidence, and so for `lower`.

`clopper_pearson` is for a process (an endless batch). `batch_bounds` counts the batch itself: its limits are whole
numbers of wrong labels, from the hypergeometric distribution, and a batch that was checked whole is known exactly.

Left out: samples that were not drawn at random (`screening` has one), and checkers who err themselves.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

Verdict = Literal["accept", "reject", "check more"]


class Bounds(NamedTuple):
    """A rate of wrong labels in 0..1 with its lower and its upper one-sided bound."""

    rate: float
    lower: float
    upper: float


class Decision(NamedTuple):
    """What to do with a batch.

    `more` is how many further labels to check when the verdict is "check more": with no further wrong one among them
    the batch passes. It is 0 otherwise, and None where even a check of the whole batch without a further wrong label
    could not pass it.
    """

    verdict: Verdict
    bounds: Bounds
    more: int | None


def binomial_cdf(errors: int, checked: int, rate: float) -> float:
    """P(X <= errors) for X ~ Binomial(checked, rate), summed in logarithms.

    Args:
        errors: >= 0; from `checked` on the result is 1. rate: 0..1.
    """
    if errors >= checked or rate <= 0:
        return 1.0
    if rate >= 1:
        return 0.0
    logs = [_log_choose(checked, i) + i * math.log(rate) + (checked - i) * math.log1p(-rate) for i in range(errors + 1)]
    return min(1.0, _sum_exp(logs))


def hypergeometric_cdf(errors: int, checked: int, wrong: int, batch: int) -> float:
    """P(X <= errors), X the wrong labels among `checked` that are drawn from `batch` labels with `wrong` wrong ones.

    It is also the chance that a batch passes a plan that allows `errors`: the plan's operating characteristic.
    """
    first, last = max(0, checked - (batch - wrong)), min(checked, wrong)
    if errors >= last:
        return 1.0
    whole = _log_choose(batch, checked)
    logs = [_log_choose(wrong, i) + _log_choose(batch - wrong, checked - i) - whole for i in range(first, errors + 1)]
    return min(1.0, _sum_exp(logs))


def clopper_pearson(errors: int, checked: int, confidence: float = 0.95) -> Bounds:
    """Exact one-sided bounds of a binomial rate; two of confidence 1 - a/2 make the two-sided interval of 1 - a.

    The upper bound is the rate p with P(X <= errors | p) = 1 - confidence, which is the `confidence` quantile of
    Beta(errors + 1, checked - errors); the lower one has P(X >= errors | p) = 1 - confidence. Found by bisection.

    Returns:
        rate `nan` and bounds 0 and 1 when nothing was checked.

    Raises:
        ValueError: counts or confidence out of range.

    Source: Clopper and Pearson (1934), Biometrika 26(4):404-413.
    """
    _check(errors, checked, checked, confidence)
    if not checked:
        return Bounds(math.nan, 0.0, 1.0)
    tail = 1 - confidence
    upper = 1.0 if errors == checked else _root(lambda p: binomial_cdf(errors, checked, p) > tail)
    lower = 0.0 if errors == 0 else _root(lambda p: 1 - binomial_cdf(errors - 1, checked, p) < tail)
    return Bounds(errors / checked, lower, upper)


def batch_bounds(errors: int, checked: int, batch: int, confidence: float = 0.95) -> Bounds:
    """Exact one-sided bounds of the share of wrong labels in this batch, tighter the more of it was checked.

    The upper bound is the largest D / batch with P(X <= errors | D) > 1 - confidence, the lower one the smallest with
    P(X >= errors | D) > 1 - confidence, X hypergeometric. In small batches they can be wider than those of
    `clopper_pearson` by less than .001.

    Returns, Raises: as `clopper_pearson`.

    Source: Buonaccorsi (1987), The American Statistician 41(3):215-218: test inversion for a finite population.
    """
    _check(errors, checked, batch, confidence)
    if not checked:
        return Bounds(math.nan, 0.0, 1.0)
    tail, most = 1 - confidence, batch - (checked - errors)
    upper = _last(errors, most, lambda d: hypergeometric_cdf(errors, checked, d, batch) > tail)
    below = errors - 1
    if errors and 1 - hypergeometric_cdf(below, checked, errors, batch) <= tail:
        lower = 1 + _last(errors, most, lambda d: 1 - hypergeometric_cdf(below, checked, d, batch) <= tail)
    else:
        lower = errors
    return Bounds(errors / checked, lower / batch, upper / batch)


def sample_size(batch: int, limit: float, errors: int = 0, confidence: float = 0.95) -> int | None:
    """The fewest labels to check so that a batch passes with `errors` wrong ones among them; None: not even with all.

    Args:
        limit: the rate of wrong labels, 0..1, that the batch may have at most.

    Raises:
        ValueError: a number out of range.
    """
    _check(min(errors, batch), batch, batch, confidence)
    if batch < 1 or not 0 <= limit < 1:
        raise ValueError(f"a batch of {batch} and a limit of {limit}: at least 1, and from 0 to below 1")
    if errors / batch > limit:
        return None
    bad = int(limit * batch) + 2  # the fewest wrong labels that are too many
    while bad > 0 and (bad - 1) / batch > limit:
        bad -= 1
    tail = 1 - confidence
    return 1 + _last(errors, batch, lambda n: hypergeometric_cdf(errors, n, bad, batch) > tail)


def decide(errors: int, checked: int, batch: int, limit: float, confidence: float = 0.95, looks: int = 1) -> Decision:
    """Accept where the upper bound is at most `limit`, reject where the lower bound is above it, else check more.

    Args:
        limit: as in `sample_size`.
        looks: how often a decision is taken at most while the sample grows, planned before the first. Each look is
            held to 1 - (1 - confidence) / looks (Bonferroni); looking again without that passes bad batches too often.

    Raises:
        ValueError: a number out of range.
    """
    if looks < 1:
        raise ValueError(f"{looks} looks: there is at least one")
    each = 1 - (1 - confidence) / looks
    bounds = batch_bounds(errors, checked, batch, each)
    needed = sample_size(batch, limit, errors, each)
    if checked and bounds.upper <= limit:
        return Decision("accept", bounds, 0)
    if checked and bounds.lower > limit:
        return Decision("reject", bounds, 0)
    return Decision("check more", bounds, None if needed is None else needed - checked)


def _check(errors: int, checked: int, batch: int, confidence: float) -> None:
    if not 0 <= errors <= checked <= batch:
        raise ValueError(f"{errors} errors of {checked} checked of {batch}: each must be in 0..the next")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence {confidence} is not between 0 and 1")


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def _sum_exp(logs: list[float]) -> float:
    if not logs:
        return 0.0
    top = max(logs)
    return math.exp(top) * math.fsum(math.exp(log - top) for log in logs)


def _root(below: Callable[[float], bool]) -> float:
    """Where `below` turns from true to false in 0..1."""
    low, high = 0.0, 1.0
    while (middle := (low + high) / 2) not in (low, high):
        low, high = (middle, high) if below(middle) else (low, middle)
    return high


def _last(low: int, high: int, true: Callable[[int], bool]) -> int:
    """The last of low..high for which `true`, which holds at `low` and turns false once."""
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if true(middle) else (low, middle - 1)
    return low
