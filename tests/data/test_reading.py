"""Files of a format to tables and back: nothing is lost silently, nothing bad gets in, wrong files say so."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from poise.annotate.agreement.reading import read_questions
from poise.data.adapters.base import BadRowError, Format, SourceRow
from poise.data.adapters.registry import format_of
from poise.data.columns import SCHEMAS
from poise.data.containers import Line, write_lines
from poise.data.reading import Reader
from poise.data.records import JudgementRecord, PartialLabel, QARecord, Record
from poise.data.tables import Tables, merge_tables, open_tables
from poise.data.validate import validate
from poise.data.writing import write_format
from poise.errors import PoiseError


def decode(line: Line) -> Iterator[Record]:
    """A toy format: q, a, ok; each row is one annotator's."""
    if line.row["a"] == "tie":
        raise BadRowError("no-vote", "a tie")
    label = PartialLabel(safe=line.row["ok"])
    record = QARecord(prompt=line.row["q"], response=line.row["a"], label=label)
    yield record
    value = {"safe": line.row["ok"]}
    yield JudgementRecord(item=record.item, question="label", value=value, rater="someone", responses=(record.item,))


def encode(record: Record, judgements: Sequence[JudgementRecord]) -> Iterator[SourceRow]:
    assert isinstance(record, QARecord)
    for judgement in judgements:
        yield {"q": record.prompt, "a": record.response, "ok": judgement.value["safe"]}


TOY = Format("toy", "for tests", ("q", "a", "ok"), decode, encode, ("qa",), repeats=True, licence="MIT")
ONCE = Format("once", "for tests", ("q", "a", "ok"), decode, encode, ("qa",))


def source(folder: Path, *rows: dict[str, Any], name: str = "rows.jsonl") -> Path:
    write_lines(folder / name, rows)
    return folder / name


def raters(tables: Tables) -> list[tuple[str, int]]:
    return [(r.rater, r.round) for r in tables["judgements"].records() if isinstance(r, JudgementRecord)]


def row(q: str = "q", a: str = "a", ok: object = True) -> dict[str, Any]:
    return {"q": q, "a": a, "ok": ok}


def test_annotations_of_one_item_become_one_row_and_all_judgements(tmp_path: Path) -> None:
    path = source(
        tmp_path,
        row(ok=True),
        row(q="z", ok=False),
        row(ok=False),
        row(ok=False),
        row(a="b", ok=True),
        row(a="b", ok=False),
    )
    tables = Reader(TOY, dataset="mine").read([path], tmp_path / "out")
    labels = [(r.prompt, r.response, r.label.safe) for r in tables["qa"].records() if isinstance(r, QARecord)]
    assert labels == [("q", "a", False), ("z", "a", False), ("q", "b", None)]  # most say; a tie is unjudged
    judged = [r for r in tables["judgements"].records() if isinstance(r, JudgementRecord)]
    mark = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    assert [r.rater for r in judged] == [f"someone-{mark}-{n}" for n in (1, 1, 2, 3, 1, 2)]
    assert {r.round for r in judged} == {0}
    assert {(r.dataset, r.licence) for r in judged} == {("mine", "MIT")}
    write_format(tables, TOY, tmp_path / "again.jsonl")
    again = [json.loads(line) for line in (tmp_path / "again.jsonl").read_text().splitlines()]
    assert sorted(map(str, again)) == sorted(map(str, [json.loads(line) for line in path.read_text().splitlines()]))


def test_annotations_of_one_item_are_by_several_raters_wherever_they_stand(tmp_path: Path) -> None:
    files = [source(tmp_path, row(ok=False), row(ok=False), name="a.jsonl"), source(tmp_path, row(), name="b.jsonl")]
    tables = Reader(TOY).read(files, tmp_path / "out")
    a, b = (hashlib.sha256(file.read_bytes()).hexdigest()[:8] for file in files)
    by = [f"someone-{a}-1", f"someone-{a}-2", f"someone-{b}-1"]
    assert raters(tables) == [(name, 0) for name in by]
    assert validate(tables).counts["duplicate-row"] == 0
    apart = [Reader(TOY).read([file], tmp_path / file.stem) for file in files]
    merged = merge_tables(apart, tmp_path / "merged")
    assert raters(merged) == raters(tables)
    (ratings,) = [question.ratings for question in read_questions(merged).values()]
    assert ratings.rater.size == 3  # two say unsafe, one says safe: nobody took another's place


