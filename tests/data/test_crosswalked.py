"""Labels of tables in another taxonomy: what becomes true, false and undecided, and what is reported as lost."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import pytest

from poise.data.crosswalked import map_tables
from poise.data.records import DualRecord, PartialLabel, PromptRecord, QARecord, Record
from poise.data.tables import Tables, TableWriter, open_tables
from poise.errors import PoiseError

BEAVER = "beavertails-14"


def tables(folder: Path, records: Iterable[Record]) -> Tables:
    with TableWriter(folder, {"name": "test"}) as writer:
        for record in records:
            writer.add(record)
    return open_tables(folder)


def answer(safe: bool | None, *categories: str, taxonomy: str = BEAVER, severity: int | None = None) -> QARecord:
    label = PartialLabel(safe=safe, categories=categories, taxonomy=taxonomy, severity=severity)
    return QARecord(prompt="p", response=f"{safe} {categories}", label=label)


def labels(found: Tables) -> list[PartialLabel]:
    return [record.label for record in found["qa"].records() if isinstance(record, QARecord)]


def test_to_our_own_taxonomy(tmp_path: Path) -> None:
    rows = [
        answer(True),  # safe: no category applies, severity 0
        answer(False, "animal_abuse"),  # `=`: Animal Abuse
        answer(False, "self_harm"),  # `~` only: unsafe, and no category can be named
        answer(False),  # unsafe without a category: nothing can be named
    ]
    found, losses = map_tables(tables(tmp_path / "a", rows), "pku-19", tmp_path / "b")
    safe, animal, self_harm, bare = labels(found)
    assert safe == PartialLabel(safe=True, categories=(), severity=0)
    assert animal.categories == ("Animal Abuse",) and animal.severity is None
    assert "Violence" not in animal.undecided and "Cybercrime" in animal.undecided
    assert self_harm.safe is False and not self_harm.categories and "Physical Harm" in self_harm.undecided
    assert bare.safe is False and bare.flags() is None
    assert losses.labels == 4 and losses.unknown == 2
    assert losses.lossy == {"self_harm ~ Physical Harm": 1, "self_harm ~ Psychological Harm": 1}
    written = json.loads((tmp_path / "b" / "crosswalk.json").read_text(encoding="utf-8"))
    assert written == {"target": "pku-19", **losses._asdict()}


def test_from_our_own_taxonomy(tmp_path: Path) -> None:
    rows = [answer(False, "Drugs", "Human Trafficking", taxonomy="pku-19", severity=3), answer(True, taxonomy="pku-19")]
    found, losses = map_tables(tables(tmp_path / "a", rows), BEAVER, tmp_path / "b")
    (drugs, safe) = [row for batch in found["qa"].batches() for row in batch.to_pylist()]
    assert (drugs["taxonomy"], drugs["categories"]) == (BEAVER, ["drug_abuse,weapons,banned_substance"])
    assert drugs["harm_category"]["Human Trafficking"] is True  # ours stays beside it
    assert (safe["taxonomy"], safe["categories"]) == (BEAVER, [])
    assert "Human Trafficking ~ child_abuse" in losses.lossy


def test_names_of_a_third_taxonomy_do_not_stay_under_the_target(tmp_path: Path) -> None:
    flags = PartialLabel(safe=False, categories=("Drugs",), severity=2)
    foreign = PartialLabel(safe=False, categories=("animal_abuse",), taxonomy=BEAVER)
    pairs = [
        DualRecord(prompt=f"p{n}", responses=("a", "b"), labels=labels_)
        for n, labels_ in enumerate([(flags, foreign), (foreign, flags), (foreign, foreign)])
    ]
    found, _ = map_tables(tables(tmp_path / "a", pairs), "llama-guard-3", tmp_path / "b")
    first, second, third = [row for batch in found["default"].batches() for row in batch.to_pylist()]
    assert first["taxonomy"] == second["taxonomy"] == "llama-guard-3"
    assert first["response_0_categories"] == second["response_1_categories"] is not None
    assert first["response_1_categories"] is None and second["response_0_categories"] is None
    assert (third["taxonomy"], third["response_0_categories"]) == (BEAVER, ["animal_abuse"])


def test_pairs_and_prompts(tmp_path: Path) -> None:
    beaver = {"taxonomy": BEAVER}
    pair = DualRecord(
        prompt="p",
        responses=("a", "b"),
        labels=(
            PartialLabel(safe=True, categories=(), **beaver),
            PartialLabel(safe=False, categories=("animal_abuse",), **beaver),
        ),
    )
    prompts = [
        PromptRecord(prompt="p", label=PartialLabel(safe=False, categories=("animal_abuse",), **beaver)),
        PromptRecord(prompt="q", label=PartialLabel(safe=False, categories=("self_harm",), **beaver)),
        PromptRecord(prompt="r"),
    ]
    found, _ = map_tables(tables(tmp_path / "a", [pair, *prompts]), "pku-19", tmp_path / "b")
    (dual,) = found["default"].records()
    assert isinstance(dual, DualRecord)
    assert dual.labels[0].categories == () and dual.labels[1].categories == ("Animal Abuse",)
    rows = [row for batch in found["prompt"].batches() for row in batch.to_pylist()]
    assert [(row["category"], row["categories"], row["is_safe"]) for row in rows] == [
        ("S19", ["Animal Abuse"], False),
        (None, None, False),
        (None, None, None),
    ]


def test_what_can_not_be_mapped_says_so(tmp_path: Path) -> None:
    source = tables(tmp_path / "a", [answer(False, "no_such_harm")])
    with pytest.raises(PoiseError, match="no_such_harm"):
        map_tables(source, "pku-19", tmp_path / "b")
    with pytest.raises(PoiseError, match="is no taxonomy"):
        map_tables(source, "pku-91", tmp_path / "b")
    assert not (tmp_path / "b").exists()
