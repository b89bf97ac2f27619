"""A run that stops goes on as if it had not: after an exception, after SIGKILL, with a full disk, with a NaN."""

from __future__ import annotations

import math
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from online_case import PROMPTS, looks, make, timeless
from torch import Tensor

from poise.align.engine import PTX, LocalLoop
from poise.align.engine.rollout import roll_out
from poise.errors import PoiseError
from poise.models.checkpoint import load_state

METHODS = ("ppo_lagrangian", "grpo_lagrangian", "repo")
SCRIPT = Path(__file__).parent / "online_case.py"


@pytest.fixture
def model(tiny_lm: Path, float32: None) -> Path:
    """Folder of the tiny model, computed in float32."""
    return tiny_lm


def flat(value: Any, at: str = "") -> dict[str, Any]:
    """State by dotted name, without the stopwatch."""
    if isinstance(value, dict):
        parts = value.items()
    elif isinstance(value, list):
        parts = {str(i): v for i, v in enumerate(value)}.items()
    else:
        return {} if ".seconds" in at else {at: value}
    return {name: part for key, inner in parts for name, part in flat(inner, f"{at}.{key}").items()}


def assert_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Every tensor and number, bit by bit."""
    mine, theirs = flat(one), flat(other)
    assert list(mine) == list(theirs) and any(isinstance(value, Tensor) for value in mine.values())
    for name, value in mine.items():
        same = torch.equal(value, theirs[name]) if isinstance(value, Tensor) else value == theirs[name]
        assert same, name


def files(folder: Path) -> dict[str, bytes]:
    """What the evaluation wrote."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.slow
def test_killed_by_a_signal_and_resumed_equals_uninterrupted(model: Path, tmp_path: Path) -> None:
    """SIGKILL in step 3 of 0..3: steps 0 and 1 are in the checkpoint, the evaluation of step 2 is done again."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, str(SCRIPT), str(model), str(tmp_path), "4", "3", *METHODS]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.stdout.splitlines() == [f"{name} -9" for name in METHODS], done.stderr
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for name in METHODS:
            whole = run(make(model, name, evaluation=looks(tmp_path / f"{name} whole")), tmp_path / "whole")
            resumed = make(model, name, evaluation=looks(tmp_path / name))
            state = load_state(tmp_path / f"{name}.safetensors")
            assert state is not None and len(state["history"]) == 2 and len(state["evaluations"]) == 1
            run(resumed, tmp_path / f"{name}.safetensors")
            assert_same(resumed.state_dict(), whole.state_dict())
            assert files(tmp_path / name) == files(tmp_path / f"{name} whole")
            (tmp_path / "whole").unlink()
    finally:
        torch.set_num_threads(threads)


def run(loop: LocalLoop, checkpoint: Path) -> LocalLoop:
    """All steps, saving every second one."""
    loop.run(checkpoint=checkpoint, checkpoint_every=2)
    return loop


@pytest.mark.parametrize("name", METHODS)
def test_stopped_by_an_exception_and_resumed_equals_uninterrupted(model: Path, tmp_path: Path, name: str) -> None:
    whole = run(make(model, name), tmp_path / "whole.safetensors")

    def stop(row: dict[str, float]) -> None:
        if row["step"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(model, name).run(checkpoint=tmp_path / "c.safetensors", checkpoint_every=1, on_step=stop)
    resumed = make(model, name)
    assert len(resumed.run(checkpoint=tmp_path / "c.safetensors")) == 4
    assert_same(resumed.state_dict(), whole.state_dict())


def test_other_settings_are_refused(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    make(model, "grpo_lagrangian", steps=1).run(checkpoint=path, checkpoint_every=1)
    make(model, "grpo_lagrangian", steps=1, rows_per_batch=1).run(checkpoint=path)
    with pytest.raises(PoiseError, match=r"checkpoint's method is GRPO.*this run's RLOO"):
        make(model, "rloo_lagrangian").run(checkpoint=path)
    with pytest.raises(PoiseError, match="checkpoint's seed is 3, this run's 4"):
        make(model, "grpo_lagrangian", seed=4).run(checkpoint=path)


@pytest.mark.parametrize(
    "rows",
    [
        [([1, 30], [40, 41]), ([1, 31], [43])],
        [([1, 31], [42]), ([1, 30], [40, 41])],
        [([1, 30, 40], [41]), ([1, 31], [42])],
    ],
)
def test_other_ptx_rows_are_refused(model: Path, tmp_path: Path, rows: list[tuple[list[int], list[int]]]) -> None:
    """As many, but another token, another order (a step draws places), or an answer that begins elsewhere."""
    path, there = tmp_path / "c.safetensors", [([1, 30], [40, 41]), ([1, 31], [42])]
    make(model, "grpo_lagrangian", steps=1, ptx=PTX(there, 0.5)).run(checkpoint=path, checkpoint_every=1)
    same = [(tuple(prompt), tuple(response)) for prompt, response in there]
    assert len(make(model, "grpo_lagrangian", steps=2, ptx=PTX(same, 0.5)).run(checkpoint=path)) == 2
    with pytest.raises(PoiseError, match=r"checkpoint's ptx is 2 rows \(\w+\), .*, this run's 2 rows \(\w+\), "):
        make(model, "grpo_lagrangian", ptx=PTX(rows, 0.5)).run(checkpoint=path)


def test_a_loss_that_is_no_number_names_the_batch_and_keeps_the_checkpoint(model: Path, tmp_path: Path) -> None:
    """The second step begins with an actor that is no longer made of numbers."""
    path = tmp_path / "c.safetensors"
    loop = make(model, "grpo_lagrangian")

    def spoil(row: dict[str, float]) -> None:
        if row["step"] == 1:
            with torch.no_grad():
                loop.trunk.parameters_of("actor")[-1].fill_(math.nan)

    with pytest.raises(PoiseError, match=r"align step 2: .*not a number \(prompts p-\d, p-\d") as caught:
        loop.run(checkpoint=path, checkpoint_every=1, on_step=spoil)
    assert caught.value.exit_code == 4
    state = load_state(path)
    assert state is not None and len(state["history"]) == 2


def test_a_loss_alone_that_is_no_number(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loop = make(model, "ppo")
    monkeypatch.setattr(loop.method, "actor_loss", lambda log_prob, *rest: log_prob.sum() * math.nan)
    with pytest.raises(PoiseError, match=r"align step 0: loss of actor is not a number \(prompts p-\d"):
        loop.run(checkpoint=tmp_path / "c.safetensors")


def test_a_gradient_that_is_no_number_is_not_stepped(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss is zero, its slope 0 / 0; the critics, whose gradients are fine, wait for the actor's."""
    path = tmp_path / "c.safetensors"
    make(model, "ppo", steps=1).run(checkpoint=path, checkpoint_every=1)
    saved, loop = path.read_bytes(), make(model, "ppo")
    monkeypatch.setattr(loop.method, "actor_loss", lambda log_prob, *rest: (0 * log_prob).sum().sqrt())
    with pytest.raises(PoiseError, match=r"align step 1: gradient of actor is not a number \(prompts p-\d") as caught:
        loop.run(checkpoint=path, checkpoint_every=1)
    assert caught.value.exit_code == 4 and path.read_bytes() == saved
    before = load_state(path)
    assert before is not None
    for role in loop.trained:
        assert_same(loop.trunk.state_of(role), before["roles"][role])


