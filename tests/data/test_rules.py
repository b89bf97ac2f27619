"""The rules over batches say of every row what the same rules, written again for one row at a time, say of it."""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from poise.data.columns import RESPONSES, TABLES, hash_column, label_columns, prompt_column, response_hash
from poise.data.rules import CHECKS, View, broken_rows
from poise.data.tables import open_tables
from poise.data.validate import validate
from poise.harm import CATEGORIES

Row = dict[str, Any]
NAMES = [category.value for category in CATEGORIES]
UNITS = ("default", "single-dimension", "qa", "prompt", "judgements", "corrections")


def label_of(draw: random.Random) -> tuple[bool | None, Row | None, int | None]:
    """A label without contradiction, of which anything may be unknown."""
    severity = draw.choice([0, 0, 1, 2, 3])
    flags = dict.fromkeys(NAMES, False) | (dict.fromkeys(draw.sample(NAMES, 2), True) if severity else {})
    known = draw.choice([(1, 1, 1), (1, 1, 1), (1, 0, 0), (0, 1, 1), (1, 1, 0), (0, 0, 0)])
    return severity == 0 if known[0] else None, flags if known[1] else None, severity if known[2] else None


def row_of(unit: str, number: int, draw: random.Random) -> Row:
    """A valid row that is like no other."""
    row: Row = dict.fromkeys(TABLES[unit].names)
    if unit == "judgements":
        return row | {"item": f"i{number}", "question": "safe", "rater": "r", "round": draw.randrange(3)}
    if draw.random() < 0.2:
        row |= {"turns": [{"role": "user", "content": draw.choice(["é", ""])}], "image": draw.choice([None, "a.png"])}
    asked = prompt_column(unit) or ""
    row[asked] = f"{number} {draw.choice(['what?', 'où ça?', '什么'])}"
    if unit == "prompt":
        return row | {"category": draw.choice(["S6", "Violence", None]), "severity": draw.randrange(4)}
    turns = [(turn["role"], turn["content"]) for turn in row["turns"] or ()]
    for response in RESPONSES[unit]:
        row[response] = f"{response} {draw.random()}"
        row[hash_column(unit, response)] = response_hash(row[asked], row[response], turns, row["image"])
        if names := label_columns(unit, response):
            row |= dict(zip(names, label_of(draw), strict=True))
    if unit in ("default", "single-dimension"):
        row["better_response_id"] = draw.choice([0, 1, None])
    if unit == "default":
        safe = [row["is_response_0_safe"], row["is_response_1_safe"]]
        row["safer_response_id"] = draw.choice([0, 1, None])
        if None not in safe and safe[0] != safe[1] and row["safer_response_id"] is not None:
            row["safer_response_id"] = 0 if safe[0] else 1
    return row


def break_something(unit: str, row: Row, draw: random.Random) -> None:
    """Write another value into one column, whatever that breaks."""
    column = draw.choice([name for name in TABLES[unit].names if name not in ("turns", "provenance", "split")])
    kind = TABLES[unit].field(column).type
    if pa.types.is_string(kind):
        row[column] = draw.choice([None, "", " \u2003\n", "S20", "f" * 64, "x"])
    elif pa.types.is_integer(kind):
        row[column] = draw.choice([None, -1, 0, 1, 2, 3, 4, 2**62])
    elif pa.types.is_boolean(kind):
        row[column] = draw.choice([None, True, False])
    elif pa.types.is_struct(kind):
        row[column] = draw.choice([None, dict.fromkeys(NAMES, False), dict.fromkeys(NAMES, False) | {NAMES[3]: True}])
    elif pa.types.is_floating(kind):
        row[column] = draw.choice([None, 0.0, 1.0, -0.1, 1.1, float("nan")])


def torn(label: tuple[bool | None, Row | None, int | None]) -> bool:
    """Whether two known facts of a label contradict each other."""
    safe, flags, severity = label
    facts = [None if safe is None else not safe, None if flags is None else any(flags.values())]
    facts.append(severity > 0 if severity is not None and 0 <= severity <= 3 else None)
    return len({fact for fact in facts if fact is not None}) > 1


