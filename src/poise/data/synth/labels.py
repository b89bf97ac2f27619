"""Labels of pairs with the published proportions, built rather than drawn, so that the counts are met to the row.

An unsafe label is a category set and a severity. For each severity the numbers of answers and of each category are
given; some answers carry one category alone, the others at least two. Categories are handed out largest first, each to
the answers that have fewest so far, which is the greedy construction for given degrees (Gale and Ryser); categories
that are published to occur together are handed out together first and kept apart after that. Then labels are put
together to pairs: equal ones, ones that differ in categories, ones that differ in severity, and ones beside a safe
answer.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from poise.data.synth import marginals as m

Labels = NDArray[np.int64]
"""Category sets as bits in card order, plus severity << 19; 0 is safe."""
K = len(m.CATEGORIES)
SEVERITY = K
"""Number of bits that the severity is shifted by."""


class PairLabels(NamedTuple):
    """Labels of the two answers of each published pair, int64 (73907, 2), in groups of like pairs."""

    labels: Labels

    def sample(self, pairs: int) -> Labels:
        """As many pairs as wanted, spread evenly over the published ones: proportions hold to a row or two."""
        published = len(self.labels)
        return self.labels[((np.arange(pairs) + 0.5) * published / pairs).astype(np.int64)]


@cache
def published_pairs() -> PairLabels:
    """The 73,907 pairs."""
    unsafe = np.sort(np.concatenate([_of_severity(level) for level in (1, 2, 3)]))
    equal, rest = _equal_pairs(unsafe, m.SAME)
    severity = rest >> SEVERITY
    moderate, other = rest[severity == 2], rest[severity != 2]
    places = [np.arange(m.OTHER_SEVERITY) * len(group) // m.OTHER_SEVERITY for group in (other, moderate)]
    apart = np.stack([other[places[0]], moderate[places[1]]], axis=1)
    left = np.concatenate([np.delete(other, places[0]), np.delete(moderate, places[1])])
    differing, single = _differing_pairs(np.sort(left), m.OTHER_CATEGORIES)
    mixed = np.stack([np.zeros_like(single), single], axis=1)
    both_safe = (m.ANSWERS[0] - m.MIXED) // 2
    safe = np.zeros((both_safe, 2), dtype=np.int64)
    return PairLabels(np.concatenate([safe, mixed, equal, differing, apart]))


def _of_severity(level: int) -> Labels:
    """The labels of all answers of one severity."""
    counts = np.array([row[level - 1] for row in m.CATEGORIES])
    alone = _alone()[:, level - 1]
    answers = m.ANSWERS[level]
    sets = np.zeros((answers - int(alone.sum()), K), dtype=np.bool_)
    left = counts - alone
    start = 0
    for a, b in m.TOGETHER:
        both = _together(level)[a, b]
        sets[start : start + both, [a, b]] = True
        left[[a, b]] -= both
        start += both
    apart = dict([*m.TOGETHER, *((b, a) for a, b in m.TOGETHER)])
    for category in np.argsort(-left, kind="stable"):
        free = ~sets[:, category]
        if category in apart:
            free &= ~sets[:, apart[int(category)]]
        candidates = np.flatnonzero(free)
        order = np.lexsort((candidates, sets[candidates].sum(axis=1)))
        sets[candidates[order[: left[category]]], category] = True
    bits = np.int64(1) << np.arange(K, dtype=np.int64)
    single = np.repeat(bits, alone)
    return np.concatenate([single, sets @ bits]) | (np.int64(level) << SEVERITY)


@cache
def _alone() -> NDArray[np.int64]:
    """Answers with one category alone, by category and severity, shape (19, 3).

    Severity 1 has 1.4 categories an answer, so it must hold more of them than its share: as many as make the rest
    divide into at least two categories each, and a fifth more.
    """
    counts = np.array([row[:3] for row in m.CATEGORIES])
    total = np.array([round(row[3] * sum(row[:3])) for row in m.CATEGORIES])
    room = np.minimum(counts[:, 0], total)
    needed = 1.2 * (2 * m.ANSWERS[1] - counts[:, 0].sum())
    minor = np.floor(room * min(1.0, needed / room.sum())).astype(np.int64)
    severe = np.floor((total - minor) * counts[:, 2] / (counts[:, 1] + counts[:, 2])).astype(np.int64)
    return np.stack([minor, total - minor - severe, severe], axis=1)


@cache
def _all_together() -> dict[tuple[int, int], NDArray[np.int64]]:
    """(a, b) -> answers with both, by severity, shape (3,): the published share of a, as the severities have room."""
    found = {}
    for (a, b), share in m.TOGETHER.items():
        counts = np.array([m.CATEGORIES[a][:3], m.CATEGORIES[b][:3]]) - _alone()[[a, b]]
        room = counts.min(axis=0)
        wanted = round(share * sum(m.CATEGORIES[a][:3]))
        both = np.minimum(np.floor(wanted * room / room.sum()).astype(np.int64), room)
        for level in np.argsort(-(room - both)):
            both[level] += min(wanted - both.sum(), room[level] - both[level])
        found[a, b] = both
    return found


def _together(level: int) -> dict[tuple[int, int], int]:
    return {pair: int(both[level - 1]) for pair, both in _all_together().items()}


def _equal_pairs(labels: Labels, pairs: int) -> tuple[Labels, Labels]:
    """(pairs of equal labels, the other labels), spread over all labels that occur more than once."""
    values, counts = np.unique(labels, return_counts=True)
    possible = counts // 2
    take = np.floor(possible * pairs / possible.sum()).astype(np.int64)
    for place in np.argsort(-(possible - take), kind="stable")[: pairs - take.sum()]:
        take[place] += 1
    chosen = np.repeat(values, take)
    return np.stack([chosen, chosen], axis=1), np.repeat(values, counts - 2 * take)


def _differing_pairs(labels: Labels, pairs: int) -> tuple[Labels, Labels]:
    """(pairs of one severity and two category sets, the other labels); the labels are sorted."""
    found: list[Labels] = []
    rest: list[Labels] = []
    severity = labels >> SEVERITY
    for level in (1, 2, 3):
        group = labels[severity == level]
        wanted = min(len(group) // 2, round(pairs * len(group) / len(labels)))
        wanted = pairs - sum(len(part) for part in found) if level == 3 else wanted
        half = len(group) // 2
        first, second = group[:half], group[half : 2 * half]
        usable = np.flatnonzero(first != second)
        chosen = usable[(np.arange(wanted) * len(usable) / max(wanted, 1)).astype(np.int64)]
        found.append(np.stack([first[chosen], second[chosen]], axis=1))
        kept = np.ones(len(group), dtype=np.bool_)
        kept[chosen] = kept[chosen + half] = False
        rest.append(group[kept])
    return np.concatenate(found), np.concatenate(rest)
