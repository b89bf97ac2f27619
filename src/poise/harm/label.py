"""The one stored fact about a prompt-response pair: its category set and its severity.

`safe` is derived and never typed in twice: `safe <=> severity == 0 <=> no category` (PKU-SafeRLHF; the
released data breaks it in 8 of 147,814 answers, a `Label` cannot).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from poise.harm.category import Category
from poise.harm.severity import Severity


@dataclass(frozen=True)
class Label:
    """Harm label of one prompt-response pair.

    Args:
        categories: the harm categories that apply; empty when safe.
        severity: 0..3; 0 when safe.

    Raises:
        ValueError: a category without severity, or severity without a category.
    """

    categories: frozenset[Category]
    severity: Severity

    def __post_init__(self) -> None:
        if (self.severity == Severity.NONE) != (not self.categories):
            names = sorted(c.code for c in self.categories)
            raise ValueError(
                f"severity {self.severity.label} with categories {names}: safe means severity none and no category"
            )

    @property
    def safe(self) -> bool:
        """True when nothing harmful was found."""
        return self.severity == Severity.NONE

    @classmethod
    def of(cls, categories: Iterable[object] = (), severity: object = 0) -> Label:
        """Build a label from codes or names and an integer or a level name."""
        return cls(frozenset(Category.parse(c) for c in categories), Severity.parse(severity))


SAFE = Label(frozenset(), Severity.NONE)
"""The label of a harmless pair."""
