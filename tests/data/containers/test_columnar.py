"""Parquet and Arrow files with damage: a bad text is one line, a damaged file is one error."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from poise.data.containers import BadLine, Line, read_batches, read_lines, streams, write_lines
from poise.errors import PoiseError


def bad_texts() -> pa.StringArray:
    """ "a", a byte that is no UTF-8, "b"."""
    return pa.StringArray.from_buffers(3, pa.py_buffer(b"\0\0\0\0\1\0\0\0\2\0\0\0\3\0\0\0"), pa.py_buffer(b"a\xffb"))


def test_text_that_is_no_utf8(tmp_path: Path) -> None:
    table = pa.table({"n": [1, 2, 3], "t": bad_texts()})
    pq.write_table(table, tmp_path / "a.parquet")
    with pa.ipc.new_file(str(tmp_path / "a.arrow"), table.schema) as writer:
        writer.write_table(table)
    for name in ("a.parquet", "a.arrow"):
        first, second, third = read_lines(tmp_path / name)
        assert first == Line({"n": 1, "t": "a"}, tmp_path / name, 1)
        assert third == Line({"n": 3, "t": "b"}, tmp_path / name, 3)
        assert second == BadLine(
            "encoding", "byte 1 of 't' is not UTF-8", tmp_path / name, 2, '{"n": 2, "t": "\ufffd"}'
        )


def test_text_that_is_no_utf8_within_a_list(tmp_path: Path) -> None:
    lists = pa.ListArray.from_arrays(pa.array([0, 1, 3], pa.int32()), bad_texts())
    pq.write_table(pa.table({"l": lists}), tmp_path / "a.parquet")
    lines = list(read_lines(tmp_path / "a.parquet"))
    assert isinstance(lines[0], Line) and lines[0].row == {"l": ["a"]}
    assert isinstance(lines[1], BadLine) and (lines[1].rule, lines[1].number) == ("encoding", 2)


def test_a_value_without_a_python_form(tmp_path: Path) -> None:
    pq.write_table(pa.table({"n": [1, 2], "t": pa.array([0, 2**60], pa.timestamp("ms"))}), tmp_path / "a.parquet")
    first, second = read_lines(tmp_path / "a.parquet")
    assert isinstance(first, Line) and first.row["t"].year == 1970
    assert isinstance(second, BadLine) and second.rule == "broken-row"
    assert second.reason == "'t' is a timestamp[ms] without a Python form"


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow", "a.feather"])
@pytest.mark.parametrize("content", [b"", b"this is nothing of the kind", b"PAR1", b"ARROW1\0\0", b"FEA1"])
def test_a_file_that_is_not_what_it_says(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(PoiseError, match=rf"{name}: no readable (Parquet|Arrow) file \(.+\)"):
        list(read_lines(tmp_path / name))


@pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
def test_whatever_byte_is_damaged_ends_in_rows_or_one_error(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    write_lines(path, [{"n": n, "text": f"é {n}", "list": ["a", "é"] * (n % 3), "in": {"x": n}} for n in range(60)])
    content, draw, refused = path.read_bytes(), random.Random(3), 0
    for _ in range(150):
        damaged = bytearray(content[: draw.choice([len(content), draw.randrange(len(content))])])
        for _ in range(min(draw.choice([1, 5]), len(damaged))):
            damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        path.write_bytes(damaged)
        try:
            assert all(isinstance(line, Line | BadLine) for line in read_lines(path))
        except PoiseError as error:
            refused += 1
            assert "\n" not in str(error)
    assert refused > 75  # at least those that are cut


@pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
def test_two_columns_of_one_name(tmp_path: Path, suffix: str) -> None:
    table = pa.table([pa.array([1]), pa.array([2])], names=["a", "a"])
    if suffix == ".parquet":
        pq.write_table(table, tmp_path / "a.parquet")
    else:
        with pa.ipc.new_file(str(tmp_path / "a.arrow"), table.schema) as writer:
            writer.write_table(table)
    with pytest.raises(PoiseError, match="two columns have one name"):
        list(read_lines(tmp_path / f"a{suffix}"))


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "BOMB_FLOOR", 10 << 20)
    table = pa.table({"t": ["0" * (1 << 20)] * 20})
    pq.write_table(table, tmp_path / "a.parquet", compression="zstd", use_dictionary=False)
    with pytest.raises(PoiseError, match=r"unpacks to 2\d MiB from [\d,]+ bytes"):
        list(read_lines(tmp_path / "a.parquet"))


def test_batches_are_small_where_rows_are_long(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"image": random.Random(n).randbytes(1 << 20)} for n in range(80)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet", use_dictionary=False)
    batches = list(read_batches(tmp_path / "a.parquet"))
    assert sum(batch.num_rows for batch in batches) == 80
    assert max(batch.nbytes for batch in batches) <= 65 << 20
    write_lines(tmp_path / "b.parquet", ({"n": n} for n in range(10_000)))
    assert [batch.num_rows for batch in read_batches(tmp_path / "b.parquet", 5000)] == [5000, 5000]
