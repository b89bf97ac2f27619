"""Training state on disk without pickle: tensors in safetensors, everything else in JSON, one rename to finish."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from poise.errors import PoiseError


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write nested dicts and lists of tensors and JSON values to `path` (a `.safetensors` file).

    Non-tensor values travel in the file's metadata, so one atomic rename replaces the whole checkpoint.

    Raises:
        PoiseError: the disk is full or the folder can't be written; what stood at `path` stays.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    tensors: dict[str, Tensor] = {}
    skeleton = _flatten(state, "", tensors)
    temporary = path.with_suffix(".tmp")
    try:
        save_file(
            {k: t.detach().cpu().contiguous().clone() for k, t in tensors.items()},
            temporary,
            {"state": json.dumps(skeleton)},
        )
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except (OSError, SafetensorError) as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise PoiseError(
            f"the checkpoint can't be written ({str(error).splitlines()[0]}); an earlier one is as it was",
            where=str(path),
            do="free some space, then run it again",
            exit_code=3,
        ) from error


@contextmanager
def faults_of_the_disk() -> Iterator[None]:
    """Let a fault of the file system under a file of weights be an `OSError`, as it is under every other file.

    Raises:
        OSError: the file can't be written.
    """
    from safetensors import SafetensorError

    try:
        yield
    except SafetensorError as error:
        raise OSError(str(error)) from error


def load_state(path: Path) -> dict[str, Any] | None:
    """What `save_state` wrote, or None when there is no checkpoint or it is damaged."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no mapping)
            state: dict[str, Any] = _restore(json.loads(file.metadata()["state"]), tensors)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError):
        return None
    return state


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """`optimizer.state_dict()` with text keys, as `save_state` wants it."""
    state = optimizer.state_dict()
    return {"state": {str(k): v for k, v in state["state"].items()}, "param_groups": state["param_groups"]}


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Restore `optimizer_state`."""
    groups = [{k: tuple(v) if k == "betas" else v for k, v in g.items()} for g in state["param_groups"]]
    optimizer.load_state_dict({"state": {int(k): v for k, v in state["state"].items()}, "param_groups": groups})


def _flatten(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        tensors[name] = value
        return {"__tensor__": name}
    if isinstance(value, dict):
        return {str(k): _flatten(v, f"{name}/{k}", tensors) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_flatten(v, f"{name}/{i}", tensors) for i, v in enumerate(value)]
    return value


def _restore(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, dict):
        if "__tensor__" in value:
            return tensors[value["__tensor__"]]
        return {k: _restore(v, tensors) for k, v in value.items()}
    return [_restore(v, tensors) for v in value] if isinstance(value, list) else value
