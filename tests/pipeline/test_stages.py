"""What single stages decide, on rows by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from poise.data import Corpus, leaks, load_seeds
from poise.guard.shipped import seed_splits
from poise.pipeline import RunResult, load_recipe, run
from poise.pipeline.stages import STAGES, prompts


def go(folder: Path, text: str) -> RunResult:
    """Run a recipe of a few lines."""
    file = folder / "recipe.yaml"
    file.write_text(f"name: small\n{text}")
    return run(load_recipe(file, STAGES), STAGES, folder / "run", console=lambda line: None)


def test_a_new_prompt_near_a_seed_has_the_split_of_the_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fixed = seed_splits()
    seeds = [row for row in load_seeds().prompts if len(row.prompt) > 60]
    new = [row.model_copy(update={"id": f"n-{row.id}", "prompt": row.prompt + " Now."}) for row in seeds[:40]]
    monkeypatch.setattr(prompts, "_new_prompts", lambda *_: (new, {}))
    result = go(tmp_path, "prompts: {near_duplicate: 0.95}\n")
    corpus = Corpus.read(result.stages["prompts"].folder / "corpus")
    splits = {row.id: row.split for row in corpus.prompts}
    assert {splits[row.id] for row in new} == {"train", "test"}
    assert all(splits[row.id] == fixed[row.id.removeprefix("n-")] for row in new) and not leaks(corpus.prompts)
