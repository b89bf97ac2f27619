"""Tables at rest: records go in and come out, the folder appears only when complete, foreign writers are read."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from poise.data import tables as tables_module
from poise.data.adapters.registry import format_of
from poise.data.columns import SCHEMAS, TABLES, UNITS, response_hash
from poise.data.from_columns import record_of
from poise.data.reading import Reader
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
from poise.data.tables import TableWriter, merge_tables, open_tables
from poise.errors import PoiseError
from poise.harm import CATEGORIES

TEXT = st.text(st.characters(codec="utf-8"), max_size=20)
NAMES = st.sets(st.sampled_from([category.value for category in CATEGORIES]), max_size=3).map(tuple)
LABEL = st.one_of(
    st.builds(
        PartialLabel,
        safe=st.none() | st.booleans(),
        categories=st.none() | NAMES,
        severity=st.none() | st.integers(-5, 9),
    ),
    st.builds(
        PartialLabel,
        safe=st.none() | st.booleans(),
        categories=st.sets(st.sampled_from(["self_harm", "a,b"])).map(tuple),
        taxonomy=st.just("beavertails-14"),
    ),
)
CARRIED = {
    "split": st.none() | st.sampled_from(["train", "test"]),
    "turns": st.lists(st.builds(Turn, role=st.sampled_from(["user", "assistant"]), content=TEXT), max_size=2).map(
        tuple
    ),
    "image": st.none() | TEXT.filter(bool),
    "language": st.none() | st.just("de"),
    "dataset": st.none() | TEXT,
    "licence": st.none() | TEXT,
    "source_id": st.none() | TEXT,
    "provenance": st.none() | st.dictionaries(TEXT, st.integers() | TEXT, max_size=2),
}
PAIR = {
    "prompt": TEXT,
    "responses": st.tuples(TEXT, TEXT),
    "prompt_source": st.none() | TEXT,
    "response_sources": st.tuples(st.none() | TEXT, st.none() | TEXT),
    "better": st.none() | st.integers(0, 1),
}
RECORDS: st.SearchStrategy[Record] = st.one_of(
    st.builds(
        PromptRecord,
        prompt=TEXT,
        source=st.none() | TEXT,
        kind=st.sampled_from(["harmful", "unknown"]),
        severity=st.integers(0, 3),
        category=st.none() | st.just("S6"),
        label=LABEL.map(lambda label: label.model_copy(update={"severity": None})),
        **CARRIED,
    ),
    st.builds(QARecord, prompt=TEXT, response=TEXT, response_source=st.none() | TEXT, label=LABEL, **CARRIED),
    st.builds(SingleRecord, **PAIR, **CARRIED),
    st.builds(DualRecord, **PAIR, labels=st.tuples(LABEL, LABEL), safer=st.none() | st.integers(0, 1), **CARRIED),
    st.builds(
        JudgementRecord,
        item=TEXT,
        question=st.sampled_from(["label", "better"]),
        value=st.none() | st.booleans() | st.dictionaries(TEXT, st.integers()),
        rater=TEXT,
        probability=st.none() | st.floats(0, 1),
        responses=st.tuples(TEXT) | st.tuples(TEXT, TEXT),
        **CARRIED,
    ),
    st.builds(CorrectionRecord, question=TEXT, answer=TEXT, correction=TEXT, **CARRIED),
)


@given(record=RECORDS)
def test_a_record_comes_back_from_its_columns(record: Record) -> None:
    row = pa.RecordBatch.from_pylist([record.columns()], schema=TABLES[record.unit]).to_pylist()[0]
    again = record_of(record.unit, row)
    same = {"sha256", "hashes"}  # computed where the record had none
    assert again.model_dump(exclude=same) == record.model_dump(exclude=same)
    assert again.columns() == record.columns()


def test_the_hash_is_the_public_one_and_tells_conversations_apart() -> None:
    assert response_hash("ab", "c") == hashlib.sha256(b"abc").hexdigest()
    turn = Turn(role="user", content="before")
    hashes = {
        QARecord(prompt="ab", response="c").item,
        QARecord(prompt="ab", response="c", turns=(turn,)).item,
        QARecord(prompt="ab", response="c", image="a.png").item,
    }
    assert len(hashes) == 3
    assert QARecord(prompt="ab", response="c", sha256="said").item == "said"


def test_categories_are_kept_in_card_order_once() -> None:
    label = PartialLabel(categories=("Violence", "Drugs", "Insulting Behavior", "Drugs"))
    assert label.categories == ("Insulting Behavior", "Violence", "Drugs")
    flags = label.flags()
    assert flags is not None and [name for name, true in flags.items() if true] == list(label.categories)
    assert PartialLabel(categories=("x",), taxonomy="other").flags() is None
    with pytest.raises(ValueError, match="no harm category"):
        PartialLabel(categories=("x",)).flags()


def write(folder: Path, n: int = 3, **settings: bool) -> None:
    with TableWriter(folder, {"name": "test"}, **settings) as writer:
        for i in range(n):
            writer.add(QARecord(prompt=f"p{i}", response="r"))
            writer.add(PromptRecord(prompt=f"p{i}"))


def test_a_folder_has_a_manifest_that_is_true_and_the_same_bytes_again(tmp_path: Path) -> None:
    write(tmp_path / "a")
    write(tmp_path / "b")
    tables = open_tables(tmp_path / "a")
    assert list(tables) == ["qa", "prompt"] and tables.rows == {"qa": 3, "prompt": 3}
    for entry in tables.manifest()["files"]:
        content = (tmp_path / "a" / entry["path"]).read_bytes()
        assert entry["sha256"] == hashlib.sha256(content).hexdigest() and entry["bytes"] == len(content)
        assert content == (tmp_path / "b" / entry["path"]).read_bytes()
    assert tables.digest() == open_tables(tmp_path / "b").digest()
    assert [record.prompt for record in tables["prompt"].records() if isinstance(record, PromptRecord)] == [
        "p0",
        "p1",
        "p2",
    ]


def test_batches_are_cut_and_columns_chosen(tmp_path: Path) -> None:
    write(tmp_path / "a", n=5)
    batches = list(open_tables(tmp_path / "a")["qa"].batches(["response", "prompt"], size=2))
    assert [batch.num_rows for batch in batches] == [2, 2, 1]
    assert batches[0].schema.names == ["response", "prompt"]


def test_a_large_table_is_cut_into_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables_module, "SHARD_BYTES", 1)
    monkeypatch.setattr(tables_module, "BATCH", 2)
    write(tmp_path / "a", n=5)
    table = open_tables(tmp_path / "a")["qa"]
    assert [file.name for file in table.files] == [f"part-{i:05d}.parquet" for i in range(3)]
    assert table.rows == 5
    assert [r.prompt for r in table.records() if isinstance(r, QARecord)] == [f"p{i}" for i in range(5)]


def test_nothing_is_left_when_it_breaks(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), TableWriter(tmp_path / "a", {"name": "test"}) as writer:
        writer.add(PromptRecord(prompt="p"))
        writer.quarantine("rule", "reason", "file:1", {"x": 1})
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_is_removed_and_a_living_one_is_let_be(tmp_path: Path) -> None:
    program = (
        "import os, pathlib, signal\n"
        "from poise.data.tables import TableWriter\n"
        f"with TableWriter(pathlib.Path({str(tmp_path / 'a')!r}), {{}}):\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=False)
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".a.") and left.name.endswith(".partial")
    (tmp_path / f".a.{os.getppid()}.partial").mkdir()  # the test's parent is alive
    write(tmp_path / "a")
    assert sorted(path.name for path in tmp_path.iterdir()) == [f".a.{os.getppid()}.partial", "a"]


def test_a_full_disk_says_so_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq.ParquetWriter, "write_batch", full)
    with pytest.raises(PoiseError, match="No space left") as caught:
        write(tmp_path / "a")
    assert caught.value.exit_code == 3
    assert list(tmp_path.iterdir()) == []


def test_an_earlier_result_is_replaced_only_when_asked(tmp_path: Path) -> None:
    write(tmp_path / "a", n=1)
    with pytest.raises(PoiseError, match="not empty"):
        write(tmp_path / "a", n=2)
    assert open_tables(tmp_path / "a").rows["qa"] == 1
    write(tmp_path / "a", n=2, replace=True)
    assert open_tables(tmp_path / "a").rows["qa"] == 2


def test_nothing_but_an_earlier_result_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "notes.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for name in ("own", "file"):
        with pytest.raises(PoiseError, match="holds no earlier result"):
            write(tmp_path / name, replace=True)
    assert (tmp_path / "own" / "notes.txt").read_text() == (tmp_path / "file").read_text() == "mine"


def test_what_is_read_is_not_replaced(tmp_path: Path) -> None:
    write(tmp_path / "a")
    tables = open_tables(tmp_path / "a")
    source = tmp_path / "a" / "raw.jsonl"
    source.write_text('{"prompt": "p", "response": "r", "is_safe": true}\n')
    with pytest.raises(PoiseError, match=r"raw\.jsonl, which is read"):
        Reader(format_of("pku-qa")).read([source], tmp_path / "a", replace=True)
    with pytest.raises(PoiseError, match="which is read"):
        merge_tables([tables], tmp_path / "a", replace=True)
    assert source.is_file() and open_tables(tmp_path / "a").rows == tables.rows


def test_quarantine_names_rule_reason_and_place(tmp_path: Path) -> None:
    with TableWriter(tmp_path / "a", {"name": "test"}) as writer:
        writer.add(PromptRecord(prompt="p"))
        writer.quarantine("encoding", "lone surrogate", "f.jsonl:7", {"prompt": "\ud800"})
    (line,) = (tmp_path / "a" / "quarantine.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(line) == {
        "rule": "encoding",
        "reason": "lone surrogate",
        "where": "f.jsonl:7",
        "row": {"prompt": "\ud800"},
    }
    assert open_tables(tmp_path / "a").manifest()["step"]["left_out"] == {"encoding": 1}


def test_files_of_other_writers_are_read(tmp_path: Path) -> None:
    """Large strings, 32-bit integers, struct fields in another order, absent columns; the split is the file's name."""
    flags = {category.value: category.value == "Drugs" for category in reversed(CATEGORIES)}
    row = {"prompt": "p", "response": "r", "is_safe": False, "harm_category": flags, "severity_level": 2}
    schema = pa.schema(
        [
            ("severity_level", pa.int32()),
            ("prompt", pa.large_string()),
            ("response", pa.string()),
            ("is_safe", pa.bool_()),
            ("harm_category", pa.struct([(category.value, pa.bool_()) for category in reversed(CATEGORIES)])),
        ]
    )
    (tmp_path / "data" / "qa").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist([row], schema=schema), tmp_path / "data/qa/test-00000-of-00001.parquet")
    (record,) = open_tables(tmp_path)["qa"].records()
    assert isinstance(record, QARecord)
    assert record.label == PartialLabel(safe=False, categories=("Drugs",), severity=2)
    assert record.split == "test" and record.prompt_source is None


