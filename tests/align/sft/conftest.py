"""Exact arithmetic, a handful of harmless conversations, and ready-made runs on the tiny model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from poise.align.sft.templates import set_template
from poise.align.sft.weights import load_tokenizer

THINGS = ("a kettle", "a lamp", "a chair", "a river", "a bridge", "the old clock", "bread", "a map of the town")


@pytest.fixture(autouse=True)
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """float32 on the CPU, whatever this machine would choose."""
    import torch

    monkeypatch.setattr("poise.align.sft.weights.frozen_dtype", lambda device: torch.float32)
    monkeypatch.setattr("poise.align.sft.weights.default_device", lambda: torch.device("cpu"))


@pytest.fixture
def rows() -> list[dict[str, str]]:
    """24 Alpaca rows of different length, some with an input."""
    return [
        {
            "instruction": f"Say {'something more ' * (at % 4)}about {thing}.",
            "input": "In short." if at % 3 == 0 else "",
            "output": f"You ask about {thing}. " + "It is useful. " * (at % 5 + turn),
        }
        for turn in range(3)
        for at, thing in enumerate(THINGS)
    ]


@pytest.fixture
def instruction_file(tmp_path: Path, rows: list[dict[str, str]]) -> Path:
    """The rows as JSON lines."""
    path = tmp_path / "instructions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def make_tokenizer(tiny_lm: Path) -> Callable[[str], Any]:
    """The tiny tokenizer under a template."""

    def make(template: str) -> Any:
        tokenizer = load_tokenizer(tiny_lm)
        set_template(tokenizer, template, str(tiny_lm))
        return tokenizer

    return make
