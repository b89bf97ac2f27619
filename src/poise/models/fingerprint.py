"""What tells two models apart, so that a run does not go on with other weights."""

from __future__ import annotations

import hashlib
from pathlib import Path

from poise.models.bundled import BUNDLED

_SUFFIXES = (".safetensors", ".bin", ".json", ".model", ".jinja", ".txt")


def fingerprint(source: Path | str, revision: str | None) -> str:
    """SHA-256 over the files of a folder, or hub id and commit."""
    if isinstance(source, str):
        return f"{source}@{revision or 'unknown'}"
    digest = hashlib.sha256()
    for path in sorted(path for path in source.iterdir() if path.is_file() and path.suffix in _SUFFIXES):
        with path.open("rb") as file:
            digest.update(path.name.encode() + hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def local_folder(model: str) -> Path | None:
    """The folder that a model's name is; None for a bundled name or a hub id, whose weights stay what they are."""
    folder = Path(model).expanduser()
    return folder if model not in BUNDLED and folder.is_dir() else None


def with_weights(model: str) -> str:
    """What a store of answers knows a model by: the name, of a local folder with its fingerprint.

    Args:
        model: bundled name, folder or hub id.
    """
    folder = local_folder(model)
    return model if folder is None else f"{model}@{fingerprint(folder, None)}"
