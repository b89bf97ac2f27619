"""The grid of category x severity x source, with a quota for each cell and what is there already.

The paper's prompts come from three sources (22 % from BeaverTails, 64 % and 14 % from two models) and are spread over
all categories and severities; a quota says how many a cell is to hold, a share how many of them a source brings.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

from poise.harm import Category, Severity


class Cell(NamedTuple):
    """One cell of the grid of prompts; severity none is a harmless prompt that looks like the category."""

    category: Category
    severity: Severity

    @property
    def name(self) -> str:
        """For example "S6-minor"."""
        return f"{self.category.code}-{self.severity.label}"


def apportion(total: int, shares: Mapping[str, float]) -> dict[str, int]:
    """Split a number by shares that sum to one: largest remainders, ties to the share named first."""
    exact = {name: total * share for name, share in shares.items()}
    found = {name: int(value + 1e-9) for name, value in exact.items()}
    order = sorted(shares, key=lambda name: found[name] - exact[name])
    for name in order[: total - sum(found.values())]:
        found[name] += 1
    return found


class Grid:
    """Quotas and counts.

    Args:
        quotas: cell -> prompts wanted.
        shares: source -> share of each cell's quota; sum to one.
    """

    def __init__(self, quotas: Mapping[Cell, int], shares: Mapping[str, float]) -> None:
        self.quotas = dict(quotas)
        self.sources = tuple(shares)
        self._wanted: dict[tuple[Cell, str], int] = {}
        carried = dict.fromkeys(shares, 0.0)
        for cell, quota in self.quotas.items():  # small quotas: what one cell rounds away the next one gets
            owed = {name: max(0.0, quota * share + carried[name]) for name, share in shares.items()}
            total = sum(owed.values())
            parts = apportion(quota, {name: value / total if total else 0.0 for name, value in owed.items()})
            for name, share in shares.items():
                carried[name] += quota * share - parts[name]
                self._wanted[cell, name] = parts[name]
        self.have: Counter[tuple[Cell, str]] = Counter()

    def wanted(self, cell: Cell, source: str) -> int:
        """How many prompts of a source a cell is to hold."""
        return self._wanted.get((cell, source), 0)

    def missing(self, cell: Cell, source: str) -> int:
        """How many of them are not there yet."""
        return max(0, self.wanted(cell, source) - self.have[cell, source])

    def emptiest(self, source: str) -> list[Cell]:
        """Cells in which the source still owes prompts, the emptiest first (by share of the quota), then as given."""
        cells = [cell for cell in self.quotas if self.missing(cell, source)]
        return sorted(cells, key=lambda cell: self.filled(cell) / self.quotas[cell])

    def filled(self, cell: Cell) -> int:
        """Prompts in a cell, of all sources."""
        return sum(self.have[cell, source] for source in self.sources)

    def add(self, cell: Cell, source: str) -> bool:
        """Count a prompt; false when the source's part of the cell is full, and then it is not counted."""
        if not self.missing(cell, source):
            return False
        self.have[cell, source] += 1
        return True

    def hand_over(self, source: str, heirs: Mapping[str, float]) -> None:
        """Let other sources bring what this one still owes, by their shares; for a source that has no more."""
        total = sum(heirs.values())
        for cell in self.quotas:
            if total and (left := self.missing(cell, source)):
                self._wanted[cell, source] -= left
                for heir, more in apportion(left, {name: share / total for name, share in heirs.items()}).items():
                    self._wanted[cell, heir] += more

    @property
    def full(self) -> bool:
        """Nothing is missing."""
        return not any(self.missing(cell, source) for cell in self.quotas for source in self.sources)

    def table(self) -> list[dict[str, object]]:
        """One row a cell: its name, quota, and what each source has brought."""
        return [
            {"cell": cell.name, "quota": quota, "have": self.filled(cell)}
            | {source: self.have[cell, source] for source in self.sources}
            for cell, quota in self.quotas.items()
        ]
