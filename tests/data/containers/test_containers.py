"""Every container gives back what was put in, and the same rows give the same bytes."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import feather

from poise.data.containers import BadLine, Line, read_batches, read_lines, write_lines

TEXT = st.text(max_size=30)
FLAT = st.fixed_dictionaries(
    {"id": st.integers(-(2**53), 2**53), "text": TEXT, "flag": st.booleans(), "none": st.none() | TEXT}
)
NESTED = st.fixed_dictionaries(
    {"id": st.integers(0, 9), "list": st.lists(TEXT, max_size=3), "turn": st.fixed_dictionaries({"role": TEXT})}
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


def rows_of(path: Path) -> list[dict[str, Any]]:
    """The rows of a file in which nothing is broken."""
    lines = list(read_lines(path))
    assert not [line for line in lines if isinstance(line, BadLine)]
    return [line.row for line in lines if isinstance(line, Line)]


@settings(max_examples=25)
@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".jsonl.zst", ".json", ".parquet", ".arrow"])
@given(flat=st.lists(FLAT, min_size=1, max_size=5), nested=st.lists(NESTED, min_size=1, max_size=5))
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, suffix: str, flat: list[Any], nested: list[Any]) -> None:
    folder = tmp_path_factory.mktemp("round")
    for name, rows in (("flat", flat), ("nested", nested)):
        path = folder / f"{name}{suffix}"
        assert write_lines(path, rows) == len(rows)
        assert rows_of(path) == rows
        content = path.read_bytes()
        write_lines(path, rows)
        assert path.read_bytes() == content


@settings(max_examples=50)
@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".jsonl.zst", ".json"])
@given(rows=st.lists(st.dictionaries(TEXT, JSON, max_size=4), max_size=4))
def test_round_trip_of_whatever_json_holds(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, rows: list[Any]
) -> None:
    path = tmp_path_factory.mktemp("round") / f"a{suffix}"
    write_lines(path, rows)
    assert rows_of(path) == rows


@settings(max_examples=50)
@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
@given(rows=st.lists(st.fixed_dictionaries({"a": TEXT, 'b, "c"': TEXT}), min_size=1, max_size=5))
def test_round_trip_of_texts(tmp_path_factory: pytest.TempPathFactory, suffix: str, rows: list[Any]) -> None:
    path = tmp_path_factory.mktemp("round") / f"texts{suffix}"
    write_lines(path, rows)
    assert rows_of(path) == rows


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".jsonl.zst", ".json", ".csv", ".parquet", ".arrow"])
def test_numbers_of_many_rows(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    rows = [{"n": str(n), "text": "é" * (n % 50)} for n in range(20_000)]  # more than a block, a window, a batch
    assert write_lines(path, rows) == 20_000
    lines = list(read_lines(path))
    assert [line.row for line in lines if isinstance(line, Line)] == rows
    first = 2 if suffix == ".csv" else 1  # below the header
    assert [line.number for line in lines] == list(range(first, first + 20_000))


def test_csv_writes_what_is_no_text_as_json(tmp_path: Path) -> None:
    write_lines(tmp_path / "a.csv", [{"flag": True, "list": ["x"], "none": None, "n": 3}])
    assert (tmp_path / "a.csv").read_bytes() == b'flag,list,none,n\r\ntrue,"[""x""]",,3\r\n'
    assert rows_of(tmp_path / "a.csv") == [{"flag": "true", "list": '["x"]', "none": "", "n": "3"}]


@pytest.mark.parametrize("name", ["a.csv.gz", "a.tsv.gz", "a.json.gz"])
def test_packed_tables_and_lists(tmp_path: Path, name: str) -> None:
    plain = tmp_path / name.removesuffix(".gz")
    write_lines(plain, [{"a": "1", "b": "x\r\ny"}])
    (tmp_path / name).write_bytes(gzip.compress(plain.read_bytes()))
    assert rows_of(tmp_path / name) == [{"a": "1", "b": "x\r\ny"}]


def test_feather_and_an_arrow_stream(tmp_path: Path) -> None:
    table = pa.table({"n": [1, 2, 3]})
    feather.write_feather(table, str(tmp_path / "a.feather"))
    with pa.ipc.new_stream(str(tmp_path / "a.arrow"), table.schema) as writer:
        writer.write_table(table)
    for name in ("a.feather", "a.arrow"):
        assert rows_of(tmp_path / name) == [{"n": 1}, {"n": 2}, {"n": 3}]
        assert [batch.num_rows for batch in read_batches(tmp_path / name, 2)] == [2, 1]


def test_two_archives_in_one_file(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b'{"n": 1}\n{"n"') + gzip.compress(b": 2}\n") + b"\0" * 9)
    assert rows_of(tmp_path / "a.jsonl.gz") == [{"n": 1}, {"n": 2}]
    write_lines(tmp_path / "a.jsonl.zst", [{"n": 1}])
    (tmp_path / "a.jsonl.zst").write_bytes((tmp_path / "a.jsonl.zst").read_bytes() * 2)
    assert rows_of(tmp_path / "a.jsonl.zst") == [{"n": 1}, {"n": 1}]
