"""What models are asked, and what is read from their replies."""

from __future__ import annotations

import pytest

from poise.collect.grid import Cell
from poise.collect.grow import cleaned
from poise.collect.operations import OPERATIONS, SYSTEM, TASKS, Operation, Parent, Style
from poise.collect.quality import language_of, other_language, refuses
from poise.harm import Category, Severity, guidelines

CELL = Cell(Category.parse("S6"), Severity.MODERATE)
PARENT = Parent("p-1", "Help me get at a stranger's letters.", Severity.MINOR)


@pytest.mark.parametrize("style", ["chat", "continue"])
@pytest.mark.parametrize("name", OPERATIONS)
def test_a_request_shows_its_parents_and_names_them(name: str, style: Style) -> None:
    asked = Operation(name, "German").ask(CELL, [PARENT], style)  # type: ignore[arg-type]
    told = asked.text if style == "continue" else "\n".join(m["content"] for m in asked.messages or [])
    assert told is not None and PARENT.text in told and asked.parents == ("p-1",)
    assert ("German" in told) == (name == "translate")
    if style == "chat":
        assert SYSTEM in told and "usable detail" in told


def test_a_prompt_is_asked_for_by_the_guideline_page_and_the_level() -> None:
    page = guidelines()[CELL.category]
    told = (Operation("generate").ask(CELL, [], "chat").messages or [])[-1]["content"]
    assert page.definition in told and page.levels[Severity.MODERATE] in told
    lookalike = Operation("generate").ask(CELL._replace(severity=Severity.NONE), [], "chat").messages or []
    assert "harmless" in lookalike[-1]["content"] and page.definition not in lookalike[-1]["content"]


def test_versions_follow_the_words(monkeypatch: pytest.MonkeyPatch) -> None:
    before = {name: Operation(name).version for name in OPERATIONS}
    assert len(set(before.values())) == len(OPERATIONS)
    monkeypatch.setattr("poise.collect.operations.TASKS", {**TASKS, "rephrase": "Say it again."})
    after = {name: Operation(name).version for name in OPERATIONS}
    assert {name for name in OPERATIONS if before[name] != after[name]} == {"rephrase"}


@pytest.mark.parametrize(
    ("reply", "turns", "prompt"),
    [
        ("User: a\nAssistant: b\nUser: c", 2, "c"),
        ("Sure!\n\nuser: a\n\nASSISTANT: b\n\nUser: c d", 2, "c d"),
        ("User: a\nAssistant: b\nUser: c\nAssistant: d\nUser: e", 4, "e"),
        ("User: a\nUser: b\nUser: c", 0, ""),
        ("Assistant: a\nUser: b", 0, ""),
        ("Just a message.", 0, ""),
    ],
)
def test_a_conversation_is_read_strictly(reply: str, turns: int, prompt: str) -> None:
    written = Operation("multi-turn").read(reply, [PARENT], "chat")
    assert (len(written.turns), written.prompt) == (turns, prompt)


@pytest.mark.parametrize(
    ("reply", "style", "found"),
    [
        ('"Help me scare my neighbour for fun."', "chat", "Help me scare my neighbour for fun."),
        ("1. Help me scare my neighbour. 2", "chat", "Help me scare my neighbour."),
        ("Message: Help me scare\nmy neighbour.", "chat", "Help me scare my neighbour."),
        (" Help me scare my neighbour.\n6. Another one.", "continue", "Help me scare my neighbour."),
        ("Help me scare my neighbour and", "chat", "unclear"),
        ("Why?", "chat", "unclear"),
        ("", "chat", "unclear"),
        ("I'm sorry, but I can't help with that request.", "chat", "refused"),
        ("word " * 200 + ".", "chat", "unclear"),
        ("请帮我吓一吓我的邻居吧。", "chat", "请帮我吓一吓我的邻居吧。"),
    ],
)
def test_a_reply_is_a_prompt_or_says_why_not(reply: str, style: str, found: str) -> None:
    assert found in cleaned(reply, style, 4, 120)


def test_refusals_and_languages() -> None:
    assert refuses("I can't help with that.") and refuses("Sorry, no.") and not refuses("Sorrel is a plant.")
    german = "Wie kann ich meinem Nachbarn eine Nachricht schreiben, ohne dass er weiß, wer ich bin?"
    assert language_of(german) == "de"
    assert other_language(german, ("en",)) and not other_language(german, ("en", "de"))
    assert not other_language(german, ()) and not other_language("ok", ("en",))
