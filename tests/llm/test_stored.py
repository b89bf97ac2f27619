"""An endpoint with a memory, and one that asks nobody."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from poise.data.rows import Sampling
from poise.llm import Completion, Messages
from poise.llm.budget import Price
from poise.llm.dry import DryEndpoint
from poise.llm.store import ReplyStore
from poise.llm.stored import StoredEndpoint


class Model:
    name = "m"

    def __init__(self, dies_at: int | None = None) -> None:
        self.batches: list[list[str]] = []
        self.dies_at = dies_at

    def chat(
        self, conversations: Sequence[Messages], sampling: Sequence[Sampling], on_rows: Callable[[int], Any]
    ) -> list[Completion]:
        return self.complete([talk[-1]["content"] for talk in conversations], sampling, on_rows)

    def complete(
        self, texts: Sequence[str], sampling: Sequence[Sampling], on_rows: Callable[[int], Any]
    ) -> list[Completion]:
        if self.dies_at == len(self.batches):
            raise KeyboardInterrupt
        self.batches.append(list(texts))
        return [
            Completion("", False, "too-long") if text == "long" else Completion(f"{text}:{how.seed}", how.seed % 2 == 0)
            for text, how in zip(texts, sampling, strict=True)
        ]


def asked(count: int) -> tuple[list[Messages], list[Sampling]]:
    talks = [[{"role": "user", "content": "x" * (1 + n % 3)}] for n in range(count)]
    return talks, [Sampling(seed=n) for n in range(count)]


def test_a_killed_run_goes_on_behind_its_last_batch(tmp_path: Path) -> None:
    talks, how = asked(10)
    dying, heard = Model(dies_at=2), []
    with ReplyStore(tmp_path / "s") as store, pytest.raises(KeyboardInterrupt):
        StoredEndpoint(dying, store, 3).chat(talks, how)
    rest = Model()
    with ReplyStore(tmp_path / "s") as store:
        found = StoredEndpoint(rest, store, 3).chat(talks, how, heard.append)
        again = StoredEndpoint(Model(dies_at=0), store, 3).chat(talks, how)
    assert sum(map(len, dying.batches)) == 6 and sum(map(len, rest.batches)) == 4 and sum(heard) == 10
    assert found == again == [Completion(f"{'x' * (1 + n % 3)}:{n}", n % 2 == 0) for n in range(10)]
    assert dying.batches[0] == ["x", "x", "x"]  # sorted by length


def test_equal_requests_are_asked_once_and_reasons_stay(tmp_path: Path) -> None:
    model = Model()
    with ReplyStore(tmp_path / "s") as store:
        endpoint = StoredEndpoint(model, store)
        texts = ["a", "long", "a", "a"]
        found = endpoint.complete(texts, [Sampling(seed=0), Sampling(seed=0), Sampling(seed=0), Sampling(seed=2)])
        assert [reply.text for reply in found] == ["a:0", "", "a:0", "a:2"] and found[1].reason == "too-long"
        assert sum(map(len, model.batches)) == 3
        assert endpoint.chat([[{"role": "user", "content": "a"}]], [Sampling(seed=0)])[0].text == "a:0"
        assert sum(map(len, model.batches)) == 4  # a chat is no completion


def test_another_key_is_another_model(tmp_path: Path) -> None:
    talks, how = asked(3)
    old, new = Model(), Model()
    with ReplyStore(tmp_path / "s") as store:
        StoredEndpoint(old, store, key="m@1").chat(talks, how)
        one = StoredEndpoint(new, store, key="m@2")
        one.chat(talks, how)
        again = StoredEndpoint(Model(dies_at=0), store, key="m@1").chat(talks, how)
    assert one.name == "m" and len(old.batches) == len(new.batches) == 1 and again[0].text == "x:0"


def test_a_dry_endpoint_counts_and_answers_from_the_store(tmp_path: Path) -> None:
    talks, how = asked(5)
    with ReplyStore(tmp_path / "s") as store:
        StoredEndpoint(Model(), store).chat(talks[:2], how[:2])
        dry = DryEndpoint("m", store, {"m": Price(1e6, 2e6)})
        found = dry.chat(talks, how, lambda rows: None)
        assert [reply.text for reply in found] == ["x:0", "xx:1", "", "", ""] and found[2].reason == "not asked"
        # three requests of one token and four for the frame, 48 tokens back at most each
        assert (dry.estimate.requests, dry.estimate.stored, dry.estimate.prompt_tokens) == (5, 2, 15)
        assert dry.estimate.most_completion_tokens == 3 * 48 and dry.estimate.most_cost == 15 + 2 * 144
        dry.complete(["x"], how[:1], lambda rows: None)
        assert dry.estimate.requests == 6
