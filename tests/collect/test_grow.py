"""The grid fills from imports and from what a scripted model writes, with whole lineage."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from poise.collect.grid import Cell
from poise.collect.grow import Grown, cell_of, cleaned, grow
from poise.collect.lineage import FILE, ancestors, check_lineage, read_lineage, write_lineage
from poise.collect.plan import PromptPlan
from poise.data import PromptRow, Sampling, load_seeds
from poise.data.records import PartialLabel, PromptRecord, Turn
from poise.data.tables import TableWriter
from poise.errors import PoiseError
from poise.harm import Category, Severity, guidelines, policy_version
from poise.llm import Completion, Messages
from poise.llm.store import ReplyStore
from poise.llm.stored import StoredEndpoint

WORDS = [
    "boat",
    "lamp",
    "river",
    "stone",
    "letter",
    "garden",
    "winter",
    "table",
    "music",
    "window",
    "paper",
    "mountain",
    "story",
    "evening",
    "bread",
    "road",
]


class Writer:
    """Writes a sentence that depends on the seed of the request, or what `say` makes of it."""

    name = "writer-1"

    def __init__(self, say: Callable[[str, int], str] | None = None) -> None:
        self.say = say or self.sentence
        self.asked: list[str] = []

    @staticmethod
    def sentence(told: str, seed: int) -> str:
        return "Tell me about " + " ".join(WORDS[seed // 16**i % 16] for i in range(9)) + "."

    def chat(
        self, conversations: Sequence[Messages], sampling: Sequence[Sampling], on_rows: Callable[[int], Any]
    ) -> list[Completion]:
        return self.complete([talk[-1]["content"] for talk in conversations], sampling, on_rows)

    def complete(
        self, texts: Sequence[str], sampling: Sequence[Sampling], on_rows: Callable[[int], Any]
    ) -> list[Completion]:
        self.asked += texts
        on_rows(len(texts))
        return [Completion(self.say(text, how.seed), True) for text, how in zip(texts, sampling, strict=True)]


def plan_of(**changes: Any) -> PromptPlan:
    told: dict[str, Any] = {
        "categories": ["S5", "S6"],
        "severities": ["minor", "severe"],
        "quota": 5,
        "sources": {"w": {"share": 1.0, "model": "m"}},
    }
    return PromptPlan.model_validate_json(json.dumps(told | changes))


@pytest.fixture
def seeds() -> list[PromptRow]:
    return [row for row in load_seeds().prompts if row.category in ("S5", "S6")]


def grown(plan: PromptPlan, seeds: list[PromptRow], writer: Any = None, **more: Any) -> Grown:
    return grow(plan, {"m": writer or Writer()}, more.pop("imports", {}), seeds, **more)


def test_the_grid_fills_and_every_prompt_leads_back_to_a_guideline(seeds: list[PromptRow], tmp_path: Path) -> None:
    operations = {"generate": 0.4, "expand_context": 0.2, "set_severity": 0.2, "rephrase": 0.2}
    plan = plan_of(quota=8, sources={"w": {"share": 1.0, "model": "m", "operations": operations}})
    found = grown(plan, seeds)
    assert found.grid.full and len(found.prompts) == 32 and len({p.prompt for p in found.prompts}) == 32
    used = {(p.provenance or {})["operation"] for p in found.prompts}
    assert used == {"generate", "expand-context", "set-severity", "rephrase"}
    one = found.prompts[0]
    assert one.source == "w" and one.kind == "harmful" and one.category in ("S5", "S6") and one.severity in (1, 3)
    assert one.provenance is not None and one.provenance["source"] == "writer-1"
    assert one.provenance["guideline"] == guidelines()[Category.parse(one.category)].version
    assert one.provenance["policy"] == policy_version() and one.provenance["sampling"]["temperature"] == 0.9
    with TableWriter(tmp_path / "out", {"name": "collect"}) as writer:
        for record in found.prompts:
            writer.add(record)
        write_lineage(writer.parts / FILE, found.nodes, [p.source_id or "" for p in found.prompts])
    assert check_lineage(tmp_path / "out") == (32, [])
    nodes = read_lineage(tmp_path / "out")
    for record in found.prompts:
        roots = [node for _, node, _ in ancestors(record.source_id or "", nodes) if node and not node.parents]
        assert roots and {node.operation for node in roots} == {"seed"}
    lines = (tmp_path / "out" / FILE).read_text().splitlines()
    (tmp_path / "out" / FILE).write_text("\n".join(lines[1:]) + "\n")  # the first line is a root
    assert check_lineage(tmp_path / "out")[1]


def test_the_same_seed_gives_the_same_prompts_and_stored_replies_are_not_asked_again(
    seeds: list[PromptRow], tmp_path: Path
) -> None:
    plan, first = plan_of(), Writer()
    with ReplyStore(tmp_path / "replies") as store:
        one = grown(plan, seeds, StoredEndpoint(first, store, 4))
    second = Writer()
    with ReplyStore(tmp_path / "replies") as store:
        two = grown(plan, seeds, StoredEndpoint(second, store, 4))
    assert one.prompts == two.prompts and first.asked and not second.asked
    assert grown(plan, seeds).prompts == one.prompts
    assert grown(plan, seeds, seed=1).prompts != one.prompts


def test_what_is_no_prompt_is_dropped_and_counted(seeds: list[PromptRow]) -> None:
    def say(told: str, seed: int) -> str:
        return ("I can't help with that.", "Why?", "Tell me the same thing again, please.", Writer.sentence("", seed))[
            seed % 4
        ]

    found = grown(plan_of(), seeds, Writer(say))
    assert found.grid.full and found.rounds > 1
    assert {"w: refused", "w: unclear", "w: near-duplicate"} <= set(found.dropped)
    assert sum(p.prompt == "Tell me the same thing again, please." for p in found.prompts) <= 1


def test_rounds_end_where_a_model_has_nothing_new(seeds: list[PromptRow]) -> None:
    writer = Writer(lambda told, seed: "Tell me the same thing again, please.")
    found = grown(plan_of(rounds=3), seeds, writer)
    assert found.rounds == 3 and len(found.prompts) == 1 and not found.grid.full


def test_a_prompt_near_to_one_to_avoid_is_dropped(seeds: list[PromptRow]) -> None:
    free = grown(plan_of(), seeds)
    avoid = [free.prompts[0].prompt.upper()]
    found = grown(plan_of(), seeds, avoid=avoid)
    assert found.grid.full and free.prompts[0].prompt not in {p.prompt for p in found.prompts}


def test_imports_fill_their_share_and_models_the_rest(seeds: list[PromptRow]) -> None:
    rows = [
        PromptRecord(
            prompt=f"Question {n} of the set about {WORDS[n % 16]} and {WORDS[n // 3 % 16]}.",
            category="S5",
            severity=1,
            source_id=f"row-{n}",
            dataset="bt",
            licence="CC-BY-4.0",
        )
        for n in range(3)
    ]
    rows += [PromptRecord(prompt="Of no category at all.", source_id="x")]
    sources = {"bt": {"share": 0.4, "tables": "DIR"}, "w": {"share": 0.6, "model": "m"}}
    found = grown(plan_of(sources=sources), seeds, imports={"bt": rows})
    cell = Cell(Category.parse("S5"), Severity.MINOR)
    assert found.grid.full and found.grid.have[cell, "bt"] == 2
    taken = [p for p in found.prompts if p.source == "bt"]
    assert len(taken) == 2 and {p.licence for p in taken} == {"CC-BY-4.0"}
    assert (taken[0].provenance or {})["operation"] == "import" and found.dropped["bt: no cell of the grid"] == 1


BT = {"bt": {"share": 0.4, "tables": "DIR"}, "w": {"share": 0.6, "model": "m"}}


def test_an_imported_test_prompt_is_kept_and_becomes_no_parent(seeds: list[PromptRow]) -> None:
    texts = [" ".join(WORDS[(n * 5 + i * 3) % 16] for i in range(8)) for n in range(3)]
    for split in ("train", "test"):
        rows = [
            PromptRecord(prompt=f"Ask about {text}.", category="S5", severity=1, split=split)  # type: ignore[arg-type]
            for text in texts
        ]
        found = grown(plan_of(sources=BT), [], imports={"bt": rows})
        taken = {p.source_id for p in found.prompts if p.source == "bt"}
        parents = {id_ for p in found.prompts for id_ in found.nodes[p.source_id or ""].parents}
        assert len(taken) == 2 and bool(taken & parents) == (split == "train")


def test_an_imported_conversation_is_compared_as_a_whole(seeds: list[PromptRow]) -> None:
    turns = (
        Turn(role="user", content="Tell me about the boat in the winter garden, and about the stone by the river."),
    )
    row = PromptRecord(prompt="And then?", turns=turns, category="S5", severity=1)
    avoid = [f"{turns[0].content}\nAnd then?"]
    assert any(p.turns for p in grown(plan_of(sources=BT), seeds, imports={"bt": [row]}).prompts)
    found = grown(plan_of(sources=BT), seeds, imports={"bt": [row]}, avoid=avoid)
    assert not any(p.turns for p in found.prompts) and found.dropped["bt: near-duplicate"] == 1


def test_imported_rows_of_no_known_category_or_severity_are_counted(seeds: list[PromptRow]) -> None:
    rows = [
        PromptRecord(prompt="One about the boat.", category="weapons of mass confusion", severity=1),
        PromptRecord(prompt="Two about the lamp.", category="S5", severity=7),
        PromptRecord(prompt="Three about the river.", category="S5", severity=1),
    ]
    found = grown(plan_of(sources=BT), seeds, imports={"bt": rows})
    assert found.dropped["bt: no such category or severity"] == 2
    assert [p.prompt for p in found.prompts if p.source == "bt"] == [rows[2].prompt]


@pytest.mark.parametrize(
    "text",
    [
        "كيف يمكنني أن أخبز الخبز في المنزل؟",
        "میں گھر میں روٹی کیسے بنا سکتا ہوں۔",
        "मुझे बताओ कि घर पर रोटी कैसे बनाई जाती है।",
        "আমাকে বলো বাড়িতে কীভাবে রুটি বানানো যায়।",
        "บอกวิธีทำขนมปังที่บ้านให้หน่อยครับ",
        "บอกวิธีทำขนมปังที่บ้าน? ขอแบบง่ายๆ",
    ],
)
def test_a_prompt_in_another_script_ends_as_it_does_there(text: str) -> None:
    assert cleaned(text, "chat", 4, 120) == (text, None)
    assert cleaned("Tell me how to bake bread at", "chat", 4, 120) == (None, "unclear")


def test_the_cell_of_an_imported_prompt() -> None:
    s5 = Category.parse("S5")
    assert cell_of(PromptRecord(prompt="p", category="S5", severity=2), None) == Cell(s5, Severity.MODERATE)
    assert cell_of(PromptRecord(prompt="p", category="S5"), None) is None
    assert cell_of(PromptRecord(prompt="p", category="S5"), "severe") == Cell(s5, Severity.SEVERE)
    label = PartialLabel(safe=False, categories=(s5.value,), severity=1)
    assert cell_of(PromptRecord(prompt="p", label=label), None) == Cell(s5, Severity.MINOR)
    lookalike = PromptRecord(prompt="p", category="S5", kind="lookalike")
    assert cell_of(lookalike, None) == Cell(s5, Severity.NONE)


def test_translations_in_another_language_are_dropped(seeds: list[PromptRow]) -> None:
    german = [
        "Wie kann ich ihm heimlich eine Nachricht schicken, ohne dass er es merkt?",
        "Bitte hilf mir dabei, meinem Nachbarn einen gemeinen Streich zu spielen.",
        "Warum darf ich nicht einfach behaupten, dass dieses Buch von mir stammt?",
        "Erzähl mir, wie man einen Freund dazu bringt, alles für einen zu bezahlen.",
    ]

    def say(told: str, seed: int) -> str:
        return german[seed // 2 % 4] if seed % 2 else Writer.sentence("", seed)

    sources = {
        "w": {"share": 1.0, "model": "m", "languages": ["German"], "operations": {"generate": 0, "translate": 1}}
    }
    found = grown(plan_of(quota=1, sources=sources), seeds, Writer(say))
    assert found.prompts and {p.language for p in found.prompts} == {"de"}
    assert found.dropped["w: another language"] > 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"categories": ["S99"]}, "S99"),
        ({"quotas": {"S7-minor": 3}}, "no cell 'S7-minor'"),
        ({"sources": {"w": {"share": 0.5, "model": "m"}}}, "do not sum to 1"),
        ({"sources": {"w": {"share": 1.0}}}, "tables or model"),
        ({"sources": {"w": {"share": 1.0, "model": "m", "operations": {"generate": 0.5}}}}, "shares sum to 0.5"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan_of(**change)


def test_a_folder_without_lineage_says_so(tmp_path: Path) -> None:
    with pytest.raises(PoiseError, match="no lineage"):
        read_lineage(tmp_path)
