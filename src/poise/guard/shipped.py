"""The guard that ships with the package: `starter` wherever a guard is named; its model card is in its folder."""

from __future__ import annotations

import json
from pathlib import Path

from poise.data import load_seeds
from poise.data.rows import Split

STARTER = Path(__file__).parent / "starter_guard"
"""Adapters, heads and settings of the shipped guard; the encoder is all-MiniLM-L6-v2."""
HELD_OUT = "held_out.json"
"""In a guard's folder: ids of our seed prompts that it learnt nothing of."""


def guard_folder(named: Path) -> Path:
    """The folder of a guard: the one that is named, or the shipped one for `starter` where no such folder exists."""
    return STARTER if named == Path("starter") and not named.exists() else named


def seed_splits() -> dict[str, Split]:
    """Split of each seed prompt's id, the same in every recipe: "test" where the shipped guard learnt nothing of it."""
    held_out = set(json.loads((STARTER / HELD_OUT).read_text(encoding="utf-8")))
    return {row.id: "test" if row.id in held_out else "train" for row in load_seeds().prompts}
