"""How an audit is put into words, for the terminal and for the page."""

from __future__ import annotations

from typing import Any

from poise.data.audit.shares import Json

MISSING = "not in this data"
LEVELS = {"0": "none", "1": "minor", "2": "moderate", "3": "severe"}

PROBES = {
    "longer_is_better": "the longer one is better",
    "longer_is_safer": "the longer one is safer",
    "longer_is_single": "the longer one is the overall choice",
    "first_is_better": "response 0 is better",
    "first_is_safer": "response 0 is safer",
    "first_is_single": "response 0 is the overall choice",
    "disclaimer_is_better_of_two_unsafe": "of two unsafe, the one with a disclaimer is better",
    "disclaimer_is_safer_of_two_unsafe": "of two unsafe, the one with a disclaimer is safer",
    "refusals_among_unsafe": "unsafe answers that begin like a refusal",
}
SINGLE = {
    "follows_better": "where better and safer differ, it follows better",
    "follows_safer": "where better and safer differ, it follows safer",
    "picks_safe_at_boundary": "where they differ and one is safe, it picks the safe one",
    "contradicts_both": "where better and safer agree, it is the other one",
}
"""The overall choice, beside better and safer."""
STATES = {"both_safe": "both safe", "mixed": "one safe, one not", "both_unsafe": "both unsafe"}


def number(value: int | None) -> str:
    """A count, or that it is not known."""
    return MISSING if value is None else f"{value:,}"


def percent(found: Json | None) -> str:
    """A share as text."""
    return MISSING if found is None else f"{found['share']:.1%}"


def counted(found: Json | None) -> str:
    """A share with its parts."""
    return MISSING if found is None else f"{found['share']:.1%} ({found['count']:,} of {found['of']:,})"


def broken(found: Json | None) -> str:
    """Violations among what could be compared."""
    return MISSING if found is None else f"{found['count']:,} of {found['of']:,}"


def decimal(value: float | None) -> str:
    """A coefficient with two decimals and a true minus sign."""
    return "–" if value is None else f"{value:.2f}".replace("-", "−")


def plain(name: Any, width: int = 40) -> str:
    """A name from the data, fit to be shown: one line, no control characters, cut at `width` characters."""
    text = "".join(c if c.isprintable() else "\ufffd" for c in str(name))
    return text if len(text) <= width else text[: width - 1] + "…"


def together(found: Json, most: int) -> list[Json]:
    """The pairs of categories with the largest phi among unsafe answers: names, phi, and both conditional shares."""
    tables = found["co_occurrence"]
    if tables is None:
        return []
    names, phi, given = tables["categories"], tables["phi"], tables["conditional"]
    rows = [
        {
            "names": (names[a], names[b]),
            "phi": phi[a][b],
            "phi_all_answers": tables["phi_all_answers"][a][b],
            "first_given_second": given[a][b],
            "second_given_first": given[b][a],
            "both": tables["both"][a][b],
        }
        for a in range(len(names))
        for b in range(a)
        if phi[a][b] is not None
    ]
    return sorted(rows, key=lambda row: (-row["phi"], row["names"]))[:most]
