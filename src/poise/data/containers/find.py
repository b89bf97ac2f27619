"""Which files a user means: a file, a folder of data files, a `datasets` folder, or a pinned set on the Hub."""

from __future__ import annotations

import json
import re
from pathlib import Path

from poise.errors import PoiseError

SUFFIXES = (
    ".parquet", ".jsonl", ".jsonl.gz", ".jsonl.zst", ".json", ".json.gz", ".json.zst", ".csv", ".csv.gz", ".csv.zst",
    ".tsv", ".tsv.gz", ".tsv.zst", ".arrow", ".feather", ".ndjson",
)  # fmt: skip
"""What can be read."""

_NOT_DATA = frozenset(
    ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "manifest.json", "validation.json",
     "croissant.json", "crosswalk.json", "truth.json", "audit.json", "quarantine.jsonl")
)  # fmt: skip
_HUB = re.compile(r"^(?P<name>[\w.-]+/[\w.-]+)@(?P<revision>[0-9a-f]{40})$")
_HUB_UNPINNED = re.compile(r"^[\w.-]+/[\w.-]+(@[\w./-]+)?$")


def resolve(path: str) -> Path:
    """A place on this machine for what the user names: a path, or `owner/name@revision` of the Hugging Face Hub.

    Raises:
        PoiseError: no such path; a set on the Hub without a full commit hash, without `huggingface_hub`, or out of
            reach.
    """
    if Path(path).exists():
        return Path(path)
    if found := _HUB.match(path):
        return _from_hub(found["name"], found["revision"])
    if _HUB_UNPINNED.match(path):
        raise PoiseError(
            "no such path, and no pinned set of the Hub",
            where=path,
            do="name a file or folder, or owner/name@ with the 40 digits of a commit, so that the data can't change",
        )
    raise PoiseError("no such path", where=path, do="check the spelling")


def find_files(path: Path) -> list[Path]:
    """The data files that a path stands for, sorted: itself, or all below a folder, hidden ones left out.

    Of a folder that `datasets.save_to_disk` wrote, its Arrow shards in the order of its state.

    Raises:
        PoiseError: no such path, an unknown suffix, no data file in a folder, or a link that leads out of it.
    """
    if path.is_file():
        if not is_data(path.name):
            raise PoiseError(f"unknown suffix {path.suffix!r}", where=str(path), do=f"one of {', '.join(SUFFIXES)}")
        return [path]
    if not path.is_dir():
        raise PoiseError("no such file or folder", where=str(path), do="check the path")
    root = _root(path)
    files = [file for file in sorted(path.rglob("*")) if is_data(file.name) and not _hidden(file, path)]
    for file in files:
        if not file.resolve().is_relative_to(root):
            raise PoiseError("a link that leads out of the folder", where=str(file), do="copy the file, or name it")
    saved = [file.parent for file in sorted(path.rglob("state.json"))]
    if saved and all(file.suffix == ".arrow" for file in files):
        files = [folder / shard for folder in saved for shard in _shards(folder)]
    files = [file for file in files if file.is_file()]
    if not files:
        raise PoiseError("no data file in it", where=str(path), do=f"files end in {', '.join(SUFFIXES)}")
    return files


def is_data(name: str) -> bool:
    """Whether a file's name ends like one that can be read."""
    return name.endswith(SUFFIXES) and name not in _NOT_DATA


def _hidden(file: Path, root: Path) -> bool:
    return any(part.startswith(".") for part in file.relative_to(root).parts)


def _root(path: Path) -> Path:
    """Where links may lead: the folder, or for a snapshot in a Hub cache the repository's folder with the blobs."""
    parts = path.resolve().parts
    if "snapshots" in parts and (Path(*parts[: parts.index("snapshots")]) / "blobs").is_dir():
        return Path(*parts[: parts.index("snapshots")])
    return path.resolve()


def _shards(folder: Path) -> list[str]:
    try:
        state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        return [Path(entry["filename"]).name for entry in state["_data_files"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PoiseError("no readable state.json", where=str(folder), do="save the set again") from error


def _from_hub(name: str, revision: str) -> Path:
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    except ImportError as error:
        raise PoiseError("huggingface_hub is not installed", where=name, do='pip install "poise[datasets]"') from error
    patterns = [f"*{suffix}" for suffix in SUFFIXES]
    try:
        return Path(snapshot_download(name, repo_type="dataset", revision=revision, allow_patterns=patterns))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise PoiseError(
            f"cannot be fetched ({reason})", where=f"{name}@{revision}", do="is there a network, and are you allowed?",
            exit_code=3,
        ) from error  # fmt: skip
