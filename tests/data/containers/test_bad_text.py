"""Text files with damage: every kind of it is one clear line, the rest goes on, and memory stays bounded."""

from __future__ import annotations

import gzip
import random
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from poise.data.containers import BadLine, Line, read_lines, streams, write_lines
from poise.errors import PoiseError

BOM = b"\xef\xbb\xbf"


def told(path: Path) -> list[Any]:
    """Rows as they are, and (rule, number) of what is no row."""
    return [line.row if isinstance(line, Line) else (line.rule, line.number) for line in read_lines(path)]


def peak_of(read: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        read()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".jsonl.zst", ".json"])
def test_broken_lines_are_named_and_the_rest_goes_on(tmp_path: Path, suffix: str) -> None:
    content = BOM + b"\n".join(
        [
            b'{"n": 1}\r',
            b'{"n": secret',
            b" \t",
            b'{"n": "\xff"}',
            b"[1]",
            b'{"n": NaN}',
            b'{"n": "\\ud800"}',
            b'{"n": 3, "n": 4}',
            b'{"n": 5} {"n": 6}',
            b'{"n": "\xed\xa0\x80"}',  # half of a UTF-16 pair is no UTF-8
            b"[" * 100_000,
            b'{"n": ' + b"9" * 5000 + b"}",
            b"\0\0\0{",
            b'{"n": 7}',
        ]
    )
    path = tmp_path / f"a{suffix}"
    if suffix == ".jsonl.zst":
        with pa.OSFile(str(path), "wb") as file, pa.CompressedOutputStream(file, "zstd") as packed:
            packed.write(content)
    else:
        path.write_bytes(gzip.compress(content) if suffix == ".jsonl.gz" else content)
    lines = list(read_lines(path))
    bad = [line for line in lines if isinstance(line, BadLine)]
    assert [(line.rule, line.number) for line in bad] == [
        ("broken-json", 2),
        ("encoding", 4),
        ("not-an-object", 5),
        ("broken-json", 9),
        ("encoding", 10),
        ("broken-json", 11),
        ("broken-json", 12),
        ("broken-json", 13),
    ]
    assert [line.reason for line in bad[:3]] == [
        "Expecting value at character 7",
        "byte 8 is not UTF-8",
        "a list",
    ]
    assert [line.raw for line in bad[:2]] == ['{"n": secret', '{"n": "\ufffd"}']
    assert not any("secret" in line.reason or "\n" in line.reason for line in bad)
    assert max(len(line.raw) for line in bad) == 1000
    rows = [line.row["n"] for line in lines if isinstance(line, Line)]
    assert rows[0] == 1 and rows[1] != rows[1] and rows[2:] == ["\ud800", 4, 7]