def expected(unit: str, row: Row) -> set[str]:
    """The rules of `CHECKS` that a row breaks, of what `break_something` can break."""
    found = set()
    texts = [name for name in (prompt_column(unit), *RESPONSES[unit]) if name]
    needed = texts or ["item", "question", "rater"]
    if any(row[name] is None for name in needed):
        found.add("field-type")
    if any(row[name] is not None and not row[name].strip() for name in texts):
        found.add("empty-text")
    tops = {name: 3 for name in row if name.endswith(("severity", "severity_level"))}
    tops |= {name: 1 for name in row if name.endswith("_response_id")}
    out = [name for name, top in tops.items() if row[name] is not None and not 0 <= row[name] <= top]
    if unit == "judgements":
        out += ["round"] if (row["round"] or 0) < 0 else []
        chance = row["probability"]
        out += ["probability"] if chance is not None and not 0 <= chance <= 1 else []
    if out:
        found.add("id-range")
    codes = [category.code for category in CATEGORIES]
    if unit == "prompt" and row["category"] not in (None, *NAMES, *codes):
        found.add("unknown-category")
    labels = [
        (row[names[0]], row[names[1]], row[names[2]]) for r in RESPONSES[unit] if (names := label_columns(unit, r))
    ]
    if any(map(torn, labels)):
        found.add("safe-severity-category")
    if unit == "default" and row["safer_response_id"] is not None and not any(map(torn, labels)):
        safe = [labels[0][0], labels[1][0]]
        if None not in safe and safe[0] != safe[1] and row["safer_response_id"] != safe.index(True):
            found.add("logical-order")
    before = "".join(f"{turn['role']}\x1f{turn['content']}\x1e" for turn in row["turns"] or ())
    before += f"{row['image']}\x1d" if row["image"] else ""
    for response in RESPONSES[unit]:
        asked, answer, told = row[texts[0]], row[response], row[hash_column(unit, response)]
        if None not in (asked, answer, told):
            digest = hashlib.sha256((before + asked + answer).encode()).hexdigest()
            found |= {"response-hash"} if digest != told else set()
    return found


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("seed", range(20))
def test_batches_and_single_rows_agree(unit: str, seed: int) -> None:
    draw = random.Random(f"{seed} {unit}")
    rows = [row_of(unit, number, draw) for number in range(120)]
    clean = pa.RecordBatch.from_pylist(rows, schema=TABLES[unit])
    assert broken_rows(View(unit, clean)) == {}
    for row in rows:
        for _ in range(draw.choice([0, 0, 1, 1, 2])):
            break_something(unit, row, draw)
    found = broken_rows(View(unit, pa.RecordBatch.from_pylist(rows, schema=TABLES[unit])))
    truth: dict[str, list[bool]] = {rule: [rule in expected(unit, row) for row in rows] for rule in CHECKS}
    assert {rule: mask.tolist() for rule, mask in found.items()} == {r: m for r, m in truth.items() if any(m)}


def damaged(batch: pa.RecordBatch, column: str, row: int) -> pa.RecordBatch:
    """The batch with bytes in one text that are no UTF-8."""
    values = batch.column(column).cast(pa.binary()).to_pylist()
    values[row] = b"a\xff\xed\xa0\x80"
    raw = pa.array(values, type=pa.binary())
    texts = pa.StringArray.from_buffers(len(raw), raw.buffers()[1], raw.buffers()[2], raw.buffers()[0])
    place = batch.schema.get_field_index(column)
    return batch.set_column(place, batch.schema.field(place), texts)


def test_a_row_that_cannot_be_read_hides_no_other() -> None:
    rows = [row_of("qa", number, random.Random(number)) for number in range(4)]
    rows[1]["sha256"] = "f" * 64
    batch = damaged(pa.RecordBatch.from_pylist(rows, schema=TABLES["qa"]), "response", 2)
    found = broken_rows(View("qa", batch, strict=False))
    assert {rule: mask.tolist() for rule, mask in found.items()} == {
        "encoding": [False, False, True, False],
        "response-hash": [False, True, False, False],
    }


def test_bytes_in_a_turn_are_looked_at() -> None:
    rows = [row_of("prompt", number, random.Random(1)) | {"turns": None} for number in range(2)]
    batch = pa.RecordBatch.from_pylist(rows, schema=TABLES["prompt"])
    raw = pa.array([b"\xff"], type=pa.binary())
    said = pa.StringArray.from_buffers(1, raw.buffers()[1], raw.buffers()[2])
    kind = TABLES["prompt"].field("turns").type
    turn = pa.StructArray.from_arrays([pa.array(["user"]), said], fields=list(kind.value_type))
    turns = pa.ListArray.from_arrays(pa.array([0, 0, 1], pa.int32()), turn)
    place = batch.schema.get_field_index("turns")
    found = broken_rows(View("prompt", batch.set_column(place, batch.schema.field(place), turns.cast(kind))))
    assert {rule: mask.tolist() for rule, mask in found.items()} == {"encoding": [False, True]}


