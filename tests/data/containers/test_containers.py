"""Every container gives back what was put in; every kind of damage is one clear line and the rest goes on."""

from __future__ import annotations

import gzip
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poise.data.containers import BadLine, Line, find_files, read_lines, resolve, streams, write_lines
from poise.errors import PoiseError

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\r\0"), max_size=30)
FLAT = st.fixed_dictionaries(
    {"id": st.integers(-(2**53), 2**53), "text": TEXT, "flag": st.booleans(), "none": st.none() | TEXT}
)
NESTED = st.fixed_dictionaries(
    {"id": st.integers(0, 9), "list": st.lists(TEXT, max_size=3), "turn": st.fixed_dictionaries({"role": TEXT})}
)


def rows_of(path: Path) -> list[dict[str, Any]]:
    lines = list(read_lines(path))
    assert all(isinstance(line, Line) for line in lines)
    return [line.row for line in lines if isinstance(line, Line)]


def bad_of(path: Path) -> list[tuple[str, int]]:
    return [(line.rule, line.number) for line in read_lines(path) if isinstance(line, BadLine)]


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


@settings(max_examples=25)
@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
@given(rows=st.lists(st.fixed_dictionaries({"a": TEXT, 'b, "c"': TEXT}), min_size=1, max_size=5))
def test_round_trip_of_texts(tmp_path_factory: pytest.TempPathFactory, suffix: str, rows: list[Any]) -> None:
    path = tmp_path_factory.mktemp("round") / f"texts{suffix}"
    write_lines(path, rows)
    assert rows_of(path) == rows


def test_csv_writes_what_is_no_text_as_json(tmp_path: Path) -> None:
    write_lines(tmp_path / "a.csv", [{"flag": True, "list": ["x"], "none": None, "n": 3}])
    assert rows_of(tmp_path / "a.csv") == [{"flag": "true", "list": '["x"]', "none": "", "n": "3"}]


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz"])
def test_broken_lines_are_named_and_the_rest_goes_on(tmp_path: Path, suffix: str) -> None:
    content = b"\xef\xbb\xbf" + b"\n".join(
        [
            b'{"n": 1}\r',
            b'{"n": 2',
            b"",
            b'{"n": "\xff"}',
            b"[1]",
            b'{"n": NaN}',
            b'{"n": "\\ud800"}',
            b'{"n": 3, "n": 4}',
        ]
    )
    path = tmp_path / f"a{suffix}"
    path.write_bytes(gzip.compress(content) if suffix.endswith(".gz") else content)
    lines = list(read_lines(path))
    assert [(line.rule, line.number) for line in lines if isinstance(line, BadLine)] == [
        ("broken-json", 2),
        ("encoding", 4),
        ("not-an-object", 5),
    ]
    rows = [line.row["n"] for line in lines if isinstance(line, Line)]
    assert rows[0] == 1 and rows[1] != rows[1] and rows[2:] == ["\ud800", 4]
    assert all("\xff" not in line.reason for line in lines if isinstance(line, BadLine))


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_a_cut_archive_gives_what_is_readable_and_says_so(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.jsonl{suffix}"
    write_lines(path, ({"n": n, "text": f"{n * 7919 % 10007} {n}" * 9} for n in range(50_000)))
    path.write_bytes(path.read_bytes()[:-1000])
    lines = list(read_lines(path))
    assert isinstance(lines[-1], BadLine) or suffix == ".zst"
    assert sum(isinstance(line, Line) for line in lines) > 10_000
    bad = [line for line in lines if isinstance(line, BadLine)]
    assert bad and bad[-1].rule in ("broken-file", "broken-json")


def test_a_damaged_archive_in_the_middle(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    write_lines(path, ({"n": n, "text": f"{n * 7919 % 10007}" * 9} for n in range(50_000)))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    assert bad_of(path)[-1][0] == "broken-file"


def test_two_gzip_members_are_one_file(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b'{"n": 1}\n') + gzip.compress(b'{"n": 2}\n'))
    assert rows_of(tmp_path / "a.jsonl.gz") == [{"n": 1}, {"n": 2}]


def test_a_line_of_50_megabytes_is_skipped_in_bounded_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    with path.open("wb") as file:
        file.write(b'{"n": 1}\n{"n": "')
        for _ in range(50):
            file.write(b"x" * 1_000_000)
        file.write(b'"}\n{"n": 2}\n')
    tracemalloc.start()
    lines = list(read_lines(path))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert [line.row if isinstance(line, Line) else line.rule for line in lines] == [{"n": 1}, "too-long", {"n": 2}]
    assert peak < 3 * streams.MAX_LINE


def test_a_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "BOMB_FLOOR", 10 << 20)
    path = tmp_path / "a.jsonl.gz"
    with gzip.open(path, "wb") as file:
        for _ in range(40):
            file.write(b"0" * (1 << 20))
    tracemalloc.start()
    with pytest.raises(PoiseError, match="unpacks to over"):
        list(read_lines(path))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 40 << 20


