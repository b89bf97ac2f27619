"""The manifest of a finished stage: what went in, what came out, and the fingerprint that says whether to run again."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

import poise
from poise.pipeline.context import MANIFEST, RESERVED
from poise.pipeline.files import TEMPORARY, json_text, sha256_file, sha256_json, write_atomic

_PACKAGES = ("torch", "transformers", "peft", "tokenizers", "safetensors", "numpy", "pyarrow", "duckdb", "datasets")


class Output(BaseModel):
    """One output file."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    sha256: str
    bytes: int


class Manifest(BaseModel):
    """Everything known about one finished stage.

    `inputs` maps each stage read to the `outputs_sha256` of what was read, "file <name>" to the SHA-256 of a file
    outside the run, and "model <role>" to the fingerprint of a model that is a folder. `outputs_sha256` covers the
    output files and no time. `seconds` and `peak_memory_mb` (MiB) belong to the attempt that finished the stage;
    `continued` says that earlier, interrupted attempts did some of its parts.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    stage: str
    fingerprint: str
    settings: dict[str, Any]
    seed: int
    models: dict[str, str]
    inputs: dict[str, str]
    outputs: dict[str, Output]
    outputs_sha256: str
    summary: dict[str, Any]
    versions: dict[str, str]
    started: str
    finished: str
    seconds: float
    peak_memory_mb: float
    continued: bool
    host: dict[str, int | None]


def fingerprint(
    *,
    stage: str,
    settings: Mapping[str, Any],
    seed: int,
    models: Mapping[str, str],
    inputs: Mapping[str, str],
    version: str = poise.__version__,
) -> str:
    """SHA-256 over everything that decides a stage's outputs; equal fingerprints need not run twice.

    Args:
        stage: its name.
        settings: all its settings as JSON values.
        seed: the recipe's seed.
        models: role -> model.
        inputs: as in `Manifest`.
        version: of Poise.
    """
    return sha256_json(
        {
            "stage": stage,
            "settings": dict(settings),
            "seed": seed,
            "models": dict(models),
            "inputs": dict(inputs),
            "poise": version,
        }
    )


def hash_outputs(folder: Path) -> dict[str, Output]:
    """Relative POSIX path -> size and SHA-256 of every output in `folder`, sorted; each is pushed to the disk."""
    files = (path for path in folder.rglob("*") if path.is_file() and not path.name.endswith(TEMPORARY))
    named = sorted((path.relative_to(folder), path) for path in files)
    return {
        name.as_posix(): Output(sha256=sha256_file(path, sync=True), bytes=path.stat().st_size)
        for name, path in named
        if name.parts[0] not in RESERVED
    }


def outputs_digest(outputs: Mapping[str, Output]) -> str:
    """`outputs_sha256`: one hash over all output files."""
    return sha256_json({name: output.model_dump() for name, output in outputs.items()})


def damage(folder: Path, manifest: Manifest, *, verify: bool) -> str | None:
    """What is wrong with the files of a finished stage, or None.

    Args:
        folder: the finished folder.
        manifest: its manifest.
        verify: also compare SHA-256, not just the sizes.
    """
    if outputs_digest(manifest.outputs) != manifest.outputs_sha256:
        return f"{MANIFEST} was altered"
    for name, expected in manifest.outputs.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if (size := path.stat().st_size) != expected.bytes:
            return f"{name} has {size} bytes instead of {expected.bytes}"
        if verify and sha256_file(path) != expected.sha256:
            return f"{name} was altered"
    return None


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest in `folder`, or None when there is none or it cannot be read as one."""
    try:
        return Manifest.model_validate_json((folder / MANIFEST).read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValidationError):
        return None


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write it into `folder`, pushed to the disk."""
    write_atomic(folder / MANIFEST, json_text(manifest.model_dump(mode="json")).encode("ascii"))


def versions() -> dict[str, str]:
    """Versions of Poise, Python and the installed libraries that can change a result. Imports none of them."""
    found = {"poise": poise.__version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def host() -> dict[str, int | None]:
    """What is recorded of the machine: its number of processors, nothing that names it."""
    return {"cpu_count": os.cpu_count()}
