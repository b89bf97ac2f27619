"""Files appear when they are complete, hold all that was given, or do not appear at all."""

from __future__ import annotations

import errno
import io
import json
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from poise.data.containers import read_lines, write_lines
from poise.data.corpus import canonical_json
from poise.errors import PoiseError

SUFFIXES = [".jsonl", ".jsonl.gz", ".jsonl.zst", ".json", ".csv", ".tsv", ".parquet", ".arrow"]


def test_lines_are_canonical_json(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"b": "é\n", "a": [1, 2.5, None]}, {"a": "\ud800 half"}, {}]
    assert write_lines(tmp_path / "a.jsonl", rows) == 3
    assert (tmp_path / "a.jsonl").read_text(encoding="utf-8") == "".join(canonical_json(row) + "\n" for row in rows)
    assert [line.row for line in read_lines(tmp_path / "a.jsonl")] == rows  # type: ignore[union-attr]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_no_rows_are_a_file_too(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    assert write_lines(path, []) == 0
    assert list(read_lines(path)) == []
    if suffix == ".json":
        assert json.loads(path.read_text()) == []


class FullDisk(io.FileIO):
    """A file on a disk that is full after a few bytes."""

    def write(self, data: Any) -> int:
        if self.tell() + len(data) > 50:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(data)


def on_full_disk(path: Path, mode: str) -> FullDisk:
    """Stands for `Path.open`."""
    return FullDisk(path, mode)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_full_disk_leaves_nothing_new(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(b"as it was")
    monkeypatch.setattr(Path, "open", on_full_disk)
    with pytest.raises(PoiseError, match=r"No space left on device\); nothing was left behind") as caught:
        write_lines(path, ({"a": f"{n * 7919}"} for n in range(100_000)))
    assert caught.value.exit_code == 3
    assert list(tmp_path.iterdir()) == [path] and path.read_bytes() == b"as it was"


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_rows_that_stop_with_an_error_leave_nothing(tmp_path: Path, suffix: str) -> None:
    def rows() -> Any:
        yield {"a": "1"}
        raise PoiseError("the source is broken")

    with pytest.raises(PoiseError, match=r"^the source is broken$"):
        write_lines(tmp_path / f"a{suffix}", rows())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("suffix", "row", "error"),
    [
        (".jsonl", {"a": float("nan")}, "row 2: has no JSON form"),
        (".json", {"a": date(2024, 1, 1)}, "row 2: has no JSON form"),
        (".csv", {"b": "1"}, "row 2: has other columns than the first"),
        (".csv", {"a": "\ud800"}, "row 2: holds a lone surrogate"),
        (".parquet", {"a": 1}, r"row 1-2: column 'a' does not fit one type"),
        (".arrow", {"a": "\ud800"}, r"row 1-2: column 'a' does not fit one type"),
        (".arrow", {"a": 2**70}, r"row 1-2: column 'a' does not fit one type"),
        (".parquet", {"b": {}}, r"row 1-2: a column holds what this container can't \("),
        (".xml", {}, "unknown suffix"),
    ],
)
def test_a_row_that_does_not_fit_is_named(tmp_path: Path, suffix: str, row: dict[str, Any], error: str) -> None:
    with pytest.raises(PoiseError, match=error):
        write_lines(tmp_path / f"a{suffix}", [{"a": "x"}, row])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
def test_columns_are_those_of_all_rows(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    rows: list[dict[str, Any]] = [{"a": None, "n": 1}] * 10_000 + [{"b": [{"x": 1}], "n": 2}, {"a": "y", "n": 0.5}]
    write_lines(path, rows)
    read = [line.row for line in read_lines(path)]  # type: ignore[union-attr]
    assert read == [{"a": row.get("a"), "n": row["n"], "b": row.get("b")} for row in rows]
    with pytest.raises(PoiseError, match=r"row 1-8193: a column holds what this container can't \("):
        write_lines(path, [{"n": 1}] * 8192 + [{"n": "x"}])


def test_a_given_schema_holds(tmp_path: Path) -> None:
    schema = pa.schema([pa.field("n", pa.int32()), pa.field("t", pa.string())])
    write_lines(tmp_path / "a.parquet", [{"t": "x"}, {"n": 3}], schema)
    assert pq.read_schema(tmp_path / "a.parquet") == schema
    with pytest.raises(PoiseError, match="row 1-2: no column 'u' in the schema"):
        write_lines(tmp_path / "b.parquet", [{"t": "x"}, {"u": 3}], schema)
    with pytest.raises(PoiseError, match="column 'n' does not fit"):
        write_lines(tmp_path / "b.parquet", [{"n": "x"}], schema)
    assert not (tmp_path / "b.parquet").exists()
