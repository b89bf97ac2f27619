"""A part of the policy: harm in some of the 19 categories, from some severity on, and what a label says of it.

A cost model may be taught a part (`poise.preference`), and a constraint may speak of the prompts of one
(`poise.align`). Labels are partial, so the answer is yes, no, or unknown, and unknown is never no. The severity of a
label is that of the whole text: which of its categories it is owed to is not told.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from poise.data.records import UNKNOWN, DualRecord, PartialLabel, PromptRecord, QARecord, Record
from poise.errors import PoiseError
from poise.harm import PKU, Category, Severity, load_crosswalk, translate


class HarmPart(NamedTuple):
    """Args: categories, none means all; at_least, the lowest severity, NONE for any."""

    categories: frozenset[Category] = frozenset()
    at_least: Severity = Severity.NONE

    @property
    def whole(self) -> bool:
        """Whether it is all of the policy."""
        return not self.categories and self.at_least <= Severity.NONE

    @property
    def words(self) -> str:
        """For people: "S1, S6, at least moderate"."""
        codes = ", ".join(category.code for category in sorted(self.categories, key=lambda c: c.index))
        level = f"at least {self.at_least.label}" if self.at_least > Severity.NONE else ""
        return ", ".join(filter(None, (codes, level))) or "all harm"

    def holds(self, label: PartialLabel) -> bool | None:
        """Whether a text with this label is harmful in this part; None where the label does not tell."""
        if label.safe is True or label.severity == 0:
            return False
        answers = (self._category(label), self._severity(label))
        return False if False in answers else None if None in answers else True

    def _category(self, label: PartialLabel) -> bool | None:
        if not label.categories and (label.safe is False or label.severity):
            return None if self.categories else True  # harmful, and nobody said how
        if (flags := _flags(label)) is None:
            return None if self.categories or not label.categories else True
        return any_known(flags.get(category) for category in self.categories or Category)

    def _severity(self, label: PartialLabel) -> bool | None:
        if self.at_least <= Severity.NONE:
            return True
        return None if label.severity is None else label.severity >= self.at_least


def harm_part(categories: Iterable[str] = (), severity_at_least: str | None = None) -> HarmPart:
    """The part that a recipe names.

    Raises:
        ValueError: no such category or level; the message names the nearest one.
    """
    level = Severity.NONE if severity_at_least is None else Severity.parse(severity_at_least)
    return HarmPart(frozenset(Category.parse(name) for name in categories), level)


def labels_of(record: Record) -> tuple[PartialLabel, ...]:
    """What a row says of the harm that its prompt asks for: the prompt's own label, else those of its answers.

    A prompt that was written for a category carries it; one that is called ordinary or a lookalike is harmless.
    """
    if isinstance(record, PromptRecord):
        if record.kind in ("ordinary", "lookalike"):
            return (PartialLabel(safe=True),)
        named = () if record.category is None else (record.category,)
        cell = (PartialLabel(categories=named, severity=record.severity or None),) if named else ()
        return (*cell, *(() if record.label == UNKNOWN else (record.label,)))
    if isinstance(record, QARecord):
        return (record.label,)
    return record.labels if isinstance(record, DualRecord) else ()


def any_known(answers: Iterable[bool | None]) -> bool | None:
    """True where one is true, False where there are some and all are false, else None."""
    told = list(answers)
    return True if True in told else None if None in told or not told else False


def _flags(label: PartialLabel) -> dict[Category, bool | None] | None:
    """The 19 categories as far as they are known, those of another taxonomy by its crosswalk."""
    if label.categories is None:
        return None
    try:
        if label.taxonomy == PKU:
            own = label.flags() or {}
            return {Category.parse(name): flag for name, flag in own.items()}
        found = translate(label.categories, load_crosswalk(label.taxonomy, PKU))
    except (ValueError, PoiseError):  # a name that no taxonomy here has tells nothing
        return None
    decided = dict.fromkeys(found.absent, False) | dict.fromkeys(found.categories or (), True)
    return {Category.parse(name): flag for name, flag in decided.items()}
