"""Which files a user means: a file, or the data files of a folder, of one that `datasets` saved, of a Hub snapshot."""

from __future__ import annotations

import json
from collections.abc import Iterator
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


def find_files(path: Path) -> list[Path]:
    """The data files that a path stands for, sorted: itself, or all below a folder, hidden ones left out.

    Of a folder that `datasets.save_to_disk` wrote, its Arrow shards in the order of its state. A link to something
    else in the folder is not followed where its target is found without it.

    Raises:
        PoiseError: no such path, an unknown suffix, no data file in a folder, a missing shard, or a link that leads
            out of the folder.
    """
    if path.is_file():
        if not is_data(path.name):
            raise PoiseError(f"unknown suffix {path.suffix!r}", where=str(path), do=f"one of {', '.join(SUFFIXES)}")
        return [path]
    if not path.is_dir():
        raise PoiseError("no such file or folder", where=str(path), do="check the path")
    try:
        files = list(_below(path, _Inside(path.resolve()), set()))
    except OSError as error:
        raise PoiseError(
            f"cannot be read ({error.strerror or error})", where=str(error.filename or path), do="check the folder"
        ) from error
    if not files:
        raise PoiseError("no data file in it", where=str(path), do=f"files end in {', '.join(SUFFIXES)}")
    return files


def is_data(name: str) -> bool:
    """Whether a file's name ends like one that can be read."""
    return name.endswith(SUFFIXES) and name not in _NOT_DATA


def _below(folder: Path, inside: _Inside, seen: set[Path]) -> Iterator[Path]:
    if (real := folder.resolve()) in seen:
        return
    seen.add(real)
    if (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file():
        yield from _shards(folder, inside)
        return
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith("."):
            continue
        if entry.is_symlink() and (is_data(entry.name) or entry.is_dir()) and not inside.follow(entry):
            continue
        if entry.is_dir():
            yield from _below(entry, inside, seen)
        elif is_data(entry.name) and entry.is_file():
            yield entry


class _Inside:
    """Where links may lead: into the folder itself, and from a snapshot of a Hub cache to the blobs beside it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        caches = [parent.parent for parent in (folder, *folder.parents) if parent.name == "snapshots"]
        self._blobs = next((cache / "blobs" for cache in caches if (cache / "blobs").is_dir()), None)

    def follow(self, link: Path) -> bool:
        """Whether only the link leads to its target; else the target is found in its own place.

        Raises:
            PoiseError: it leads out, or nowhere.
        """
        try:
            target = link.resolve(strict=True)
        except (OSError, RuntimeError) as error:
            raise PoiseError("a link that leads nowhere", where=str(link), do="remove it, or fetch it again") from error
        if self._blobs is not None and target.is_relative_to(self._blobs):
            return True
        if not target.is_relative_to(self._folder):
            raise PoiseError("a link that leads out of the folder", where=str(link), do="copy the file, or name it")
        hidden = any(part.startswith(".") for part in target.relative_to(self._folder).parts)
        return hidden or (target.is_file() and not is_data(target.name))


def _shards(folder: Path, inside: _Inside) -> Iterator[Path]:
    """The shards that a `datasets` folder names, all of which must be there."""
    try:
        state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        names = [Path(entry["filename"]).name for entry in state["_data_files"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PoiseError("no readable state.json", where=str(folder), do="save the set again") from error
    if any(value for key, value in state.items() if key.startswith("_indices")):
        raise PoiseError("rows are chosen by an index beside them", where=str(folder), do="flatten_indices(), save")
    for name in names:
        shard = folder / name
        if shard.is_symlink():
            inside.follow(shard)
        if not shard.is_file():
            raise PoiseError(f"shard {name!r} is missing", where=str(folder), do="save or fetch the set again")
        yield shard
