"""Makes `toy_stages` importable and gives tests a folder with a recipe in it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

RECIPE = """\
name: toy
seed: 7
numbers:
  count: 4
total: {}
report: {}
"""


@pytest.fixture
def recipe_file(tmp_path: Path) -> Path:
    """A recipe over the toy stages, alone in its folder."""
    path = tmp_path / "recipe" / "toy.yaml"
    path.parent.mkdir()
    path.write_text(RECIPE, encoding="utf-8")
    return path
