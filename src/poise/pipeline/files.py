"""Writing files so that a kill or a power cut leaves either the old file or the new one."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

TEMPORARY = ".poise-tmp"
"""Suffix of files that are not finished; left-overs with it may be deleted at any time."""


def write_atomic(path: Path, data: bytes) -> None:
    """Write `data` beside `path`, push it to the disk, then rename it over `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + TEMPORARY)
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Push a folder's entries (new names, renames) to the disk, where the system can."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256_file(path: Path, *, sync: bool = False) -> str:
    """SHA-256 of a file's bytes as 64 hex digits; `sync` pushes the file to the disk first (POSIX)."""
    with path.open("rb") as file:
        if sync and os.name == "posix":
            os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_json(value: Any) -> str:
    """SHA-256 of the canonical JSON of `value`: sorted keys, no spaces, ASCII.

    Raises:
        ValueError: a number is not finite.
        TypeError: a value is no JSON.
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def to_json(value: Any) -> Any:
    """Plain JSON values: tuples become lists, NumPy scalars numbers, paths text, NaN and infinities null.

    Raises:
        TypeError: a value that has no JSON form.
    """
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(item) for item in value]
    if isinstance(value, Path):
        return value.as_posix()
    if hasattr(value, "tolist"):  # NumPy and torch values, without importing either
        return to_json(value.tolist())
    raise TypeError(f"{type(value).__name__} {value!r:.60} has no JSON form")


def json_text(value: Any) -> str:
    """Indented JSON of `to_json(value)`, keys in the order given, one newline at the end."""
    return json.dumps(to_json(value), indent=2, ensure_ascii=True, allow_nan=False) + "\n"
