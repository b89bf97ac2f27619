"""What a path stands for: files, folders with links, folders of `datasets`, pinned sets of the Hub."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from poise.data.containers import Line, find_files, read_lines, resolve
from poise.errors import PoiseError

COMMIT = "0123456789" * 4


def put(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("{}", encoding="utf-8")


def found(path: Path) -> list[str]:
    return [file.relative_to(path).as_posix() for file in find_files(path)]


def test_a_folder_gives_its_data_files_and_no_others(tmp_path: Path) -> None:
    put(tmp_path, "b.jsonl", "data/a.csv", "data/x/c.jsonl.zst", ".hidden/c.jsonl", "data/.d.jsonl", "README.md")
    put(tmp_path, "manifest.json", "data/dataset_infos.json", "load.py", "e.jsonl.partial")
    assert found(tmp_path) == ["b.jsonl", "data/a.csv", "data/x/c.jsonl.zst"]
    assert find_files(tmp_path / "data" / "a.csv") == [tmp_path / "data" / "a.csv"]


@pytest.mark.parametrize(
    ("path", "error"),
    [("none.jsonl", "no such"), ("empty", "no data file"), ("a.xml", "unknown suffix")],
)
def test_what_is_not_there_says_so(tmp_path: Path, path: str, error: str) -> None:
    (tmp_path / "empty").mkdir()
    put(tmp_path, "a.xml")
    with pytest.raises(PoiseError, match=error):
        find_files(tmp_path / path)
    with pytest.raises(PoiseError, match=r"no such file|unknown suffix"):
        list(read_lines(tmp_path / path))


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    put(tmp_path, "secret.jsonl", "elsewhere/b.jsonl", "set/a.jsonl")
    (tmp_path / "set" / "README.md").symlink_to(tmp_path / "secret.jsonl")  # is not read
    assert found(tmp_path / "set") == ["a.jsonl"]
    for name, target in (("l.jsonl", "../secret.jsonl"), ("l", "../elsewhere"), ("up", "..")):
        link = tmp_path / "set" / name
        link.symlink_to(target)
        with pytest.raises(PoiseError, match=rf"{name}: a link that leads out of the folder"):
            find_files(tmp_path / "set")
        link.unlink()


@pytest.mark.parametrize("target", ["gone.jsonl", "l.jsonl"])
def test_a_link_to_nowhere_is_refused(tmp_path: Path, target: str) -> None:
    put(tmp_path, "a.jsonl")
    (tmp_path / "l.jsonl").symlink_to(target)
    with pytest.raises(PoiseError, match=r"l\.jsonl: a link that leads nowhere"):
        find_files(tmp_path)


def test_links_within_the_folder_give_no_row_twice(tmp_path: Path) -> None:
    put(tmp_path, "set/v1/a.jsonl", "set/.objects/0f", "set/.objects/more/c.jsonl")
    (tmp_path / "set" / "latest").symlink_to("v1")
    (tmp_path / "set" / "a.jsonl").symlink_to("v1/a.jsonl")
    (tmp_path / "set" / "v1" / "loop").symlink_to("..")
    (tmp_path / "set" / "b.jsonl").symlink_to(".objects/0f")  # only the link leads there
    (tmp_path / "set" / "c").symlink_to(".objects/more")
    assert found(tmp_path / "set") == ["b.jsonl", "c/c.jsonl", "v1/a.jsonl"]
    (tmp_path / "named").symlink_to("set")
    assert found(tmp_path / "named") == ["b.jsonl", "c/c.jsonl", "v1/a.jsonl"]


def snapshot(tmp_path: Path, *names: str) -> Path:
    """A folder as the cache of the Hub lays it out."""
    folder = tmp_path / "datasets--owner--name" / "snapshots" / COMMIT
    for number, name in enumerate(names):
        blob = folder.parents[1] / "blobs" / f"{number:040x}"
        blob.parent.mkdir(parents=True, exist_ok=True)
        blob.write_text(f'{{"name": "{name}"}}', encoding="utf-8")
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to(blob)
    return folder


def test_a_snapshot_of_the_hub_leads_to_its_blobs_only(tmp_path: Path) -> None:
    folder = snapshot(tmp_path, "data/train.jsonl", "test.jsonl")
    assert found(folder) == ["data/train.jsonl", "test.jsonl"]
    assert found(folder / "data") == ["train.jsonl"]
    put(tmp_path, "datasets--owner--name/other.jsonl")
    (folder / "l.jsonl").symlink_to("../../other.jsonl")
    with pytest.raises(PoiseError, match="leads out"):
        find_files(folder)


def test_folders_of_datasets_are_read(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    rows = [{"prompt": f"p{n}", "flags": {"a": True}} for n in range(5)]
    both = datasets.DatasetDict(
        {"train": datasets.Dataset.from_list(rows[:3]), "test": datasets.Dataset.from_list(rows[3:])}
    )
    both.save_to_disk(str(tmp_path / "saved"), num_shards={"train": 2, "test": 1})
    put(tmp_path / "saved" / "train", "cache-0123.arrow")  # what a later map() leaves
    shards = ["test/data-00000-of-00001.arrow", "train/data-00000-of-00002.arrow", "train/data-00001-of-00002.arrow"]
    assert found(tmp_path / "saved") == shards
    files = find_files(tmp_path / "saved")
    read = [line.row for file in [*files[1:], files[0]] for line in read_lines(file) if isinstance(line, Line)]
    assert read == rows
    files[1].unlink()
    with pytest.raises(PoiseError, match=r"shard 'data-00000-of-00002\.arrow' is missing"):
        find_files(tmp_path / "saved")


@pytest.mark.parametrize(
    ("state", "error"),
    [
        ("{", "no readable state.json"),
        ('{"_data_files": 3}', "no readable state.json"),
        ('{"_data_files": [{"filename": "../../a.arrow"}]}', r"shard 'a\.arrow' is missing"),
        ('{"_data_files": [{"filename": "l.arrow"}]}', "leads out"),
        ('{"_data_files": [], "_indices_data_files": [{"filename": "i.arrow"}]}', "flatten_indices"),
    ],
)
def test_folders_of_datasets_that_cannot_be_read(tmp_path: Path, state: str, error: str) -> None:
    put(tmp_path, "set/dataset_info.json", "a.arrow")
    (tmp_path / "set" / "l.arrow").symlink_to("../a.arrow")
    (tmp_path / "set" / "state.json").write_text(state, encoding="utf-8")
    with pytest.raises(PoiseError, match=error):
        find_files(tmp_path / "set")


class Hub:
    """Stands for `snapshot_download`."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.asked = folder, []  # type: Path, list[dict[str, Any]]

    def __call__(self, name: str, **settings: Any) -> str:
        self.asked.append({"name": name, **settings})
        return str(self.folder)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    module = pytest.importorskip("huggingface_hub")
    stand_in = Hub(snapshot(tmp_path, "README.md", "data/a/train.jsonl", "data/a/test.jsonl", "b.csv", "c/d.jsonl"))
    monkeypatch.setattr(module, "snapshot_download", stand_in)
    return stand_in