def test_csv_with_a_short_row_and_an_open_quote(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('a,b\n1,2\n3\n"4,5\n', encoding="utf-8")
    lines = list(read_lines(tmp_path / "a.csv"))
    assert [line.row if isinstance(line, Line) else line.rule for line in lines] == [
        {"a": "1", "b": "2"},
        "broken-row",
        "broken-file",
    ]
    (tmp_path / "b.csv").write_text("a,a\n1,2\n", encoding="utf-8")
    with pytest.raises(PoiseError, match="two columns"):
        list(read_lines(tmp_path / "b.csv"))


def test_parquet_with_text_that_is_no_utf8(tmp_path: Path) -> None:
    bad = pa.StringArray.from_buffers(3, pa.py_buffer(b"\0\0\0\0\1\0\0\0\2\0\0\0\3\0\0\0"), pa.py_buffer(b"a\xffb"))
    pq.write_table(pa.table({"t": bad}), tmp_path / "a.parquet")
    lines = list(read_lines(tmp_path / "a.parquet"))
    assert [line.row["t"] if isinstance(line, Line) else (line.rule, line.number) for line in lines] == [
        "a",
        ("encoding", 2),
        "b",
    ]


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow", "a.json"])
def test_a_file_that_is_not_what_it_says(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"{this is nothing of the kind")
    with pytest.raises(PoiseError, match=r"no (readable|valid)"):
        list(read_lines(tmp_path / name))


def test_folders_of_datasets_are_read(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    rows = [{"prompt": f"p{n}", "flags": {"a": True}} for n in range(5)]
    both = datasets.DatasetDict(
        {"train": datasets.Dataset.from_list(rows[:3]), "test": datasets.Dataset.from_list(rows[3:])}
    )
    both.save_to_disk(str(tmp_path / "saved"))
    files = find_files(tmp_path / "saved")
    assert [file.parent.name for file in files] == ["test", "train"]
    assert [row for file in reversed(files) for row in rows_of(file)] == rows


def test_a_folder_gives_its_data_files_and_no_others(tmp_path: Path) -> None:
    for name in ("b.jsonl", "data/a.csv", ".hidden/c.jsonl", "README.md", "manifest.json", "dataset_infos.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x", encoding="utf-8")
    assert [file.relative_to(tmp_path).as_posix() for file in find_files(tmp_path)] == ["b.jsonl", "data/a.csv"]


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret.jsonl").write_text("{}", encoding="utf-8")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a.jsonl").symlink_to(tmp_path / "secret.jsonl")
    with pytest.raises(PoiseError, match=r"a\.jsonl: a link that leads out"):
        find_files(tmp_path / "set")
    cache = tmp_path / "datasets--owner--name"
    (cache / "blobs").mkdir(parents=True)
    (cache / "blobs" / "0f").write_text("{}", encoding="utf-8")
    (cache / "snapshots" / "abc").mkdir(parents=True)
    (cache / "snapshots" / "abc" / "a.jsonl").symlink_to("../../blobs/0f")
    assert len(find_files(cache / "snapshots" / "abc")) == 1  # as the Hub's cache is laid out


@pytest.mark.parametrize(
    ("path", "error"),
    [("none.jsonl", "no such"), ("empty", "no data file"), ("a.xml", "unknown suffix")],
)
def test_what_is_not_there_says_so(tmp_path: Path, path: str, error: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.xml").write_text("x", encoding="utf-8")
    with pytest.raises(PoiseError, match=error):
        find_files(tmp_path / path)


def test_a_set_on_the_hub_must_be_pinned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub")
    asked: dict[str, Any] = {}

    def fetch(name: str, **settings: Any) -> str:
        asked.update(settings, name=name)
        return str(tmp_path)

    monkeypatch.setattr(hub, "snapshot_download", fetch)
    assert resolve("owner/name@" + "0" * 40) == tmp_path
    assert asked["name"] == "owner/name" and asked["revision"] == "0" * 40 and asked["repo_type"] == "dataset"
    assert "*.py" not in asked["allow_patterns"]
    for unpinned in ("owner/name", "owner/name@main"):
        with pytest.raises(PoiseError, match="40 digits"):
            resolve(unpinned)

    def no_network(name: str, **_: Any) -> str:
        raise OSError("no route to host")

    monkeypatch.setattr(hub, "snapshot_download", no_network)
    with pytest.raises(PoiseError, match="no route to host"):
        resolve("owner/name@" + "0" * 40)


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".jsonl.zst", ".csv", ".parquet"])
def test_a_full_disk_leaves_nothing(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def rows() -> Any:
        yield {"a": "1"}
        raise OSError(28, "No space left on device")

    with pytest.raises(PoiseError, match="No space left") as caught:
        write_lines(tmp_path / f"a{suffix}", rows())
    assert caught.value.exit_code == 3
    assert list(tmp_path.iterdir()) == []


def test_a_later_row_of_another_shape_is_no_half_file(tmp_path: Path) -> None:
    with pytest.raises(PoiseError, match="other columns"):
        write_lines(tmp_path / "a.csv", [{"a": 1}, {"b": 1}])
    with pytest.raises(PoiseError, match="does not fit"):
        write_lines(tmp_path / "a.parquet", [{"a": 1}, {"a": "x"}])
    with pytest.raises(PoiseError, match="unknown suffix"):
        write_lines(tmp_path / "a.xml", [])
    assert list(tmp_path.iterdir()) == []


def test_an_empty_list_is_a_list(tmp_path: Path) -> None:
    write_lines(tmp_path / "a.json", [])
    assert json.loads((tmp_path / "a.json").read_text()) == []
