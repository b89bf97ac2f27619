"""A cost model that speaks of a part of the policy: what a row says of that part alone.

"Unsafe" then means harmful in one of the part's categories, at its severity. A label that does not tell is unknown, and
teaches no sign: unknown is not safe. Which of two answers is safer was judged over all harm, so it does not carry over:
of two answers that are both in the part, or both outside it, the order may be about something else, and is left out.
Of a judged pair whose answers differ in the part, the one outside is the safer one, whatever was said of all harm.
"""

from __future__ import annotations

from collections import Counter

from poise.data.harm_part import HarmPart
from poise.data.records import UNKNOWN, PartialLabel
from poise.preference.facts import Fact


def about(fact: Fact, part: HarmPart, dropped: Counter[str]) -> Fact | None:
    """The same row, saying nothing but what it says of a part; None where that is nothing, not about help either.

    Args:
        dropped: labels and orders that are left out are counted here.
    """
    if part.whole:
        return fact
    told = [part.holds(label) for label in fact.labels]
    for answer, label in zip(told, fact.labels, strict=True):
        if answer is None and label.safe is not None:
            dropped["labels that do not tell of the cost model's part"] += 1
    safer = None
    if fact.safer is not None:
        if None in told or told[0] == told[1]:
            dropped["orders of two answers alike in the cost model's part, or not known to differ"] += 1
        else:
            safer = int(bool(told[0]))
    labels = tuple(_label(answer, label) for answer, label in zip(told, fact.labels, strict=True))
    if fact.better is None and safer is None and all(label.safe is None for label in labels):
        return None
    return fact._replace(safer=safer, labels=labels)


def _label(holds: bool | None, label: PartialLabel) -> PartialLabel:
    """Outside the part a text is as safe as any other there; inside it keeps its categories and severity."""
    if holds is None:
        return UNKNOWN
    return label.model_copy(update={"safe": False}) if holds else PartialLabel(safe=True)
