"""Every rule finds what breaks it and nothing else, modes do what they say, a release is checked from its files."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poise.data.columns import TABLES
from poise.data.records import (
    CorrectionRecord,
    DualRecord,
    JudgementRecord,
    PartialLabel,
    PromptRecord,
    QARecord,
    Record,
    SingleRecord,
    Turn,
)
from poise.data.rules import CHECKS, RULES, View, broken_rows
from poise.data.tables import Tables, TableWriter, open_tables
from poise.data.validate import validate, validate_release
from poise.errors import PoiseError
from poise.harm import CATEGORIES

SAFE = PartialLabel(safe=True, categories=(), severity=0)
HARM = PartialLabel(safe=False, categories=("Violence", "Drugs"), severity=2)


def tables(folder: Path, records: Iterable[Record]) -> Tables:
    with TableWriter(folder, {"name": "test"}) as writer:
        for record in records:
            writer.add(record)
    return open_tables(folder)


def rules_of(record: Record, *, strict: bool = False, **changed: Any) -> list[str]:
    row = record.columns() | changed
    batch = pa.RecordBatch.from_pylist([row], schema=TABLES[record.unit])
    return list(broken_rows(View(record.unit, batch, strict)))


QA = QARecord(prompt="p", response="r", prompt_source="s", response_source="m", label=HARM)
PAIR = DualRecord(
    prompt="p",
    responses=("a", "b"),
    prompt_source="s",
    response_sources=("m", "m"),
    labels=(SAFE, HARM),
    better=1,
    safer=0,
)
NO_FLAGS = dict.fromkeys((category.value for category in CATEGORIES), False)


@pytest.mark.parametrize(
    ("record", "changed", "rule"),
    [
        (QA, {"prompt": None}, "field-type"),
        (QA, {"prompt": " \n\u3000"}, "empty-text"),
        (QA, {"response": ""}, "empty-text"),
        (QA, {"severity_level": 4}, "id-range"),
        (QA, {"sha256": "0" * 64}, "response-hash"),
        (QA, {"is_safe": True}, "safe-severity-category"),
        (QA, {"severity_level": 0}, "safe-severity-category"),
        (QA, {"harm_category": NO_FLAGS}, "safe-severity-category"),
        (QA, {"harm_category": None, "is_safe": True}, "safe-severity-category"),
        (
            QARecord(prompt="p", response="r", label=PartialLabel(safe=False, categories=("own",), taxonomy="mine")),
            {"is_safe": True},
            "safe-severity-category",
        ),
        (QA, {"taxonomy": "beavertails-14", "categories": ["self-harm"]}, "unknown-category"),
        (QA, {"taxonomy": None, "categories": ["self_harm"]}, "unknown-category"),
        (PAIR, {"safer_response_id": 1}, "logical-order"),
        (PAIR, {"better_response_id": 2}, "id-range"),
        (PAIR, {"response_1_sha256": "x"}, "response-hash"),
        (PAIR, {"is_response_1_safe": True}, "safe-severity-category"),
        (PromptRecord(prompt="p", category="S6"), {"category": "S20"}, "unknown-category"),
        (PromptRecord(prompt="p"), {"prompt": "\t"}, "empty-text"),
        (PromptRecord(prompt="p"), {"severity": -1}, "id-range"),
        (SingleRecord(prompt="p", responses=("a", "b")), {"better_response_id": -1}, "id-range"),
        (CorrectionRecord(question="q", answer="a", correction="c"), {"correction_sha256": "y"}, "response-hash"),
        (JudgementRecord(item="i", question="safe", rater="r", responses=("h",)), {"rater": None}, "field-type"),
        (JudgementRecord(item="i", question="safe", rater="r", responses=("h",)), {"probability": 1.5}, "id-range"),
        (JudgementRecord(item="i", question="safe", rater="r", responses=("h",)), {"round": -1}, "id-range"),
    ],
)
def test_each_rule_finds_what_breaks_it(record: Record, changed: dict[str, Any], rule: str) -> None:
    assert rules_of(record) == []
    found = rules_of(record, **changed)
    assert rule in found
    assert set(found) <= {rule, "response-hash"}  # another text has another hash, too


@pytest.mark.parametrize(
    "record",
    [
        QARecord(prompt="p", response="r"),
        QARecord(prompt="p", response="r", label=PartialLabel(safe=False)),
        QARecord(prompt="p", response="r", label=PartialLabel(safe=False, categories=(), taxonomy="diasafety")),
        QARecord(prompt="p", response="r", label=PartialLabel(safe=False, categories=(), undecided=("Drugs",))),
        QARecord(prompt="p", response="r", label=PartialLabel(categories=("own",), taxonomy="my own")),
        QARecord(prompt="p", response="r", turns=(Turn(role="user", content="x"),), image="a.png"),
        DualRecord(prompt="p", responses=("a", "b"), labels=(SAFE, HARM)),
        DualRecord(prompt="p", responses=("a", "b"), labels=(HARM, HARM), safer=1),
        PromptRecord(prompt="p", category="Violence"),
    ],
)
def test_what_is_not_told_breaks_no_rule(record: Record) -> None:
    assert rules_of(record) == []


def test_a_release_needs_every_value() -> None:
    assert rules_of(QA, strict=True) == [] == rules_of(PAIR, strict=True)
    for name in ("severity_level", "harm_category", "prompt_source", "sha256"):
        assert "field-type" in rules_of(QA, strict=True, **{name: None})
    assert rules_of(QA, strict=True, harm_category=NO_FLAGS | {"Violence": True, "Drugs": None}) == ["field-type"]


def test_bytes_that_are_no_utf8_are_found_in_their_row() -> None:
    columns = {
        name: pa.array([None, None, None], type=TABLES["prompt"].field(name).type) for name in TABLES["prompt"].names
    }
    columns["prompt"] = pa.StringArray.from_buffers(
        3, pa.py_buffer(b"\0\0\0\0\1\0\0\0\2\0\0\0\3\0\0\0"), pa.py_buffer(b"a\xffb")
    )
    batch = pa.RecordBatch.from_arrays(list(columns.values()), schema=TABLES["prompt"])
    found = broken_rows(View("prompt", batch))
    assert list(found) == ["encoding"] and found["encoding"].tolist() == [False, True, False]


def test_duplicates_are_found_across_batches_and_units_apart(tmp_path: Path) -> None:
    swapped = DualRecord(prompt="p", responses=("b", "a"))
    other = QARecord(prompt="p", response="r", turns=(Turn(role="user", content="x"),))
    filling = [QARecord(prompt=f"q{i}", response="r") for i in range(9000)]
    rows = [QA, PAIR, swapped, *filling, QA, other, PromptRecord(prompt="p"), PromptRecord(prompt="p")]
    found = validate(tables(tmp_path / "a", rows))
    assert found.counts["duplicate-row"] == 3
    assert found.examples["duplicate-row"] == ["default/1", "qa/9001", "prompt/1"]
    assert not found.ok


def test_two_labels_of_one_response_are_a_warning(tmp_path: Path) -> None:
    other = DualRecord(prompt="p", responses=("r", "z"), labels=(SAFE, SAFE))
    found = validate(tables(tmp_path / "a", [other, QA]))
    assert found.counts["label-conflict"] == 1 and found.examples["label-conflict"] == ["qa/0"] and found.ok


def bad_rows() -> list[Record]:
    return [
        QA,
        QARecord(prompt="p2", response="r", label=HARM, sha256="0" * 64),
        QARecord(prompt="p3", response="r", label=PartialLabel(safe=True, categories=("Drugs",), severity=1)),
        QARecord(prompt="p4", response="r", label=PartialLabel(safe=True, categories=(), severity=3)),
        QARecord(prompt="p5", response=" "),
        QA,
        DualRecord(prompt="p", responses=("a", "b"), labels=(SAFE, HARM), safer=1),
    ]


def test_modes(tmp_path: Path) -> None:
    source = tables(tmp_path / "a", bad_rows())
    with pytest.raises(PoiseError, match=r"default/0: logical-order"):
        validate(source, "raise")
    kept = validate(source, "keep", tmp_path / "keep")
    assert open_tables(tmp_path / "keep").rows == source.rows
    assert {rule: n for rule, n in kept.counts.items() if n} == {
        "logical-order": 1,
        "response-hash": 1,
        "safe-severity-category": 2,
        "empty-text": 1,
        "duplicate-row": 1,
    }
    validate(source, "quarantine", tmp_path / "good")
    good = open_tables(tmp_path / "good")
    assert good.rows == {"qa": 1} and validate(good).ok
    lines = [json.loads(line) for line in (tmp_path / "good" / "quarantine.jsonl").read_text().splitlines()]
    assert [(line["rule"], line["where"]) for line in lines] == [
        ("logical-order", "default/0"),
        ("response-hash", "qa/1"),
        ("safe-severity-category", "qa/2"),
        ("safe-severity-category", "qa/3"),
        ("empty-text", "qa/4"),
        ("duplicate-row", "qa/5"),
    ]
    assert lines[2]["row"]["prompt"] == "p3"
    summary = json.loads((tmp_path / "good" / "validation.json").read_text())
    assert summary["ok"] is False and summary["rules"]["empty-text"]["broken"] == 1


def test_repair_mends_what_the_row_itself_decides(tmp_path: Path) -> None:
    found = validate(tables(tmp_path / "a", bad_rows()), "repair", tmp_path / "b")
    assert found.repaired == {
        "logical-order": 1,
        "response-hash": 1,
        "safe-severity-category": 2,
        "duplicate-row": 1,
    }
    assert {rule: n for rule, n in found.counts.items() if n} == {"empty-text": 1}
    mended = open_tables(tmp_path / "b")
    (pair,) = mended["default"].records()
    assert isinstance(pair, DualRecord) and pair.safer == 0
    labels = {record.prompt: record.label for record in mended["qa"].records() if isinstance(record, QARecord)}
    assert labels["p3"] == PartialLabel(safe=False, categories=("Drugs",), severity=1)
    assert labels["p4"] == SAFE
    assert validate(mended).ok
    listed = [json.loads(line) for line in (tmp_path / "b/repairs.jsonl").read_text().splitlines()]
    assert len(listed) == found.repaired.total()
    assert {tuple(entry["done"])[-1].split(":")[0] for entry in listed} >= {"duplicate-row", "safer_response_id"}
    assert [entry for entry in listed if entry["done"] == ["safer_response_id: 1 -> 0"]]


def test_a_judgement_about_a_response_that_is_not_there_is_a_warning(tmp_path: Path) -> None:
    row = QARecord(prompt="p", response="r", label=SAFE)
    kept = JudgementRecord(item=row.item, question="safe", value=True, rater="a", responses=(row.item,))
    gone = kept.model_copy(update={"item": "f" * 64, "responses": (row.item, "f" * 64)})
    about_a_prompt = kept.model_copy(update={"item": "prompt 7", "responses": ("prompt 7",)})
    found = validate(tables(tmp_path / "a", [row, kept, gone, about_a_prompt]))
    assert found.ok and found.counts["judgement-target"] == 1
    assert found.examples["judgement-target"] == ["judgements/1"]


def test_a_contradiction_of_two_facts_is_not_decided(tmp_path: Path) -> None:
    """Severity says harm, the flag says none, categories are not told: nothing outvotes anything."""
    row = QARecord(prompt="p", response="r", label=PartialLabel(safe=True, severity=2))
    found = validate(tables(tmp_path / "a", [row]), "repair", tmp_path / "b")
    assert found.repaired == {} and found.counts["safe-severity-category"] == 1


LABELS = st.sampled_from(
    [SAFE, HARM, PartialLabel(safe=False, categories=("Animal Abuse",), severity=1), PartialLabel()]
)


@settings(max_examples=20)
@given(seed=st.integers(0, 2**32), labels=st.lists(st.tuples(LABELS, LABELS), min_size=1, max_size=30))
def test_planted_violations_are_found_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, seed: int, labels: list[tuple[PartialLabel, PartialLabel]]
) -> None:
    draw = random.Random(seed)
    rows: list[dict[str, Any]] = []
    planted: dict[str, set[int]] = {rule: set() for rule in CHECKS}
    for number, pair in enumerate(labels):
        safer = draw.randint(0, 1)
        if pair[0].safe is not None and pair[1].safe is not None and pair[0].safe != pair[1].safe:
            safer = 0 if pair[0].safe else 1
        record = DualRecord(
            prompt=f"p{number}", responses=("a", "b"), labels=pair, better=draw.randint(0, 1), safer=safer
        )
        row = record.columns()
        one_safe = pair[0].safe != pair[1].safe and None not in (pair[0].safe, pair[1].safe)
        kind = draw.choice(["none", "hash", "range", "blank", *(["order"] if one_safe else [])])
        if kind == "hash":
            row["response_0_sha256"] = "f" * 64
            planted["response-hash"].add(number)
        elif kind == "range":
            row["better_response_id"] = 7
            planted["id-range"].add(number)
        elif kind == "blank":
            row |= DualRecord(prompt=f"p{number}", responses=("a", " "), labels=pair, safer=safer).columns()
            planted["empty-text"].add(number)
        elif kind == "order":
            row["safer_response_id"] = 1 - safer
            planted["logical-order"].add(number)
        rows.append(row)
    folder = tmp_path_factory.mktemp("planted")
    (folder / "data" / "default").mkdir(parents=True)
    pq.write_table(
        pa.Table.from_pylist(rows, schema=TABLES["default"]), folder / "data" / "default" / "part-00000.parquet"
    )
    found = validate(open_tables(folder))
    truth = {rule: len(places) for rule, places in planted.items() if places}
    assert {rule: n for rule, n in found.counts.items() if n and RULES[rule].level == "error"} == truth
    for rule, places in planted.items():
        assert {int(place.split("/")[1]) for place in found.examples.get(rule, [])} <= places


def release(folder: Path) -> Path:
    """A small release by hand: one QA row in train, one in test."""
    for split, prompt in (("train", "how do teapots work, and why"), ("test", "what is a violin made of")):
        row = QARecord(prompt=prompt, response="r", prompt_source="s", response_source="m", label=HARM).columns()
        names = [
            name
            for name in TABLES["qa"].names
            if name
            in (
                "prompt",
                "response",
                "prompt_source",
                "response_source",
                "is_safe",
                "harm_category",
                "severity_level",
                "sha256",
            )
        ]
        schema = pa.schema([TABLES["qa"].field(name) for name in names])
        path = folder / "data" / "qa" / f"{split}-00000-of-00001.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist([{name: row[name] for name in names}], schema=schema), path)
    return folder


def test_a_release_is_checked_from_its_files(tmp_path: Path) -> None:
    found = validate_release(release(tmp_path))
    assert found.ok and found.rows == {"qa/test": 1, "qa/train": 1}
    (tmp_path / "data" / "other").mkdir()
    assert validate_release(tmp_path).unread == ["other"]


def test_a_leak_a_changed_file_and_a_wrong_type_are_found(tmp_path: Path) -> None:
    release(tmp_path)
    test = tmp_path / "data" / "qa" / "test-00000-of-00001.parquet"
    table = pq.read_table(test)
    manifest = {
        "files": [
            {"path": "data/qa/test-00000-of-00001.parquet", "sha256": "0"},
            {"path": "data/qa/gone.parquet", "sha256": "0"},
        ]
    }
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    found = validate_release(tmp_path)
    assert found.examples["manifest"] == [
        "data/qa/train-00000-of-00001.parquet",
        "data/qa/test-00000-of-00001.parquet",
        "data/qa/gone.parquet",
    ]
    leaked = QARecord(
        prompt="How do teapots work, and why", response="r", prompt_source="s", response_source="m", label=HARM
    )
    rows = [{name: value for name, value in leaked.columns().items() if name in table.column_names}]
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), test)
    assert validate_release(tmp_path).examples["split-leak"] == ["qa/test/0"]
    pq.write_table(table.set_column(6, "severity_level", table["severity_level"].cast(pa.int32())), test)
    assert validate_release(tmp_path).examples["field-type"] == ["qa/test-00000-of-00001.parquet"]


def test_the_summary_is_readable(tmp_path: Path) -> None:
    text = validate(tables(tmp_path / "a", bad_rows())).summary()
    assert "default 1, qa 6" in text and text.endswith("not valid")
    assert "logical-order" in text and "p3" not in text


def test_two_safe_flags_of_one_response_are_a_conflict_without_severity(tmp_path: Path) -> None:
    safe = QARecord(prompt="p", response="b", label=PartialLabel(safe=True))
    pair = DualRecord(prompt="p", responses=("b", "z"), labels=(PartialLabel(safe=False), PartialLabel()))
    found = validate(tables(tmp_path / "a", [pair, safe, safe.model_copy(update={"prompt": "q", "sha256": None})]))
    assert found.counts["label-conflict"] == 1 and found.examples["label-conflict"] == ["qa/0"]


def test_a_probability_that_is_no_number_is_kept_out(tmp_path: Path) -> None:
    row = JudgementRecord(item="i", question="safe", rater="r", responses=("h",), probability=float("nan"))
    found = validate(tables(tmp_path / "a", [row]), "quarantine", tmp_path / "b")
    assert found.counts["id-range"] == 1
    assert json.loads((tmp_path / "b" / "quarantine.jsonl").read_text())["row"]["probability"] == "nan"


def test_repair_decides_nothing_from_a_value_out_of_range_and_nothing_for_a_neighbour(tmp_path: Path) -> None:
    odd = QARecord(prompt="a", response="b", label=PartialLabel(safe=False, categories=(), severity=-1))
    wrong = QARecord(prompt="c", response="d", sha256="0" * 64)
    blank = QARecord(prompt="e", response=" ", sha256="1" * 64)
    rows = [record.columns() for record in (odd, wrong, blank)] + [QA.columns() | {"sha256": None}]
    folder = tmp_path / "a" / "data" / "qa"
    folder.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=TABLES["qa"]), folder / "part-00000.parquet")
    found = validate(open_tables(tmp_path / "a"), "repair", tmp_path / "b")
    assert found.repaired == {"response-hash": 1}
    assert {rule: n for rule, n in found.counts.items() if n} == {
        "id-range": 1,
        "safe-severity-category": 1,
        "empty-text": 1,
        "response-hash": 1,
    }
    lines = [json.loads(line) for line in (tmp_path / "b" / "quarantine.jsonl").read_text().splitlines()]
    assert [(line["where"], line["row"]["sha256"]) for line in lines] == [("qa/0", odd.item), ("qa/2", "1" * 64)]
    (batch,) = open_tables(tmp_path / "b")["qa"].batches()
    assert batch.column("sha256").to_pylist() == [QARecord(prompt="c", response="d").item, None]


@pytest.mark.parametrize(
    ("name", "column"), [("severity_level", ["high"]), ("harm_category", ["x"]), ("prompt", [1]), ("is_safe", ["yes"])]
)
def test_a_column_of_another_kind_is_counted_in_file_and_rows(tmp_path: Path, name: str, column: list[Any]) -> None:
    test = release(tmp_path) / "data" / "qa" / "test-00000-of-00001.parquet"
    table = pq.read_table(test)
    pq.write_table(table.set_column(table.column_names.index(name), name, pa.array(column)), test)
    found = validate_release(tmp_path)
    assert {rule: n for rule, n in found.counts.items() if n} == {"field-type": 2}
    assert found.examples["field-type"] == ["qa/test/0", "qa/test-00000-of-00001.parquet"]


def test_a_release_with_bad_bytes_in_a_prompt_is_reported(tmp_path: Path) -> None:
    test = release(tmp_path) / "data" / "qa" / "test-00000-of-00001.parquet"
    table = pq.read_table(test)
    raw = pa.array([b"\xff"], type=pa.binary()).buffers()
    texts = pa.StringArray.from_buffers(1, raw[1], raw[2])
    pq.write_table(table.set_column(0, table.schema.field(0), texts), test)
    assert {rule: n for rule, n in validate_release(tmp_path).counts.items() if n} == {"encoding": 1}


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"files": "x"}', '{"files": [{}]}', '{"files": [1]}'])
def test_a_manifest_of_another_kind_breaks_the_rule(tmp_path: Path, text: str) -> None:
    (release(tmp_path) / "manifest.json").write_text(text)
    assert validate_release(tmp_path).examples["manifest"] == ["manifest.json"]


def test_the_manifest_names_every_table_and_nothing_outside(tmp_path: Path) -> None:
    folder = release(tmp_path / "r")
    (tmp_path / "outside.txt").write_text("x")
    outside = {"path": "../outside.txt", "sha256": hashlib.sha256(b"x").hexdigest()}
    (folder / "manifest.json").write_text(json.dumps({"files": [outside]}))
    assert validate_release(folder).examples["manifest"] == [
        "data/qa/test-00000-of-00001.parquet",
        "data/qa/train-00000-of-00001.parquet",
        "../outside.txt",
    ]