def test_an_actor_that_says_nothing(model: Path, tmp_path: Path) -> None:
    """The end token is made the most likely everywhere."""
    loop = make(model, "grpo_lagrangian")
    head = loop.trunk.model.get_output_embeddings()
    head.register_forward_hook(lambda module, args, out: ends(out, loop.trunk.tokenizer.eos_token_id))
    with pytest.raises(PoiseError, match="all 6 responses of the rollout are empty") as caught:
        loop.run(checkpoint=tmp_path / "c.safetensors")
    assert caught.value.exit_code == 4 and caught.value.where == "align step 0"


def ends(logits: Tensor, end: int) -> Tensor:
    """Logits of an actor that ends at once."""
    out = logits.clone()
    out[..., end] = 1e4
    return out


def test_a_prompt_that_fills_the_context_is_named(model: Path) -> None:
    loop = make(model, "grpo_lagrangian")
    prompts = [*PROMPTS[:1], ("endless", [5] * 600)]
    with pytest.raises(PoiseError, match=r"prompt endless: a prompt of 600 tokens can't be answered \(too-long\)"):
        roll_out(loop.trunk, prompts, seed=0, step=0, temperature=1.0, max_new_tokens=4, rows=4)


def test_a_full_disk_leaves_the_earlier_checkpoint(model: Path, tmp_path: Path) -> None:
    """A limit on the size of files stands for the disk's: the write ends half-way."""
    path = tmp_path / "c.safetensors"
    loop = make(model, "rloo_lagrangian")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(row: dict[str, float]) -> None:
        if row["step"] == 1:
            resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))

    try:
        with pytest.raises(PoiseError, match="can't be written") as caught:
            loop.run(checkpoint=path, checkpoint_every=1, on_step=fill)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.exit_code == 3 and caught.value.where == str(path)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    state = load_state(path)
    assert state is not None and len(state["history"]) == 1
    resumed = make(model, "rloo_lagrangian")
    resumed.run(checkpoint=path)
    whole = make(model, "rloo_lagrangian")
    whole.run(checkpoint=tmp_path / "whole.safetensors")
    assert timeless(resumed.history) == timeless(whole.history)
