"""Offline methods in two processes over gloo: the run of one, one writer, stops that both hear of."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from launching import COMMAND, launched
from safetensors.torch import load_file

from poise.align.train import Recipe, train_offline

Make = Callable[..., Recipe]
RUNS = """
import sys, torch
from poise.models import separate, trunk
trunk.frozen_dtype = separate.frozen_dtype = lambda device: torch.float32
torch.set_num_threads(1)
from pathlib import Path
from poise.align.engine.processes import joined
from poise.align.train import Watch, objectives, train_offline
from poise.cli.aligning import read_recipe
from poise.errors import PoiseError

class StoppedError(Exception):
    pass

def die(phase, done, total, loss):
    if done == 3:
        raise StoppedError

folder, real, calls = Path(sys.argv[1]), objectives.pair_log_probs, [0]
with joined() as here:
    def broken(*arguments):
        calls[0] += torch.is_grad_enabled()
        return real(*arguments) * (float("nan") if calls[0] == 2 and here.rank == 1 else 1.0)

    dpo, mocan, every = (read_recipe(folder / f"{name}.yaml") for name in ("dpo", "mocan", "every"))
    train_offline(mocan, folder / "mocan")
    train_offline(every, folder / "every")
    train_offline(dpo, folder / "whole")
    try:
        train_offline(dpo, folder / "parts", Watch(step=die))
    except StoppedError:
        train_offline(dpo, folder / "parts")
    objectives.pair_log_probs = broken
    try:
        train_offline(dpo, folder / "broken")
    except PoiseError as error:
        print(error)
        sys.exit(error.exit_code)
"""
"""Whole runs (one of all weights), one that is stopped and goes on, and one with a loss that is no number in the second
process alone."""


THREADS = """
import importlib
from pathlib import Path
import torch
from poise.align.engine.processes import joined, total
with joined() as here:
    importlib.import_module("torch.distributed.nn.functional")  # as what comes with a model does
    assert total([1.0]) == [2.0]
names = [(task / "comm").read_text().strip() for task in Path("/proc/self/task").iterdir()]
assert not [name for name in names if "gloo" in name], names
"""


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "history.jsonl").read_text().splitlines()]


def near(one: Path, two: Path) -> bool:
    """Whether two adapters are the same but for rounding."""
    first, second = (load_file(folder / "adapter_model.safetensors") for folder in (one, two))
    return first.keys() == second.keys() and all(torch.allclose(first[k], second[k], atol=1e-4) for k in first)


def write(recipe: Recipe, file: Path) -> None:
    file.write_text(json.dumps(recipe.sections()), encoding="utf-8")  # JSON is YAML


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="looks at threads as Linux shows them")
def test_no_thread_of_the_group_is_left_to_die_with_the_interpreter() -> None:
    """It would abort one exit in some tens, after all work was done."""
    assert launched(THREADS, []) == [(0, "", "")] * 2


def test_two_processes_of_the_command_make_the_run_of_one(make_recipe: Make, tmp_path: Path) -> None:
    """22 pairs make steps of 6, 6, 6 and 4: two batches in the first three, one and an idle process in the last."""
    recipe = make_recipe("dpo", training={"pairs_per_batch": 4}, sinks=("jsonl",))
    train_offline(recipe, tmp_path / "one")
    write(recipe, tmp_path / "dpo.yaml")
    both = launched(COMMAND, ["align", "train", str(tmp_path / "dpo.yaml"), "--out", str(tmp_path / "two")])
    assert [code for code, _, _ in both] == [0, 0], both
    assert "run:" in both[0][1] and both[1][1] == ""
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), abs=1e-5)
    assert near(tmp_path / "one", tmp_path / "two")
    one, two = (json.loads((tmp_path / name / "report.json").read_text()) for name in ("one", "two"))
    assert (one["processes"], two["processes"]) == (1, 2)
    assert all(one[key] == two[key] for key in ("rows", "steps", "identity", "padding_share"))
    for first, second in zip(one["evaluations"], two["evaluations"], strict=True):
        assert second == pytest.approx({**first, "phase": "actor"}, abs=1e-5)
    assert len((tmp_path / "two" / "steps.jsonl").read_text().splitlines()) == two["steps"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dpo.yaml", "one", "pairs.jsonl", "two"]


@pytest.mark.slow
def test_both_go_on_after_a_stop_and_stop_at_a_loss_of_one(make_recipe: Make, scores: Path, tmp_path: Path) -> None:
    brief: dict[str, Any] = {"training": {"save_every": 2, "epochs": 1}}
    dpo, mocan = (
        make_recipe("dpo", **brief),
        make_recipe("mocan", scores=str(scores), mocan={"threshold": 10.0}, **brief),
    )
    every = make_recipe("dpo", training={**brief["training"], "weights": "all", "learning_rate": 1e-3})
    write(dpo, tmp_path / "dpo.yaml")
    write(mocan, tmp_path / "mocan.yaml")
    write(every, tmp_path / "every.yaml")
    both = launched(RUNS, [str(tmp_path)])
    assert [code for code, _, _ in both] == [4, 4], both
    for _, told, _ in both:
        assert "the loss of step 2 is not a number, in the batch of pairs.jsonl row" in told
    assert both[0][1] == both[1][1] and not (tmp_path / "broken").exists()
    for name in ("history.jsonl", "adapter_model.safetensors"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    for recipe, name in ((mocan, "mocan"), (every, "every")):
        train_offline(recipe, tmp_path / f"{name} alone")
        assert losses(tmp_path / name) == pytest.approx(losses(tmp_path / f"{name} alone"), abs=1e-5)
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("every", "every alone"))
    assert one.keys() == two.keys() and all(torch.allclose(one[key], two[key], atol=1e-4) for key in one)
    begun = json.loads((tmp_path / ".broken.training" / "settings.json").read_text())
    assert begun["method"] == "dpo" and (tmp_path / ".broken.training" / "checkpoint.safetensors").is_file()
