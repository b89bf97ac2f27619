"""A folder of files that appears when it is complete: where it is written first, its manifest, faults of the disk."""

from __future__ import annotations

import glob
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from poise import __version__
from poise.data.columns import SCHEMA_VERSION
from poise.errors import PoiseError
from poise.harm import policy_version

_RESULTS = ("manifest.json", "poise-alignment.json")
"""Files by which a folder is known as a result: tables or a release, an exported policy."""


def refuse_used(folder: Path, replace: bool, sources: Iterable[Path] = ()) -> None:
    """Raise where a result may not be written, before the work begins.

    Args:
        replace: an earlier result may be there; nothing else, since it will be deleted.
        sources: files and folders that the result is made of.

    Raises:
        PoiseError: the folder is in use, holds something else than an earlier result, or holds a source.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not replace:
        raise PoiseError("already exists and is not empty", where=str(folder), do="choose another folder or --force")
    if not any((folder / name).is_file() for name in _RESULTS):
        raise PoiseError("holds no earlier result", where=str(folder), do="choose another folder")
    if held := [source for source in sources if source.resolve().is_relative_to(folder.resolve())]:
        raise PoiseError(f"holds {held[0]}, which is read", where=str(folder), do="choose another folder")


def partial_folder(folder: Path) -> Path:
    """Where this process writes what will be renamed to `folder`; what killed processes left there is removed."""
    for leftover in folder.parent.glob(f".{glob.escape(folder.name)}.*.partial"):
        owner = leftover.name.split(".")[-2]
        if owner.isdecimal() and int(owner) != os.getpid() and not _runs(int(owner)):
            shutil.rmtree(leftover, ignore_errors=True)
    return folder.with_name(f".{folder.name}.{os.getpid()}.partial")


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)  # signal 0 only asks
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's
        return True
    return True


def manifest_of(folder: Path, step: Mapping[str, Any], parents: Iterable[str]) -> dict[str, Any]:
    """What `manifest.json` says: the step, its parents, and every file below the folder with bytes, sha256 and rows."""
    files = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        entry = {"path": path.relative_to(folder).as_posix(), "bytes": path.stat().st_size, "sha256": digest}
        if path.suffix == ".parquet":
            entry["rows"] = pq.read_metadata(path).num_rows
        files.append(entry)
    return {
        "poise_version": __version__,
        "schema_version": SCHEMA_VERSION,
        "policy_version": policy_version(),
        "step": dict(step),
        "parents": list(parents),
        "files": files,
    }


def write_json(path: Path, value: object) -> None:
    """Write indented JSON with a line end."""
    text = json.dumps(value, ensure_ascii=False, indent=2)
    path.write_text(text + "\n", encoding="utf-8", newline="\n")


def disk_error(error: OSError, folder: Path) -> PoiseError:
    """What to tell about a fault of the file system; exit code 3."""
    return PoiseError(
        f"cannot be written ({error.strerror or error}); nothing was left behind",
        where=str(folder),
        do="free some space or choose another disk, then run it again",
        exit_code=3,
    )
