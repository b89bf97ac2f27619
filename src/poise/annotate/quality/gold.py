"""Answers to items whose answer is known: right, nearly right or wrong, and when the known answer is to be doubted.

A label is exact when categories and severity are; it is near when the categories are and the severity is off by one. A
choice is exact when it is the same; its strength counts for nothing. Null is unjudged: neither right nor wrong.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from poise.annotate.quality.policy import QualityPolicy
from poise.metrics import Interval, wilson_interval

Grade = Literal["exact", "near", "wrong", "unjudged"]


def grade(known: Mapping[str, Any], given: Mapping[str, Any] | None) -> Grade:
    """How an answer compares with the known one; both in the store's form."""
    if given is None:
        return "unjudged"
    if "choice" in known:
        return "exact" if given["choice"] == known["choice"] else "wrong"
    if set(given["categories"]) != set(known["categories"]):
        return "wrong"
    off = abs(given["severity"] - known["severity"])
    return ("exact", "near", "wrong", "wrong")[off]


def safety_right(known: Mapping[str, Any], given: Mapping[str, Any]) -> bool:
    """Whether a label says safe or harmful as the known one does."""
    return bool((known["severity"] == 0) == (given["severity"] == 0))


@dataclass(frozen=True)
class Tally:
    """A rater's grades on gold."""

    exact: int = 0
    near: int = 0
    wrong: int = 0
    unjudged: int = 0

    @classmethod
    def of(cls, grades: Iterable[Grade]) -> Tally:
        """Count them."""
        listed = list(grades)
        return cls(*(listed.count(name) for name in ("exact", "near", "wrong", "unjudged")))

    @property
    def judged(self) -> int:
        """Answers that say something."""
        return self.exact + self.near + self.wrong

    def accuracy(self, level: float = 0.95) -> Interval:
        """Share of exact answers with its Wilson interval."""
        return wilson_interval(self.exact, self.judged, level)

    def partial(self) -> float | None:
        """The same with half a point for a severity that is off by one; None without answers."""
        return (self.exact + self.near / 2) / self.judged if self.judged else None

    def good(self, policy: QualityPolicy) -> bool:
        """Whether this rater's word can put a gold answer in doubt."""
        return self.judged >= policy.good_answers and self.exact >= policy.good_accuracy * self.judged


class Doubt(NamedTuple):
    """One rater's answer to a gold item: its grade, and the rater's tally on all other gold items."""

    grade: Grade
    others: Tally


def doubted(answers: Iterable[Doubt], policy: QualityPolicy) -> bool:
    """Whether enough good raters have answered and most of them differ from the known answer.

    The item itself is left out of who is good, so that a wrong key cannot silence those who see that it is wrong.
    """
    grades = [a.grade for a in answers if a.grade != "unjudged" and a.others.good(policy)]
    return len(grades) >= policy.doubters and 2 * sum(g != "exact" for g in grades) > len(grades)