def test_a_set_on_the_hub_must_be_pinned(hub: Hub) -> None:
    assert resolve(f"owner/name@{COMMIT}") == hub.folder
    (asked,) = hub.asked
    assert (asked["name"], asked["revision"], asked["repo_type"]) == ("owner/name", COMMIT, "dataset")
    assert "*.parquet" in asked["allow_patterns"] and not any("py" in wanted for wanted in asked["allow_patterns"])
    assert found(resolve(f"owner/name@{COMMIT}")) == ["b.csv", "c/d.jsonl", "data/a/test.jsonl", "data/a/train.jsonl"]
    for unpinned in ("owner/name", "owner/name@main", "owner/name:a", f"owner/name@{COMMIT[:39]}"):
        with pytest.raises(PoiseError, match="40 digits"):
            resolve(unpinned)
    with pytest.raises(PoiseError, match="no such path"):
        resolve("name@" + COMMIT)


CARD = """---
configs:
- config_name: default
  data_files:
  - {split: train, path: data/a/train.jsonl}
  - {split: test, path: data/a/te*}
- config_name: table
  data_files: "*.csv"
- config_name: deep
  data_dir: c
- config_name: mixed
  data_files: [b.csv, data/**/train.jsonl]
- config_name: outside
  data_files: ["../../blobs/*", /etc/*]
---
# A set
"""


@pytest.mark.parametrize(
    ("config", "place"),
    [("default", "data/a"), ("table", "b.csv"), ("deep", "c/d.jsonl"), ("c", "c/d.jsonl"), ("a", "data/a")],
)
def test_a_config_of_a_set_on_the_hub(hub: Hub, config: str, place: str) -> None:
    (hub.folder / "README.md").resolve().write_text(CARD, encoding="utf-8")
    assert resolve(f"owner/name@{COMMIT}:{config}") == hub.folder / place
    assert hub.asked[0]["allow_patterns"] == ["README.md"]


@pytest.mark.parametrize(
    ("config", "error"),
    [("none", "no files of config 'none'"), ("mixed", "lie among others"), ("outside", "no files of config")],
)
def test_a_config_that_cannot_be_read(hub: Hub, config: str, error: str) -> None:
    (hub.folder / "README.md").resolve().write_text(CARD, encoding="utf-8")
    with pytest.raises(PoiseError, match=error):
        resolve(f"owner/name@{COMMIT}:{config}")


@pytest.mark.parametrize("card", ["", "---\n: [\n---\n", "---\n- 3\n---\n", "---\nconfigs: 3\n---\n", "\xff"])
def test_a_config_without_a_card_is_a_folder(hub: Hub, card: str) -> None:
    (hub.folder / "README.md").resolve().write_bytes(card.encode("latin-1"))
    assert resolve(f"owner/name@{COMMIT}:a") == hub.folder / "data" / "a"


def test_without_network_or_client_there_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub")

    def no_network(name: str, **_: Any) -> str:
        raise OSError("no route to host\nand a page of advice")

    monkeypatch.setattr(hub, "snapshot_download", no_network)
    with pytest.raises(PoiseError, match=r"cannot be fetched \(no route to host\)") as caught:
        resolve(f"owner/name@{COMMIT}")
    assert caught.value.exit_code == 3 and "\n" not in str(caught.value)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(PoiseError, match=r'huggingface_hub is not installed \(pip install -e "\.\[datasets\]"\)'):
        resolve(f"owner/name@{COMMIT}")