def test_a_column_of_another_type_names_column_and_file(tmp_path: Path) -> None:
    (tmp_path / "data" / "prompt").mkdir(parents=True)
    pq.write_table(pa.table({"prompt": ["p"], "severity": ["high"]}), tmp_path / "data/prompt/train.parquet")
    with pytest.raises(PoiseError, match=r"train\.parquet.*'severity' is string"):
        list(open_tables(tmp_path)["prompt"].batches())


def test_a_damaged_file_and_an_empty_folder_say_so(tmp_path: Path) -> None:
    with pytest.raises(PoiseError, match="no such folder"):
        open_tables(tmp_path / "none")
    (tmp_path / "rows.jsonl").touch()
    with pytest.raises(
        PoiseError, match=r"is a file; tables are a folder \(make them of it: poise data read .*rows.jsonl --out DIR"
    ):
        open_tables(tmp_path / "rows.jsonl")
    with pytest.raises(PoiseError, match="no data/<unit>"):
        open_tables(tmp_path)
    (tmp_path / "data" / "qa").mkdir(parents=True)
    (tmp_path / "data/qa/train.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(PoiseError, match="no readable Parquet"):
        list(open_tables(tmp_path)["qa"].batches())


def test_every_unit_has_columns_at_rest() -> None:
    assert set(TABLES) == set(SCHEMAS) == set(UNITS)
    for unit in UNITS:
        assert TABLES[unit].names[: len(SCHEMAS[unit].names)] == SCHEMAS[unit].names
        assert len(set(TABLES[unit].names)) == len(TABLES[unit].names)