def test_a_file_that_is_read_twice_is_no_second_vote(tmp_path: Path) -> None:
    files = [source(tmp_path, row(ok=False), row(ok=False), name="a.jsonl"), source(tmp_path, row(), name="b.jsonl")]
    again = tmp_path / "test.jsonl"  # a name that tells a split, which is that of the first file
    again.write_bytes(files[1].read_bytes())
    once, twice = Reader(TOY).read(files, tmp_path / "once"), Reader(TOY).read([*files, again], tmp_path / "twice")
    assert list(twice["judgements"].records()) == list(once["judgements"].records())
    assert list(twice["qa"].records()) == list(once["qa"].records())  # unsafe by 2 to 1, no tie
    merged = merge_tables([once, Reader(TOY, "repair").read([again], tmp_path / "again")], tmp_path / "merged")
    (question,) = read_questions(merged).values()
    assert question.ratings.rater.size == 3 and question.repeated == 1
    assert validate(merged).counts["duplicate-row"] == 2  # the item and its judgement


def test_bad_rows_are_quarantined_with_rule_place_and_row(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    lines = [
        json.dumps(row()),
        "{broken",
        json.dumps(row(ok="yes")),
        json.dumps(row(a="tie")),
        json.dumps(row(q="\ud800")),
        '{"q": "x"}',
    ]
    path.write_text("\n".join(lines), encoding="utf-8")
    tables = Reader(ONCE).read([path], tmp_path / "out")
    assert tables.rows["qa"] == 1
    kept = [json.loads(line) for line in (tmp_path / "out" / "quarantine.jsonl").read_text().splitlines()]
    assert [(entry["rule"], entry["where"].rsplit(":", 1)[1]) for entry in kept] == [
        ("broken-json", "2"),
        ("field-type", "3"),
        ("no-vote", "4"),
        ("encoding", "5"),
        ("unusable", "6"),
    ]
    assert kept[1]["row"]["ok"] == "yes" and "yes" not in kept[1]["reason"]
    assert tables.manifest()["step"]["left_out"] == {
        "broken-json": 1,
        "encoding": 1,
        "field-type": 1,
        "no-vote": 1,
        "unusable": 1,
    }


def test_raise_and_repair(tmp_path: Path) -> None:
    path = source(tmp_path, row(), {"q": "\ud800", "a": "a", "ok": True})
    with pytest.raises(PoiseError, match=r"rows\.jsonl:2: encoding"):
        Reader(ONCE, "raise").read([path], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    tables = Reader(ONCE, "repair").read([path], tmp_path / "out")
    assert [r.prompt for r in tables["qa"].records() if isinstance(r, QARecord)] == ["q", "\N{REPLACEMENT CHARACTER}"]
    (listed,) = map(json.loads, (tmp_path / "out/repairs.jsonl").read_text().splitlines())
    assert listed["where"].endswith("rows.jsonl:2") and listed["done"] == ["q: lone surrogate"]


def test_a_file_in_another_format_and_one_without_a_usable_row_say_so(tmp_path: Path) -> None:
    with pytest.raises(PoiseError, match="no column 'ok'; it has 'q', 'a'"):
        Reader(ONCE).read([source(tmp_path, {"q": "x", "a": "y"})], tmp_path / "out")
    with pytest.raises(PoiseError, match=r"no usable row: no-vote \(2\)"):
        Reader(ONCE).read([source(tmp_path, row(a="tie"), row(a="tie"))], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_split_is_the_users_or_the_file_names(tmp_path: Path) -> None:
    paths = [source(tmp_path, row(q=name), name=name) for name in ("train-0.jsonl", "test.jsonl", "other.jsonl")]
    tables = Reader(ONCE).read(paths, tmp_path / "a")
    assert [r.split for r in tables["qa"].records()] == ["train", "test", None]
    tables = Reader(ONCE, split="test").read(paths, tmp_path / "b")
    assert {r.split for r in tables["qa"].records()} == {"test"}


@pytest.mark.parametrize(
    ("stored", "option", "split"),
    [(None, "test", ["test"] * 3), (None, None, ["train", "test", None]), (["test", None], "train", ["test", "train"])],
)
def test_the_split_of_columns_is_that_of_rows(
    stored: list[str | None] | None, option: Any, split: list[str | None], tmp_path: Path
) -> None:
    """A stored split counts, then the option, then the file's name; in Parquet as in JSON lines."""
    label = PartialLabel(safe=True, categories=(), severity=0)
    whole = QARecord(prompt="p", response="r", label=label).columns()
    plain = {name: whole[name] for name in SCHEMAS["qa"].names}
    schema = SCHEMAS["qa"]
    if stored is None:
        files = [tmp_path / f"{name}.parquet" for name in ("train-00000", "test_set", "other")]
        for file in files:
            write_lines(file, [plain], schema)
    else:
        files = [tmp_path / "rows.parquet"]
        write_lines(
            files[0], [plain | {"split": told} for told in stored], schema.append(pa.field("split", pa.string()))
        )
    tables = Reader(format_of("pku-qa"), split=option).read(files, tmp_path / "out")
    assert [record.split for record in tables["qa"].records()] == split


def test_files_with_our_columns_are_copied_by_column(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A PKU-QA Parquet file never becomes Python rows; one whose ids are texts does, and its rows are quarantined."""
    native = Format("pku-qa", "", ("prompt", "response"), decode)
    label = PartialLabel(safe=False, categories=("Drugs",), severity=1)
    rows = [QARecord(prompt=f"p{n}", response="r", label=label).columns() for n in range(3)]
    table = [{name: r[name] for name in SCHEMAS["qa"].names} for r in rows]
    write_lines(tmp_path / "a.parquet", table, SCHEMAS["qa"])
    with monkeypatch.context() as patched:
        patched.setattr("poise.data.reading.read_lines", None)
        tables = Reader(native, dataset="mine").read([tmp_path / "a.parquet"], tmp_path / "out")
    records = [r for r in tables["qa"].records() if isinstance(r, QARecord)]
    assert [r.label for r in records] == [label] * 3 and {r.dataset for r in records} == {"mine"}
    assert pq.read_schema(tables["qa"].files[0]).names[:8] == SCHEMAS["qa"].names
    write_lines(tmp_path / "b.parquet", [{**table[0], "severity_level": "1"}])
    with pytest.raises(PoiseError, match="no usable row"):
        Reader(native).read([tmp_path / "b.parquet"], tmp_path / "out2")


def test_writing_what_can_not_be_written_says_so(tmp_path: Path) -> None:
    tables = Reader(ONCE).read([source(tmp_path, row())], tmp_path / "out")
    with pytest.raises(PoiseError, match="only read"):
        write_format(tables, Format("x", "", (), decode), tmp_path / "x.jsonl")
    with pytest.raises(PoiseError, match="no default rows"):
        write_format(
            open_tables(tmp_path / "out"), Format("x", "", (), decode, encode, ("default",)), tmp_path / "x.jsonl"
        )


@pytest.mark.parametrize("level", ["NaN", "Infinity", "1e400", str(2**63), str(10**30)])
def test_a_number_that_no_column_holds_is_kept_out(tmp_path: Path, level: str) -> None:
    file = tmp_path / "in.jsonl"
    good = '{"prompt":"p","response":"r","response_source":"m","is_safe":true,"severity_level":0}'
    file.write_text(f"{good}\n{good.replace(':0', f':{level}')}\n")
    tables = Reader(format_of("pku-qa")).read([file], tmp_path / "out")
    assert tables.rows == {"qa": 1}
    (line,) = (tmp_path / "out" / "quarantine.jsonl").read_text().splitlines()
    assert json.loads(line)["rule"] == "field-type"


def test_no_number_in_what_a_format_only_carries_is_quarantined(tmp_path: Path) -> None:
    path = tmp_path / "chat.jsonl"
    said = '"messages": [{"role": "user", "content": "hi"}]'
    path.write_text(f'{{{said}, "x": {{"y": [NaN]}}}}\n{{{said}, "x": 1}}\n', encoding="utf-8")
    tables = Reader(format_of("openai-chat")).read([path], tmp_path / "out")
    assert tables.rows == {"prompt": 1}
    (kept,) = (tmp_path / "out" / "quarantine.jsonl").read_text().splitlines()
    assert json.loads(kept)["where"] == f"{path}:1"