def in_files(folder: Path, unit: str, rows: list[Row], files: int, change: Callable[..., pa.RecordBatch]) -> Path:
    """Rows shared out among files, each of several row groups."""
    (folder / "data" / unit).mkdir(parents=True)
    for number in range(files):
        part = pa.RecordBatch.from_pylist(rows[number::files], schema=TABLES[unit])
        table = pa.Table.from_batches([change(part) if number == 0 else part])
        pq.write_table(table, folder / "data" / unit / f"part-{number:05d}.parquet", row_group_size=7)
    return folder


@pytest.mark.parametrize("seed", range(20))
def test_every_mode_agrees_on_random_corpora(seed: int, tmp_path: Path) -> None:
    """Rows of several files, some broken, some twice: counts, places, what is written and what is kept out agree."""
    draw = random.Random(seed)
    unit = draw.choice(["default", "qa", "corrections"])
    rows = [row_of(unit, number, draw) for number in range(60)]
    for row in rows:
        if draw.random() < 0.2:
            break_something(unit, row, draw)
    rows += [dict(row) for row in draw.sample(rows, 10)]
    draw.shuffle(rows)
    files = draw.choice([1, 2, 3])
    folder = in_files(
        tmp_path / "in", unit, rows, files, lambda batch: damaged(batch, RESPONSES[unit][0], batch.num_rows // 2)
    )
    order = [row for number in range(files) for row in rows[number::files]]
    unread = len(rows[0::files]) // 2
    truth: dict[str, list[int]] = {}
    seen: list[Row] = []
    for number, row in enumerate(order):
        broken = {"encoding"} if number == unread else expected(unit, row)
        if not broken and row in seen:
            broken = {"duplicate-row"}
        elif not broken:
            seen.append(row)
        for rule in broken:
            truth.setdefault(rule, []).append(number)
    found = validate(open_tables(folder), "quarantine", tmp_path / "out")
    assert {rule: n for rule, n in found.counts.items() if n and rule != "label-conflict"} == {
        rule: len(places) for rule, places in truth.items()
    }
    lines = [json.loads(line) for line in (tmp_path / "out" / "quarantine.jsonl").read_text().splitlines()]
    bad = sorted({number for places in truth.values() for number in places})
    assert [line["where"] for line in lines] == [f"{unit}/{number}" for number in bad]
    good = [row for batch in open_tables(tmp_path / "out")[unit].batches() for row in batch.to_pylist()]
    assert good == [row for number, row in enumerate(order) if number not in bad]
    assert validate(open_tables(folder), "keep").counts == found.counts

    mended = validate(open_tables(folder), "repair", tmp_path / "mended")
    both = Counter(mended.counts) + mended.repaired
    assert {rule: both[rule] for rule in CHECKS if both[rule]} == {r: len(n) for r, n in truth.items() if r in CHECKS}
    result = open_tables(tmp_path / "mended")
    assert validate(result).ok
    written = [row for batch in result[unit].batches() for row in batch.to_pylist()]
    assert [row for row in written if row in order] == [row for row in good if row in written]
    asked = prompt_column(unit)
    assert {row[asked] for row in good} <= {row[asked] for row in written}
    rest = tmp_path / "mended" / "quarantine.jsonl"
    left = [json.loads(line) for line in rest.read_text().splitlines()] if rest.exists() else []
    for line in left:
        number = int(line["where"].split("/")[1])
        assert number in bad
        if number != unread:
            assert json.loads(json.dumps(line["row"])) == json.loads(json.dumps(order[number]).replace("NaN", '"nan"'))


def test_where_the_prompt_ends_tells_two_rows_apart(tmp_path: Path) -> None:
    rows = [row_of("qa", 0, random.Random(0)) | {"turns": None, "image": None} for _ in range(2)]
    for row, (asked, answer) in zip(rows, (("ab", "c"), ("a", "bc")), strict=True):
        row |= {"prompt": asked, "response": answer, "sha256": response_hash(asked, answer)}
    folder = in_files(tmp_path / "in", "qa", rows, 1, lambda batch: batch)
    assert validate(open_tables(folder)).counts["duplicate-row"] == 0
