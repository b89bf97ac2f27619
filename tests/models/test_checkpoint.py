"""Checkpoints: what goes in comes out, a damaged one counts as none, training continues as if uninterrupted."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from poise.errors import PoiseError
from poise.models.checkpoint import load_optimizer, load_state, optimizer_state, save_state

STATE: dict[str, Any] = {
    "roles": {"actor": {"model.layers.0.weight": torch.arange(6.0).reshape(2, 3)}, "empty": {}},
    "half": torch.tensor([1.0, -2.5, 3e38], dtype=torch.bfloat16),
    "ids": [torch.tensor([1, 2]), torch.tensor(True)],
    "scalar": torch.tensor(0.1, dtype=torch.float64),
    "nothing": torch.zeros(0, 4),
    "history": [{"loss": 0.1 + 0.2, "step": 3, "note": None}, {}],
    "flag": False,
}


def test_nested_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    save_state(path, STATE)
    back = load_state(path)
    assert back is not None and list(back) == list(STATE)
    assert back["history"] == STATE["history"] and back["flag"] is False and back["roles"]["empty"] == {}
    pairs = [
        (back["roles"]["actor"]["model.layers.0.weight"], torch.arange(6.0).reshape(2, 3)),
        *((back[name], STATE[name]) for name in ("half", "scalar", "nothing")),
        *zip(back["ids"], STATE["ids"], strict=True),
    ]
    for got, expected in pairs:
        assert got.dtype == expected.dtype and got.shape == expected.shape and torch.equal(got, expected)
    assert [p.name for p in tmp_path.iterdir()] == ["state.safetensors"]


def test_numbers_that_json_does_not_know(tmp_path: Path) -> None:
    save_state(tmp_path / "s.safetensors", {"losses": [math.nan, math.inf], "tuple": (0.9, 0.95)})
    back = load_state(tmp_path / "s.safetensors")
    assert back is not None and math.isnan(back["losses"][0]) and back["losses"][1] == math.inf
    assert back["tuple"] == [0.9, 0.95]


def test_tensors_that_share_memory_or_are_views(tmp_path: Path) -> None:
    whole = torch.arange(12.0).reshape(3, 4)
    save_state(tmp_path / "s.safetensors", {"whole": whole, "same": whole, "column": whole[:, 1], "turned": whole.T})
    back = load_state(tmp_path / "s.safetensors")
    assert back is not None and torch.equal(back["turned"], whole.T) and torch.equal(back["column"], whole[:, 1])
    assert torch.equal(back["same"], whole)


@pytest.mark.parametrize("damage", ["missing", "empty", "short", "noise", "no metadata", "bad json", "a folder"])
def test_a_damaged_file_counts_as_none(tmp_path: Path, damage: str) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "state.safetensors"
    save_state(path, STATE)
    content = path.read_bytes()
    if damage in ("missing", "a folder"):
        path.unlink()
    match damage:
        case "empty":
            path.write_bytes(b"")
        case "short":
            path.write_bytes(content[:-10])
        case "noise":
            path.write_bytes(bytes(range(256)) * 20)
        case "no metadata":
            save_file({"a": torch.zeros(1)}, path)
        case "bad json":
            save_file({"a": torch.zeros(1)}, path, {"state": "{"})
        case "a folder":
            path.mkdir()
    assert load_state(path) is None


def test_a_tensor_that_is_named_but_absent(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    skeleton = json.dumps({"x": {"__tensor__": "/x"}})
    save_file({"/y": torch.zeros(1)}, tmp_path / "s.safetensors", {"state": skeleton})
    assert load_state(tmp_path / "s.safetensors") is None


def test_a_failed_save_keeps_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "s.safetensors"
    save_state(path, {"step": 1})

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(PoiseError, match="No space left"):
        save_state(path, {"step": 2})
    assert load_state(path) == {"step": 1}


def model_and_optimizer() -> tuple[nn.Linear, torch.optim.AdamW]:
    """Two groups with different rates."""
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    groups = [{"params": [model.weight], "lr": 0.1}, {"params": [model.bias], "lr": 0.01}]
    return model, torch.optim.AdamW(groups, betas=(0.8, 0.9), weight_decay=0.1)


def descend(model: nn.Linear, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        optimizer.zero_grad()
        model(torch.full((1, 3), float(step))).square().sum().backward()
        optimizer.step()


def test_an_optimizer_continues_as_if_uninterrupted(tmp_path: Path) -> None:
    whole, optimizer = model_and_optimizer()
    descend(whole, optimizer, range(6))

    first, optimizer = model_and_optimizer()
    descend(first, optimizer, range(3))
    save_state(tmp_path / "s.safetensors", {"model": first.state_dict(), "optimizer": optimizer_state(optimizer)})

    second, optimizer = model_and_optimizer()
    state = load_state(tmp_path / "s.safetensors")
    assert state is not None
    second.load_state_dict(state["model"])
    load_optimizer(optimizer, state["optimizer"])
    assert optimizer.param_groups[0]["betas"] == (0.8, 0.9) and optimizer.param_groups[1]["lr"] == 0.01
    descend(second, optimizer, range(3, 6))
    assert torch.equal(second.weight, whole.weight) and torch.equal(second.bias, whole.bias)


def test_an_optimizer_that_never_stepped(tmp_path: Path) -> None:
    _, optimizer = model_and_optimizer()
    save_state(tmp_path / "s.safetensors", {"optimizer": optimizer_state(optimizer)})
    state = load_state(tmp_path / "s.safetensors")
    assert state is not None
    load_optimizer(optimizer, state["optimizer"])
    assert optimizer.state_dict()["state"] == {}
