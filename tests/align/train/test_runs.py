"""Whole runs on the tiny model: what they leave, going on after a stop, what they refuse."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from poise.align.train import Recipe, Watch, export_merged, open_policy, train_offline
from poise.align.train import objectives as objectives_file
from poise.align.train.offline import plan_steps
from poise.data.resumable import work_folder
from poise.errors import PoiseError

Make = Callable[..., Recipe]
FILES = ("adapter_model.safetensors", "adapter_config.json", "history.jsonl", "curves.svg")


class StoppedError(Exception):
    """Stands for any death of the process after a step."""


def stop_at(step: int, phase: str = "actor") -> Watch:
    """Raises after a step of a phase."""

    def die(name: str, done: int, total: int, loss: float) -> None:
        if (name, done) == (phase, step):
            raise StoppedError

    return Watch(step=die)


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in FILES}


def test_dpo_learns_and_leaves_a_folder(make_recipe: Make, tmp_path: Path) -> None:
    notes: list[str] = []
    out, recipe = tmp_path / "out", make_recipe("dpo")
    report = train_offline(recipe, out)
    first, last = report["evaluations"][0], report["evaluations"][-1]
    assert first["loss"] == pytest.approx(0.693147, abs=1e-4)  # -log s(0): the policy is the reference
    assert last["loss"] < first["loss"] and last["accuracy"] == 1.0
    history = [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]
    assert len(history) == report["steps"] == 8 and {"loss", "accuracy", "margin"} <= history[0].keys()
    assert json.loads((out / "report.json").read_text()) == report
    assert report["rows"] == {"train": 22, "held_out": 2, "prompts_cut": 0, "responses_cut": 3, "left_out": {}}
    names = sorted(path.name for path in out.iterdir())
    assert {*FILES, "report.json", "recipe.json", "left-out.jsonl", "tokenizer.json", "chat_template.jinja"} <= {*names}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "pairs.jsonl"]
    assert train_offline(recipe, out, Watch(note=notes.append)) == report
    assert notes == [f"{out} is complete; nothing to do"]
    assert os.environ.get("PATH", "-") not in (out / "report.json").read_text()


@pytest.mark.parametrize(("method", "phases"), [("dpo", ("actor",)), ("sacpo", ("helpful", "actor"))])
def test_a_stopped_run_goes_on_as_if_nothing_had_been(
    make_recipe: Make, tmp_path: Path, method: str, phases: tuple[str, ...]
) -> None:
    recipe = make_recipe(method, training={"save_every": 2, "epochs": 1})
    train_offline(recipe, tmp_path / "whole")
    out = tmp_path / "parts"
    for phase in phases:
        for step in (0, 3):  # the checkpoint is that of step 2
            with pytest.raises(StoppedError):
                train_offline(recipe, out, stop_at(step, phase))
            assert not out.exists()
    train_offline(recipe, out)
    assert contents(out) == contents(tmp_path / "whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pairs.jsonl", "parts", "whole"]


def test_a_killed_process_goes_on(make_recipe: Make, tiny_lm: Path, pair_file: Path, tmp_path: Path) -> None:
    out, recipe = tmp_path / "out", make_recipe("dpo")
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps(recipe.sections()), encoding="utf-8")
    code = (
        "import time, torch\ntorch.set_num_threads(1)\nfrom pathlib import Path\nfrom poise.models import trunk\n"
        "from poise.align.train import Watch, train_offline\nfrom poise.cli.aligning import read_recipe\n"
        "trunk.frozen_dtype = lambda device: torch.float32\ntrunk.default_device = lambda: torch.device('cpu')\n"
        f"train_offline(read_recipe(Path({str(path)!r})), Path({str(out)!r}), "
        "Watch(step=lambda *a: time.sleep(0.3)))\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen([sys.executable, "-c", code], env=environment)
    checkpoint, until = work_folder(out) / "checkpoint.safetensors", time.monotonic() + 120
    while not checkpoint.is_file() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL and checkpoint.is_file() and not out.exists()
    begun: list[int] = []
    train_offline(recipe, out, Watch(step=lambda phase, done, total, loss: begun.append(done)))
    assert begun[0] >= 1
    train_offline(recipe, tmp_path / "whole")
    assert contents(out) == contents(tmp_path / "whole")


def test_sinks_show_each_step_once_and_change_nothing(make_recipe: Make, tmp_path: Path) -> None:
    plain = make_recipe("dpo")
    shown = make_recipe("dpo", sinks=("jsonl",))
    train_offline(plain, tmp_path / "plain")
    out = tmp_path / "shown"
    with pytest.raises(StoppedError):
        train_offline(shown, out, stop_at(3))
    train_offline(shown, out)
    lines = [json.loads(line) for line in (out / "steps.jsonl").read_text().splitlines()]
    history = [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [row["step"] for row in history] == list(range(1, 9))
    assert [line["loss"] for line in lines] == [row["loss"] for row in history]
    assert contents(out) == contents(tmp_path / "plain")
    assert not (tmp_path / "plain" / "steps.jsonl").exists()
    with pytest.raises(ValueError, match="sinks"):
        make_recipe("dpo", sinks=("paper",))


def test_another_run_is_refused_by_name(make_recipe: Make, pair_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(StoppedError):
        train_offline(make_recipe("dpo"), out, stop_at(1))
    with pytest.raises(PoiseError, match=r"another run made it: dpo\.beta 0\.1 there, 0\.2 now"):
        train_offline(make_recipe("dpo", dpo={"beta": 0.2}), out)
    saved_less_often = make_recipe("dpo", training={"save_every": 5}, name="renamed")
    train_offline(saved_less_often, out)
    with pytest.raises(PoiseError, match=r"training\.learning_rate 0\.005 there, 0\.001 now"):
        train_offline(make_recipe("dpo", training={"learning_rate": 1e-3}), out)
    pair_file.write_text(pair_file.read_text().replace("kettle", "teapot"), encoding="utf-8")
    with pytest.raises(PoiseError, match="data_sha256"):
        train_offline(make_recipe("dpo"), out)
    (tmp_path / "other").mkdir()
    with pytest.raises(PoiseError, match="exists and is no run"):
        train_offline(make_recipe("dpo"), tmp_path / "other")


def test_micro_batches_and_the_cache_do_not_matter(make_recipe: Make, tmp_path: Path) -> None:
    losses = []
    for number, changes in enumerate(({"pairs_per_batch": 6}, {"pairs_per_batch": 1}, {"cache_mb": 0})):
        train_offline(make_recipe("dpo", training=changes), tmp_path / str(number))
        lines = (tmp_path / str(number) / "history.jsonl").read_text().splitlines()
        losses.append([json.loads(line)["loss"] for line in lines])
    assert losses[0] == pytest.approx(losses[1], abs=1e-5) and losses[0] == pytest.approx(losses[2], abs=1e-5)


def test_gradient_checkpointing_computes_layers_again_and_changes_no_bit(
    make_recipe: Make, tmp_path: Path, attention_forwards: list[int]
) -> None:
    counts = []
    for name, on in (("kept", False), ("again", True)):
        attention_forwards[0] = 0
        train_offline(make_recipe("dpo", training={"gradient_checkpointing": on}), tmp_path / name)
        counts.append(attention_forwards[0])
    assert counts[0] > 0 and counts[1] == 2 * counts[0]  # once more in each backward pass
    assert contents(tmp_path / "again") == contents(tmp_path / "kept")
    with pytest.raises(StoppedError):  # a run that found too little memory goes on with it
        train_offline(make_recipe("dpo"), tmp_path / "changed", stop_at(3))
    train_offline(make_recipe("dpo", training={"gradient_checkpointing": True}), tmp_path / "changed")
    assert contents(tmp_path / "changed") == contents(tmp_path / "kept")


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_step(
    make_recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, recipe = tmp_path / "out", make_recipe("dpo", training={"save_every": 100})
    real, calls = objectives_file.pair_log_probs, [0]

    def broken(*arguments: Any) -> torch.Tensor:
        calls[0] += torch.is_grad_enabled()
        return real(*arguments) * (float("nan") if calls[0] == 6 else 1.0)  # the second batch of step 3

    monkeypatch.setattr(objectives_file, "pair_log_probs", broken)
    with pytest.raises(
        PoiseError, match=r"the loss of step 3 is not a number, in the batch of pairs\.jsonl row"
    ) as told:
        train_offline(recipe, out)
    assert told.value.exit_code == 4 and not out.exists()
    monkeypatch.undo()
    monkeypatch.setattr("poise.models.trunk.frozen_dtype", lambda device: torch.float32)
    begun: list[int] = []
    train_offline(recipe, out, Watch(step=lambda phase, done, total, loss: begun.append(done)))
    train_offline(recipe, tmp_path / "whole")
    assert begun[0] == 2 and contents(out) == contents(tmp_path / "whole")


@pytest.mark.parametrize("at_the_end", [False, True], ids=["checkpoint", "adapter"])
def test_a_full_disk_gives_one_line_and_loses_nothing(
    make_recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_the_end: bool
) -> None:
    from safetensors import SafetensorError

    out, recipe, full = tmp_path / "out", make_recipe("dpo"), [False]
    real = __import__("safetensors.torch").torch.save_file

    def save_file(*arguments: Any) -> None:
        if full[0]:
            raise SafetensorError(f"Error while serializing: I/O error: No space left (os error {errno.ENOSPC})")
        real(*arguments)

    monkeypatch.setattr("safetensors.torch.save_file", save_file)

    def fill(phase: str, done: int, total: int, loss: float) -> None:
        full[0] = done == (total if at_the_end else 2)

    with pytest.raises(PoiseError, match=r"can't be written \(.*No space left.*free some space") as told:
        train_offline(recipe, out, Watch(step=fill))
    assert told.value.exit_code == 3 and not out.exists()
    begun: list[int] = []
    full[0] = False
    train_offline(recipe, out, Watch(step=lambda phase, done, total, loss: begun.append(done)))
    whole = train_offline(recipe, tmp_path / "whole")
    assert begun[0] == (whole["steps"] if at_the_end else 2) and contents(out) == contents(tmp_path / "whole")


def test_peft_and_transformers_open_what_comes_out(
    make_recipe: Make, tiny_lm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from peft import PeftModel
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoTokenizer

    out = tmp_path / "out"
    train_offline(make_recipe("dpo"), out)

    def full(*arguments: Any, **named: Any) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left")

    with monkeypatch.context() as patch, pytest.raises(PoiseError, match=r"No space left.*free some space") as told:
        patch.setattr("transformers.modeling_utils.safe_save_file", full)
        export_merged(out, tmp_path / "merged")
    assert told.value.exit_code == 3 and not (tmp_path / "merged").exists()
    export_merged(out, tmp_path / "merged")
    trunk = open_policy(out)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "merged")
    asked = [{"role": "user", "content": "Say something about bread."}]
    ids = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_tensors="pt", return_dict=True)[
        "input_ids"
    ]
    with torch.no_grad():
        lower = trunk.lower(ids)
        ours, reference = (
            trunk.model.get_output_embeddings()(trunk.upper(lower, role)).log_softmax(-1)
            for role in ("actor", "reference")
        )
        plain = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")(ids).logits.log_softmax(-1)
        base = AutoModelForCausalLM.from_pretrained(tiny_lm)
        adapted = PeftModel.from_pretrained(base, out)(ids).logits.log_softmax(-1)
    assert torch.allclose(ours, plain, atol=1e-4) and torch.allclose(ours, adapted, atol=1e-4)
    assert not torch.allclose(ours, reference, atol=1e-2)
    with pytest.raises(PoiseError, match="already exists"):
        export_merged(out, tmp_path / "merged")
    with pytest.raises(PoiseError, match="is no run"):
        open_policy(tmp_path / "merged")


def test_every_epoch_has_every_pair_once_in_the_same_batches(make_recipe: Make) -> None:
    class Items:
        name, train, lengths = "actor", list(range(20)), [at % 7 for at in range(20)]

    training = make_recipe("dpo", training={"epochs": 3}).parts["training"]
    steps = plan_steps(Items(), training, 1)  # type: ignore[arg-type]
    epochs = [steps[at : at + 4] for at in range(0, 12, 4)]
    assert all(sorted(at for step in epoch for items in step for at in items) == Items.train for epoch in epochs)
    assert len({str(sorted(epoch)) for epoch in epochs}) == 1 and len({str(epoch) for epoch in epochs}) == 3
    assert plan_steps(Items(), training, 2) != steps  # type: ignore[arg-type]
    short = training.model_copy(update={"max_steps": 5})
    assert plan_steps(Items(), short, 1) == steps[:5]  # type: ignore[arg-type]


def test_the_policy_equals_the_reference_before_the_first_step(
    make_recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("poise.models.trunk.frozen_dtype", lambda device: torch.bfloat16)
    report = train_offline(make_recipe("dpo", training={"max_steps": 1}), tmp_path / "out")
    history = (tmp_path / "out" / "history.jsonl").read_text().splitlines()
    assert report["evaluations"][0]["margin"] == 0.0 and json.loads(history[0])["margin"] == 0.0
