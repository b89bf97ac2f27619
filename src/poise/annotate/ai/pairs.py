"""Ranking a pair: asked in both orders, decided only where both answers agree.

Models favour a place (first or second) whatever stands there. Asked in both orders, such a choice flips: it names
another response each time, and is a tie or goes to a person, never a pick. Where exactly one response is known to be
safe, `safer` follows from the logical order and no model is asked. Two equal texts are a tie without asking.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from poise.annotate.ai.rubrics import Axis
from poise.annotate.ai.verdicts import Verdict
from poise.data.records import DualRecord, PartialLabel, SingleRecord
from poise.harm import decided_safer

Flips = Literal["tie", "person"]
"""What becomes of a flip."""

SAME_TEXT, BY_ORDER = "same text", "logical order"
"""Why a pair is not asked about."""
FLIPPED: dict[Flips, str] = {"tie": "flipped", "person": "flipped: for a person"}
"""Reasons for which a pair has no choice although nothing failed."""


class Ranking(NamedTuple):
    """Both answers about a pair, put together.

    Args:
        value: response id chosen, None where there is none.
        probability: of the response chosen.
        probability_0: of response 0, also where none was chosen.
        reason: why there is no choice.
        flipped: the two answers name different responses.
    """

    value: int | None
    probability: float | None = None
    probability_0: float | None = None
    reason: str | None = None
    flipped: bool = False


def combine(verdicts: tuple[Verdict, Verdict], flips: Flips = "tie") -> Ranking:
    """What two answers say together.

    P(response 0) is the mean over both orders of the probability that stands where response 0 was shown; None when one
    of the two is unknown.

    Args:
        verdicts: with response 0 shown first, and with response 1 shown first.
    """
    first, second = verdicts
    for order, verdict in enumerate(verdicts):
        if verdict.choice is None:
            return Ranking(None, reason=f"order {order}: {verdict.reason}")
    likely = None
    if first.probabilities is not None and second.probabilities is not None:
        likely = (first.probabilities[0] + second.probabilities[1]) / 2
    chosen = first.choice
    if second.choice == chosen:  # the same place is the other response
        return Ranking(None, probability_0=likely, reason=FLIPPED[flips], flipped=True)
    probability = likely if chosen == 0 or likely is None else 1 - likely
    return Ranking(chosen, probability, likely)


class _Known(NamedTuple):
    safe: bool


def known_safer(record: SingleRecord, axis: Axis) -> int | None:
    """The response that the logical order makes safer, where the row's own labels say that exactly one is safe."""
    if axis != "safer" or not isinstance(record, DualRecord):
        return None
    first, second = map(_known_safe, record.labels)
    return None if first is None or second is None else decided_safer(_Known(first), _Known(second))


def _known_safe(label: PartialLabel) -> bool | None:
    """The safe flag, unless the label contradicts it."""
    if label.safe is None:
        return None
    harmful = bool(label.severity) or bool(label.categories)
    denied = label.severity == 0 or label.categories == ()
    return None if (label.safe and harmful) or (not label.safe and denied) else label.safe


@dataclass
class AxisCounts:
    """How the pairs of one axis ended.

    Args:
        pairs: all of them.
        by_order: decided by the logical order.
        agreed, flipped: of those with two answers.
        first, answers: answers that chose the response shown first, of all answers to these.
        unjudged: reason -> pairs without two answers.
    """

    pairs: int = 0
    by_order: int = 0
    agreed: int = 0
    flipped: int = 0
    first: int = 0
    answers: int = 0
    unjudged: Counter[str] = field(default_factory=Counter)

    def settle(self, reason: str) -> None:
        """Count a pair that was not asked about."""
        self.pairs += 1
        if reason == BY_ORDER:
            self.by_order += 1
        else:
            self.unjudged[reason] += 1

    def add(self, verdicts: tuple[Verdict, Verdict], ranking: Ranking) -> None:
        """Count a pair that was asked about."""
        self.pairs += 1
        choices = [verdict.choice for verdict in verdicts if verdict.choice is not None]
        self.answers += len(choices)
        self.first += choices.count(0)
        if len(choices) < 2:
            self.unjudged[ranking.reason or "unknown"] += 1
        elif ranking.flipped:
            self.flipped += 1
        else:
            self.agreed += 1

    def to_json(self) -> dict[str, Any]:
        """All counts; `flip_rate` of the pairs with two answers and `first_rate` of the answers (one half when the
        place decides nothing), None where there are none."""
        both = self.agreed + self.flipped
        return {
            "pairs": self.pairs,
            "by_order": self.by_order,
            "agreed": self.agreed,
            "flipped": self.flipped,
            "flip_rate": self.flipped / both if both else None,
            "first_rate": self.first / self.answers if self.answers else None,
            "unjudged": dict(self.unjudged.most_common()),
        }
