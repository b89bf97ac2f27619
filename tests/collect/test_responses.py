"""Several responses to each prompt, and the pairs between them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from poise.collect import Persona, plan_responses, response_rows
from poise.data import PromptRow, text_id
from poise.llm import Completion

PLAIN = Persona(name="plain", system="Help.", temperature=0.7)
HOT = Persona(name="hot", system="Help.", temperature=1.2, top_p=0.9)
EAGER = Persona(name="eager", system="Always say yes to the user.", temperature=1.0)
PERSONAS = [PLAIN, HOT, EAGER]


def test_plan_asks_every_prompt_with_every_persona(prompt: Callable[..., PromptRow]) -> None:
    prompts = [prompt("long", prompt="a much longer question"), prompt("short", prompt="why")]
    plan = plan_responses(prompts, PERSONAS, max_new_tokens=30, seed=5)
    assert len(plan) == 6
    assert {(r.prompt.id, r.persona.name) for r in plan} == {(p.id, q.name) for p in prompts for q in PERSONAS}
    sizes = [sum(len(m["content"]) for m in r.messages) for r in plan]
    assert sizes == sorted(sizes), "near-equal lengths come together"
    hot = next(r for r in plan if r.persona is HOT)
    assert (hot.sampling.temperature, hot.sampling.top_p, hot.sampling.max_new_tokens) == (1.2, 0.9, 30)
    assert hot.messages == [{"role": "system", "content": "Help."}, {"role": "user", "content": hot.prompt.prompt}]


def test_chance_belongs_to_the_item(prompt: Callable[..., PromptRow]) -> None:
    def seeds(prompts: list[PromptRow], personas: list[Persona], seed: int) -> dict[tuple[str, str], int]:
        return {(r.prompt.id, r.persona.name): r.sampling.seed for r in plan_responses(prompts, personas, 30, seed)}

    all_of_them = seeds([prompt("a"), prompt("b")], PERSONAS, 5)
    assert len(set(all_of_them.values())) == 6
    for key, value in seeds([prompt("b")], [EAGER, PLAIN], 5).items():
        assert all_of_them[key] == value
    assert not set(seeds([prompt("a")], PERSONAS, 6).values()) & set(all_of_them.values())


def answers(prompts: list[PromptRow], replies: dict[tuple[str, str], str]) -> Any:
    requests = plan_responses(prompts, PERSONAS, 30, 5)
    said = [Completion(replies[r.prompt.id, r.persona.name], True) for r in requests]
    return response_rows(requests, said, "tiny-model")


def test_rows_and_pairs(prompt: Callable[..., PromptRow]) -> None:
    a = prompt("a", split="test")
    texts = {("a", "plain"): " Ask a friend first. ", ("a", "hot"): "Ask the dog.", ("a", "eager"): "Yes, go ahead!"}
    rows, pairs, dropped = answers([a], texts)
    assert sorted(r.response for r in rows) == ["Ask a friend first.", "Ask the dog.", "Yes, go ahead!"]
    assert not dropped
    for row in rows:
        assert row.id == text_id("qa", a.prompt, row.response)
        assert (row.prompt_id, row.prompt, row.split) == ("a", a.prompt, "test")
        assert row.provenance.source == "tiny-model"
        assert row.provenance.parents == ("a",)
        assert row.provenance.sampling is not None
        assert texts["a", row.provenance.persona or ""].strip() == row.response
    ids = {r.id for r in rows}
    assert {frozenset((p.qa_0, p.qa_1)) for p in pairs} == {frozenset(ids - {i}) for i in ids}, "all three pairs"
    assert all(p.qa_0 < p.qa_1 for p in pairs), "the position tells nothing"
    assert {(p.prompt_id, p.split) for p in pairs} == {("a", "test")}


def test_garbled_and_repeated_responses_are_counted(prompt: Callable[..., PromptRow]) -> None:
    texts = {
        ("a", "plain"): "Ask a friend first.",
        ("a", "hot"): "Ask a friend first. ",
        ("a", "eager"): "no " * 12,
        ("b", "plain"): "Ask a friend first.",
        ("b", "hot"): "",
        ("b", "eager"): "12345 67890 a b c !!!!",
    }
    rows, pairs, dropped = answers([prompt("a"), prompt("b")], texts)
    assert [r.prompt_id for r in rows] == ["a", "b"], "the same text may answer two prompts"
    assert pairs == []
    assert dropped == {"same-text": 1, "repeats": 1, "too-short": 1, "not-text": 1}


def test_every_request_needs_its_reply(prompt: Callable[..., PromptRow]) -> None:
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        response_rows(plan_responses([prompt("a")], PERSONAS, 30, 5), [], "tiny-model")


def test_a_persona_is_refused_with_an_unknown_field() -> None:
    with pytest.raises(ValueError, match="temprature"):
        Persona.model_validate({"name": "x", "system": "y", "temprature": 1.0, "temperature": 1.0})


def test_what_was_not_said_is_counted_by_its_reason(prompt: Callable[..., PromptRow]) -> None:
    requests = plan_responses([prompt("a")], PERSONAS, 30, 5)
    said = [Completion("", False, "too-long"), Completion("Ask a friend first.", True), Completion("", True)]
    rows, pairs, dropped = response_rows(requests, said, "tiny-model")
    assert ([r.response for r in rows], pairs) == (["Ask a friend first."], [])
    assert dropped == {"too-long": 1, "too-short": 1}
