"""Sinks are shown every step once, know nothing but what they are given, and say so when a package is absent."""

from __future__ import annotations

import importlib.util
import json
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from poise.align.engine import sinks as module
from poise.align.engine.sinks import SINKS, sinks
from poise.errors import PoiseError

SECRET = "sk-never-to-be-written"


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "steps.jsonl").read_text().splitlines()]


def test_a_run_that_continues_leaves_each_step_once(tmp_path: Path) -> None:
    with sinks(["jsonl"], tmp_path) as on_step:
        for step in range(4):
            on_step({"step": step, "loss": 1.0 / (step + 1)})
    with (tmp_path / "steps.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')  # killed while writing
    with sinks(["jsonl"], tmp_path) as on_step:  # from the checkpoint of step 2
        for step in (2, 3, 4):
            on_step({"step": step, "loss": float("nan") if step == 4 else 7.0})
    assert lines(tmp_path) == [
        {"step": 0, "loss": 1.0},
        {"step": 1, "loss": 0.5},
        {"step": 2, "loss": 7.0},
        {"step": 3, "loss": 7.0},
        {"step": 4, "loss": None},
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["steps.jsonl"]


def test_no_sink_and_an_unknown_one(tmp_path: Path) -> None:
    with sinks([], tmp_path) as on_step:
        on_step({"step": 0.0})
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(PoiseError, match="no sink 'mlflow'"), sinks(["jsonl", "mlflow"], tmp_path):
        pass


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_an_absent_package_is_one_clear_line(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(PoiseError, match=f"{name} can't be imported.*\\.\\[{name}\\]"), sinks([name], tmp_path):
        pass


def test_only_the_first_process_shows_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "is_first", lambda: False)
    with sinks(["jsonl"], tmp_path) as on_step:
        on_step({"step": 0.0, "loss": 1.0})
    assert list(tmp_path.iterdir()) == []


class FakeRun:
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[Any] = []
        self.finished = False

    def log(self, row: dict[str, float], step: int) -> None:
        self.told.append((step, row))

    def finish(self) -> None:
        self.finished = True


def test_wandb_is_offline_and_told_nothing_of_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, begun = FakeRun(), {}

    def init(**told: Any) -> FakeRun:
        begun.update(told)
        return run

    fake = types.SimpleNamespace(init=init, Settings=lambda **told: told)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    with pytest.raises(RuntimeError), sinks(["wandb"], tmp_path, name="n", settings={"beta": 0.1}) as on_step:
        on_step({"step": 3, "loss": 0.5})
        raise RuntimeError
    assert run.told == [(3, {"loss": 0.5})] and run.finished
    assert begun["mode"] == "offline" and begun["config"] == {"beta": 0.1} and begun["name"] == "n"
    off = begun["settings"]
    assert off["x_disable_meta"] and off["x_disable_machine_info"] and off["disable_git"] and off["disable_code"]
    assert not off["save_code"] and not off["x_save_requirements"] and off["console"] == "off"


def test_tensorboard_drops_what_a_killed_run_wrote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []

    class Writer:
        def __init__(self, folder: str, purge_step: int) -> None:
            told.append((Path(folder).name, purge_step))

        def add_text(self, name: str, text: str, step: int) -> None:
            told.append((name, step, '"beta": 0.1' in text))

        def add_scalar(self, name: str, value: float, step: int) -> None:
            told.append((name, value, step))

        def close(self) -> None:
            told.append("closed")

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", types.SimpleNamespace(SummaryWriter=Writer))
    with sinks(["tensorboard"], tmp_path, settings={"beta": 0.1}) as on_step:
        on_step({"step": 5.0, "loss": 0.5})
        on_step({"step": 6.0, "loss": 0.4})
    assert told == [("tensorboard", 5), ("settings", 5, True), ("loss", 0.5, 5), ("loss", 0.4, 6), "closed"]


@pytest.mark.parametrize("name", SINKS)
def test_no_environment_variable_reaches_the_disk(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if name != "jsonl" and importlib.util.find_spec(name) is None:
        pytest.skip(f"the package {name} is not installed")
    monkeypatch.setenv("SOME_API_KEY", SECRET)
    with sinks([name], tmp_path, settings={"beta": 0.1}) as on_step:
        for step in range(3):
            on_step({"step": float(step), "loss": 0.5})
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files and not [path for path in files if SECRET.encode() in path.read_bytes()]
