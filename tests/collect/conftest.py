"""A language model that says what it is told."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from poise.data import PromptRow, Provenance, Sampling
from poise.llm import Completion, Endpoint, Messages


class Scripted:
    """Answers from a script, cyclically, and remembers what it was asked."""

    name = "scripted"

    def __init__(self, *script: str) -> None:
        self.script = script
        self.asked: list[tuple[str, Sampling]] = []

    def chat(
        self, conversations: Sequence[Messages], sampling: Sequence[Sampling], on_rows: Callable[[int], Any]
    ) -> list[Completion]:
        """The next replies, whatever was said."""
        return self.complete([messages[-1]["content"] for messages in conversations], sampling, on_rows)

    def complete(
        self, texts: Sequence[str], sampling: Sequence[Sampling], on_rows: Callable[[int], Any]
    ) -> list[Completion]:
        """The next continuations, whatever the texts."""
        self.asked += zip(texts, sampling, strict=True)
        on_rows(len(texts))
        return [Completion(self.script[i % len(self.script)], True) for i in range(len(texts))]


@pytest.fixture
def scripted() -> Callable[..., Scripted]:
    """`scripted(*replies)` is an endpoint with these replies."""

    def make(*script: str) -> Scripted:
        endpoint: Endpoint = (own := Scripted(*script))
        assert endpoint.name
        return own

    return make


@pytest.fixture
def prompt() -> Callable[..., PromptRow]:
    """`prompt(id, category, severity)` is a harmful prompt; `kind` and `text` can be given."""

    def make(name: str, category: str | None = "S6", severity: int = 1, **other: Any) -> PromptRow:
        fields = {"id": name, "prompt": f"prompt {name}", "kind": "harmful"} | other
        return PromptRow(category=category, severity=severity, provenance=Provenance(source="test"), **fields)

    return make
