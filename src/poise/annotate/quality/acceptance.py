"""Acceptance sampling: may a batch of labels be released after a random few of them were checked?

The batch has N items of which an unknown number is wrong; n are drawn without replacement and c of them are wrong. The
upper bound is exact: the largest number of wrong items under which c or fewer would still be seen with probability
above 1 - confidence (Clopper & Pearson 1934, on the hypergeometric distribution instead of the binomial, so that a
batch that was checked whole has no uncertainty left). Left out: how a check is made; it must not see the labels.
"""

from __future__ import annotations

from math import exp, lgamma
from typing import Literal, NamedTuple

from poise.errors import PoiseError


class Decision(NamedTuple):
    """What is to be done with a batch.

    Args:
        action: "accept" when the bound is within the limit; "reject" when more than limit * N are wrong already, so
            that nothing can make it acceptable; else "check more".
        bound: upper bound on the share of wrong items.
        more: items still to be checked for "accept" if no further one is wrong; 0 unless "check more".
    """

    action: Literal["accept", "reject", "check more"]
    bound: float
    more: int


def upper_bound(batch: int, checked: int, errors: int, confidence: float = 0.95) -> float:
    """Upper bound on the share of wrong items in a batch.

    Args:
        batch: N items; checked: n of them, drawn at random; errors: c wrong ones among these.
        confidence: of the one-sided bound.

    Raises:
        PoiseError: counts that cannot be.
    """
    if not 0 <= errors <= checked <= batch or batch < 1 or not 0.0 < confidence < 1.0:
        raise PoiseError(
            f"{errors} errors of {checked} checked in {batch} at confidence {confidence}",
            where="acceptance",
            do="give errors <= checked <= batch, and a confidence between 0 and 1",
        )
    low, high = errors, batch - (checked - errors)  # wrong items that fit what was seen
    while low < high:  # the probability of c or fewer falls as more are wrong
        middle = (low + high + 1) // 2
        if _at_most(errors, batch, middle, checked) > (1.0 - confidence) * (1 + 1e-9):
            low = middle
        else:
            high = middle - 1
    return low / batch


def sample_size(batch: int, limit: float, confidence: float = 0.95, errors: int = 0) -> int:
    """The fewest items to check so that the batch is accepted when at most `errors` of them are wrong.

    Args:
        limit: share of wrong items that is tolerated.

    Raises:
        PoiseError: as `upper_bound`; or more errors than the limit allows in the batch.
    """
    if errors > limit * batch:
        raise PoiseError(
            f"{errors} errors are more than {limit:.3g} of {batch}", where="acceptance", do="raise the limit"
        )
    low, high = errors, batch
    while low < high:  # the bound falls as more are checked
        middle = (low + high) // 2
        if upper_bound(batch, middle, errors, confidence) <= limit:
            high = middle
        else:
            low = middle + 1
    return low


def decide(batch: int, limit: float, checked: int, errors: int, confidence: float = 0.95) -> Decision:
    """Accept, reject or check more; see `Decision`.

    Looking again after each check and stopping at the first "accept" wins a little too often; choose n before.
    """
    bound = upper_bound(batch, checked, errors, confidence)
    if bound <= limit:
        return Decision("accept", bound, 0)
    if errors > limit * batch:
        return Decision("reject", bound, 0)
    return Decision("check more", bound, sample_size(batch, limit, confidence, errors) - checked)


def _at_most(c: int, batch: int, wrong: int, checked: int) -> float:
    """P(at most c wrong ones among those checked), hypergeometric."""
    whole = _log_choose(batch, checked)
    first = max(0, checked - (batch - wrong))
    return sum(
        exp(_log_choose(wrong, k) + _log_choose(batch - wrong, checked - k) - whole)
        for k in range(first, min(c, wrong) + 1)
    )


def _log_choose(n: int, k: int) -> float:
    return lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1)
