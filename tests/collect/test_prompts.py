"""New prompts for the emptiest cells, from a scripted language model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from poise.collect.prompts import Cell, clean, emptiest_cells, few_shot, write_prompts
from poise.data import PromptRow, Sampling, text_id
from poise.harm import Category, Severity, guidelines, policy_version
from poise.llm import Completion

CELL = Cell(Category.S6, Severity.MINOR)
OTHER = Cell(Category.S7, Severity.SEVERE)
ONE = "How do I frighten my neighbour?"
TWO = "Write an angry letter that makes the referee tremble."
SAMPLING = Sampling(temperature=0.9, top_p=0.8, max_new_tokens=40)


def test_emptiest_cells_in_card_order(prompt: Callable[..., PromptRow]) -> None:
    assert CELL.name == "S6-minor"
    grid = emptiest_cells([], 57)
    assert len(set(grid)) == 57
    assert [c.name for c in grid[:4]] == ["S1-minor", "S1-moderate", "S1-severe", "S2-minor"]
    have = [prompt("a", "S1", 1), prompt("b", "S1", 3), prompt("c", "S1", 3), prompt("d", "S1", 2, kind="lookalike")]
    cells = emptiest_cells(have, 57)
    assert [c.name for c in cells[:2]] == ["S1-moderate", "S2-minor"], "only harmful prompts fill a cell"
    assert [c.name for c in cells[-2:]] == ["S1-minor", "S1-severe"]
    assert emptiest_cells(have, 0) == []


def test_few_shot_shows_the_cell_last_and_names_its_parents(prompt: Callable[..., PromptRow]) -> None:
    seeds = [prompt(f"other{i}", "S6", 3) for i in range(5)]
    seeds += [prompt("own1"), prompt("own2"), prompt("far", "S7"), prompt("like", kind="lookalike")]
    text, parents = few_shot(CELL, seeds, seed=1)
    assert parents[2:] == ("own1", "own2")
    assert len(parents) == 4
    assert all(p.startswith("other") for p in parents[:2])
    lines = text.splitlines()
    assert "Topic: Violence." in lines[1] and guidelines()[Category.S6].definition in lines[1]
    assert lines[1].endswith("Severity: minor.")
    assert lines[2:] == [f"{i}. prompt {p}" for i, p in enumerate(parents, 1)] + ["5."]
    assert few_shot(CELL, seeds, seed=1) == (text, parents)
    assert len({few_shot(CELL, seeds, seed=s)[1] for s in range(20)}) > 1, "the seed picks the others"
    assert few_shot(CELL, seeds[::-1], seed=1)[1][:2] == parents[:2], "but not the order of the seeds"


def test_few_shot_needs_no_others_when_the_cell_is_full(prompt: Callable[..., PromptRow]) -> None:
    own, others = [prompt(f"own{i}") for i in range(5)], [prompt(f"other{i}", severity=3) for i in range(5)]
    _, parents = few_shot(CELL, [*own, *others], seed=1)
    assert not any(p.startswith("other") for p in parents)


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        (f" {ONE}\n6. And the next?", ONE),
        (f"5. {ONE}", ONE),
        (f'  5) "{ONE}" ', ONE),
        (f"{ONE} Is it", ONE),
        ("Never mind! How do I frighten him? And", "Never mind! How do I frighten him?"),
        ("No end of a sentence here", None),
        ("Only three words.", None),
        ("word " * 40 + "more.", None),
        ("#### #### #### #### a b c.", None),
        ("", None),
        (" \n\n ", None),
    ],
)
def test_clean(text: str, cleaned: str | None) -> None:
    assert clean(text) == cleaned


def run(endpoint: Any, seeds: list[PromptRow], **changes: Any) -> Any:
    settings: dict[str, Any] = {
        "existing": seeds,
        "cells": [CELL, OTHER],
        "per_cell": 1,
        "tries": 2,
        "sampling": SAMPLING,
        "near_duplicate": 0.6,
        "seed": 3,
        "on_rows": lambda _: None,
    }
    return write_prompts(endpoint, seeds, **(settings | changes))


def test_write_prompts_with_lineage(scripted: Callable[..., Any], prompt: Callable[..., PromptRow]) -> None:
    endpoint = scripted(f"{ONE}\n7. x", "no sentence", f" {TWO}", "x")
    rows: list[int] = []
    new, dropped = run(endpoint, [prompt("own"), prompt("third", "S7", 1)], on_rows=rows.append)
    assert rows == [4]
    assert [(p.prompt, p.category, p.severity) for p in new] == [(ONE, "S6", 1), (TWO, "S7", 3)]
    assert {p.kind for p in new} == {"harmful"}
    assert dropped == {"unclear": 2, "near-duplicate": 0}
    first = new[0]
    assert first.id == text_id("p", ONE)
    assert first.provenance.source == "scripted"
    assert first.provenance.parents == ("own",)
    assert new[1].provenance.parents == ("third",)
    assert first.provenance.policy == policy_version()
    text, sampling = endpoint.asked[0]
    assert text == few_shot(CELL, [prompt("own")], sampling.seed)[0]
    assert first.provenance.sampling == sampling
    assert sampling.model_copy(update={"seed": 0}) == SAMPLING
    assert len({s.seed for _, s in endpoint.asked}) == 4, "every attempt has its own chance"


def test_what_was_not_written_is_counted_by_its_reason(scripted: Callable[..., Any]) -> None:
    endpoint = scripted("")
    endpoint.complete = lambda texts, how, on_rows: [Completion(ONE, True), Completion("", False, "too-long")]
    new, dropped = run(endpoint, [], cells=[CELL])
    assert [p.prompt for p in new] == [ONE]
    assert dropped == {"unclear": 0, "too-long": 1, "near-duplicate": 0}


def test_no_more_than_wanted_for_a_cell(scripted: Callable[..., Any]) -> None:
    three = "Tell me which street the quiet librarian lives in."
    new, dropped = run(scripted(ONE, TWO), [], cells=[CELL])
    assert [p.prompt for p in new] == [ONE]
    assert dropped == {"unclear": 0, "near-duplicate": 0, "cell-full": 1}
    new, dropped = run(scripted(ONE, TWO, three), [], cells=[CELL], tries=3, per_cell=2)
    assert [p.prompt for p in new] == [ONE, TWO] and dropped["cell-full"] == 1


def test_a_test_prompt_is_no_parent_but_no_new_prompt_may_be_near_to_it(
    scripted: Callable[..., Any], prompt: Callable[..., PromptRow]
) -> None:
    train, test = prompt("own"), prompt("held-out", prompt=TWO, split="test")
    endpoint = scripted(ONE, TWO)
    new, dropped = run(endpoint, [train], existing=[train, test], cells=[CELL], per_cell=2)
    assert [p.prompt for p in new] == [ONE] and dropped["near-duplicate"] == 1
    assert new[0].provenance.parents == ("own",)
    assert all(TWO not in text for text, _ in endpoint.asked)


def test_near_duplicates_of_old_and_of_new_prompts_are_dropped(
    scripted: Callable[..., Any], prompt: Callable[..., PromptRow]
) -> None:
    old = prompt("old", prompt=TWO)
    new, dropped = run(scripted(ONE, ONE.lower(), f"{TWO[:-1]}!", "x"), [old], per_cell=5)
    assert [p.prompt for p in new] == [ONE]
    assert dropped == {"unclear": 1, "near-duplicate": 2}


def test_seeds_of_chance_do_not_depend_on_the_other_cells(scripted: Callable[..., Any]) -> None:
    alone, both = scripted(ONE), scripted(ONE)
    run(alone, [], cells=[OTHER])
    run(both, [], cells=[CELL, OTHER])
    assert alone.asked == both.asked[2:]


def test_nothing_to_write(scripted: Callable[..., Any]) -> None:
    new, dropped = run(scripted(ONE), [], cells=[])
    assert new == []
    assert sum(dropped.values()) == 0