def test_what_is_shown_of_a_line_is_a_thousand_characters(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("é" * 3000, encoding="utf-8")
    (line,) = read_lines(tmp_path / "a.jsonl")
    assert isinstance(line, BadLine) and line.raw == "é" * 1000


def _numbered(path: Path, rows: int = 30_000) -> None:
    """Rows of texts that hardly compress, so that the archive has several blocks."""
    draw = random.Random(0)
    write_lines(path, ({"n": n, "text": f"{draw.getrandbits(200):x}"} for n in range(rows)))


@pytest.mark.parametrize(("suffix", "lost"), [(".gz", 60), (".zst", 3000)])
def test_a_cut_archive_gives_what_is_readable_and_says_so(tmp_path: Path, suffix: str, lost: int) -> None:
    path = tmp_path / f"a.jsonl{suffix}"
    _numbered(path)
    path.write_bytes(path.read_bytes()[:-1000])
    *rows, last = read_lines(path)
    assert [line.row["n"] for line in rows if isinstance(line, Line)] == list(range(len(rows)))
    assert 30_000 - lost < len(rows) < 30_000
    assert isinstance(last, BadLine) and (last.rule, last.number) == ("broken-file", len(rows) + 1)


def test_of_a_damaged_gzip_all_rows_before_the_damage_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    rows = [b'{"n": %d}' % n for n in range(40)]
    path.write_bytes(gzip.compress(b"\n".join(rows)) + b"this is no archive")
    assert told(path) == [*({"n": n} for n in range(39)), ("broken-file", 40)]  # the last line may go on
    assert list(read_lines(path))[-1].raw == '{"n": 39}'  # type: ignore[union-attr]
    content = bytearray(gzip.compress(b"\n".join(rows) + b"\n"))
    content[-8] ^= 0xFF  # the checksum
    path.write_bytes(content)
    assert told(path) == [*({"n": n} for n in range(40)), ("broken-file", 41)]


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.zst"])
@pytest.mark.parametrize("content", [b"", b'{"n": 1}\n'])
def test_what_is_no_archive_is_broken(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    assert told(tmp_path / name) == [("broken-file", 1)]


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.json"])
def test_utf_16_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes('{"n": 1}\n'.encode("utf-16"))
    with pytest.raises(PoiseError, match=r"UTF-16 text \(save it as UTF-8\)"):
        list(read_lines(tmp_path / name))


def test_a_line_of_50_megabytes_is_skipped_in_bounded_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    with path.open("wb") as file:
        file.write(b'{"n": 1}\n{"n": "')
        for _ in range(50):
            file.write(b"x" * 1_000_000)
        file.write(b'"}\n{"n": 2}\n')
    lines: list[Any] = []
    peak = peak_of(lambda: lines.extend(read_lines(path)))
    assert [line.row if isinstance(line, Line) else line.rule for line in lines] == [{"n": 1}, "too-long", {"n": 2}]
    assert lines[1].raw == '{"n": "' + "x" * 993
    assert peak < 1.25 * streams.MAX_LINE  # bytearrays grow by an eighth, and a block or two


def test_a_cell_of_50_megabytes_is_skipped(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    with path.open("wb") as file:
        file.write(b'a,b\n1,2\n3,"')
        for _ in range(50):
            file.write(b"x" * 1_000_000)
        file.write(b'"\n5,6\n')
    lines: list[Any] = []
    peak = peak_of(lambda: lines.extend(told(path)))
    assert lines == [{"a": "1", "b": "2"}, ("too-long", 3), {"a": "5", "b": "6"}]
    assert peak < 1.25 * streams.MAX_LINE


@pytest.mark.parametrize("suffix", [".jsonl.gz", ".jsonl.zst", ".json.gz", ".csv.gz"])
def test_a_bomb_is_refused(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "BOMB_FLOOR", 10 << 20)
    monkeypatch.setattr(streams, "MAX_LINE", 2 << 20)
    path = tmp_path / f"a{suffix}"
    with gzip.open(path, "wb") if suffix.endswith("gz") else pa.CompressedOutputStream(str(path), "zstd") as file:
        file.write(b"[" if suffix == ".json.gz" else b"a\n")
        for _ in range(20):
            file.write(b" " * (1 << 20))
    with pytest.raises(PoiseError, match="unpacks to over"):
        list(read_lines(path))
    monkeypatch.setattr(streams, "BOMB_FLOOR", 1 << 30)
    assert peak_of(lambda: list(read_lines(path))) < 10 << 20


def test_rows_that_repeat_are_no_bomb(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.zst"
    assert write_lines(path, [{"text": "the same again " * 10}] * 50_000) == 50_000
    assert path.stat().st_size * streams.MAX_RATIO < 50_000 * 160
    assert sum(isinstance(line, Line) for line in read_lines(path)) == 50_000


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b" [ ] \n", []),
        (b'[{"n": 1}\n,\n{"n": 2}]', [{"n": 1}, {"n": 2}]),
        (b'[{"n": 1}, 3, null]', [{"n": 1}, ("not-an-object", 2), ("not-an-object", 3)]),
        (b'[{"n": 1}, {"n": oops}, {"n": 3}]', [{"n": 1}, ("broken-json", 2)]),
        (b'[{"n": 1}, {"n": 2}', [{"n": 1}, {"n": 2}, ("broken-json", 3)]),
        (b'[{"n": 1}, {"n": "cut', [{"n": 1}, ("broken-json", 2)]),
        (b'[{"n": 1}] trailing', [{"n": 1}, ("broken-json", 2)]),
        (b'[{"n": 1},]', [{"n": 1}, ("broken-json", 2)]),
        (b'[{"n": 1}, {"n": "\xff"}, {"n": 3}]', [{"n": 1}, ("encoding", 2)]),
        (b'[{"n": 1}, {"n": "\xc3', [{"n": 1}, ("encoding", 2)]),
        (b'[{"n": 1}, ' + b"[" * 100_000, [{"n": 1}, ("broken-json", 2)]),
        (b'{"n": 1}\n{"n": 2\n{"n": 3}', [{"n": 1}, ("broken-json", 2), {"n": 3}]),
    ],
)
def test_lists(tmp_path: Path, content: bytes, expected: list[Any]) -> None:
    (tmp_path / "a.json").write_bytes(content)
    assert told(tmp_path / "a.json") == expected


@pytest.mark.parametrize("content", [b"", b"3", b'{\n  "data": []\n}', b'"text"', b"\xff\xff"])
def test_json_that_is_no_list(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(PoiseError, match=r"a\.json: no valid JSON"):
        list(read_lines(tmp_path / "a.json"))


def test_a_list_is_read_through_a_window(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    write_lines(path, ({"n": n, "text": "x" * 1000} for n in range(12_000)))
    assert path.stat().st_size > 12_000_000
    assert peak_of(lambda: [None for _ in read_lines(path)]) < 6 << 20
    monkeypatch.setattr(streams, "MAX_LINE", 1 << 20)
    write_lines(path, [{"n": 1}, {"text": "x" * (3 << 20)}, {"n": 3}])
    assert told(path) == [{"n": 1}, ("too-long", 2)]
    for block in (1, 2, 3, 5, 64):  # items that lie across the edges of blocks
        monkeypatch.setattr(streams, "BLOCK", block)
        path.write_bytes('[{"é": -1.5e3}, {"x": [true, NaN, -Infinity, "\\ud83d\\ude00"]}]'.encode())
        (first, second) = (line.row for line in read_lines(path) if isinstance(line, Line))
        assert first == {"é": -1500.0} and second["x"][2:] == [float("-inf"), "\U0001f600"]


def test_rows_of_a_table_with_damage(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(BOM + b'a,b\n1,2\n\n3\n"x"y,4\n5,\xff\n"6\n7",8\n9,10,11\n"12",13\n"14,15\n')
    assert told(path) == [
        {"a": "1", "b": "2"},
        ("broken-row", 4),
        ("broken-row", 5),
        ("encoding", 6),
        {"a": "6\n7", "b": "8"},
        ("broken-row", 9),
        {"a": "12", "b": "13"},
        ("broken-file", 11),
    ]
    bad = [line for line in read_lines(path) if isinstance(line, BadLine)]
    assert [line.reason for line in bad] == [
        "1 cells under 2 columns",
        "a stray quote",
        "byte 3 of line 6 is not UTF-8",
        "3 cells under 2 columns",
        "a quote is not closed",
    ]
    assert [line.raw for line in bad] == ["3", '"x"y,4', "5,\ufffd", "9,10,11", '"14,15']


def test_a_quote_that_is_never_closed_swallows_no_more_than_a_line_may_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "MAX_LINE", 100)
    (tmp_path / "a.csv").write_bytes(b'a,b\n"1,2\n' + b"3,4\n" * 100)
    assert told(tmp_path / "a.csv") == [("too-long", 2), *[{"a": "3", "b": "4"}] * 76]  # 5 + 24 * 4 are 101 bytes


@pytest.mark.parametrize(
    ("content", "error"),
    [(b"a,a\n1,2\n", "two columns"), (b"\xff,b\n", "header: byte 1"), (b'"a', "no readable header")],
)
def test_headers_that_cannot_be_used(tmp_path: Path, content: bytes, error: str) -> None:
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(PoiseError, match=error):
        list(read_lines(tmp_path / "a.csv"))


def test_an_empty_table_has_no_rows(tmp_path: Path) -> None:
    for content in (b"", b"\n\n", b"a,b\n"):
        (tmp_path / "a.csv").write_bytes(content)
        assert told(tmp_path / "a.csv") == []
