"""The guard that ships with the package: `starter` wherever a guard is named; its model card is in its folder."""

from __future__ import annotations

from pathlib import Path

STARTER = Path(__file__).parent / "starter_guard"
"""Adapters, heads and settings of the shipped guard; the encoder is all-MiniLM-L6-v2."""


def guard_folder(named: Path) -> Path:
    """The folder of a guard: the one that is named, or the shipped one for `starter` where no such folder exists."""
    return STARTER if named == Path("starter") and not named.exists() else named
