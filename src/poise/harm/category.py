"""What kind of harm: the 19 categories of PKU-SafeRLHF, in card order and spelling."""

from __future__ import annotations

from enum import Enum


class Category(Enum):
    """One of the 19 harm categories; the value is its name in the public data set."""

    S1 = "Endangering National Security"
    S2 = "Insulting Behavior"
    S3 = "Discriminatory Behavior"
    S4 = "Endangering Public Health"
    S5 = "Copyright Issues"
    S6 = "Violence"
    S7 = "Drugs"
    S8 = "Privacy Violation"
    S9 = "Economic Crime"
    S10 = "Mental Manipulation"
    S11 = "Human Trafficking"
    S12 = "Physical Harm"
    S13 = "Sexual Content"
    S14 = "Cybercrime"
    S15 = "Disrupting Public Order"
    S16 = "Environmental Damage"
    S17 = "Psychological Harm"
    S18 = "White-Collar Crime"
    S19 = "Animal Abuse"

    @property
    def code(self) -> str:
        """Short code, S1..S19."""
        return self.name

    @property
    def index(self) -> int:
        """Position 0..18 in card order: the K axis of every category tensor."""
        return int(self.name[1:]) - 1

    @classmethod
    def parse(cls, value: object) -> Category:
        """Read a category from its code (`"S6"`) or its public name (`"Violence"`), case-insensitively.

        Raises:
            ValueError: the value names no category; the message names the nearest one.
        """
        if isinstance(value, Category):
            return value
        text = str(value).strip()
        for category in cls:
            if text.casefold() in (category.name.casefold(), category.value.casefold()):
                return category
        from difflib import get_close_matches

        near = get_close_matches(text, [c.value for c in cls] + [c.name for c in cls], n=1, cutoff=0.4)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"{text!r} is no harm category{hint}")


CATEGORIES: tuple[Category, ...] = tuple(Category)
"""All categories in card order; K = 19."""
