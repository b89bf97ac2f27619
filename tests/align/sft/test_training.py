"""Schedule and settings by hand; runs that stop and go on; the folder that comes out."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from poise.align.sft.batches import Batch
from poise.align.sft.loss import TokenLoss
from poise.align.sft.runs import REPORT, Watch, fine_tune, is_held_out
from poise.align.sft.training import Settings, learning_rate
from poise.align.sft.weights import load_tokenizer
from poise.data.resumable import work_folder
from poise.errors import PoiseError

FAST = Settings(
    epochs=2, batch_size=2, accumulate=2, max_length=96, eval_share=0.2, learning_rate=3e-3, eval_every=4, warmup=0.1
)


def test_the_schedule_by_hand() -> None:
    # 10 steps, warm-up 0.2: two steps up (1/2, 1), then half a cosine over the other 8: step 6 is at its middle.
    settings = Settings(learning_rate=1.0, warmup=0.2)
    rates = [learning_rate(step, 10, settings) for step in range(10)]
    assert rates[:3] == [0.5, 1.0, 1.0] and rates[6] == pytest.approx(0.5)
    assert rates[9] == pytest.approx(0.5 * (1 + math.cos(7 * math.pi / 8)))
    assert learning_rate(0, 1, Settings(learning_rate=1.0, warmup=0.0)) == 1.0


def test_defaults_are_those_of_the_published_script() -> None:
    settings = Settings().checked()
    assert (settings.epochs, settings.max_length, settings.batch_size, settings.accumulate) == (3, 512, 4, 8)
    assert (settings.learning_rate, settings.warmup, settings.weight_decay, settings.seed) == (2e-5, 0.03, 0.0, 42)
    assert Settings(lora=True).checked().learning_rate == 2e-4
    assert Settings(learning_rate=1.0).checked().learning_rate == 1.0


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": 0}, {"rank": 0}, {"batch_size": 0}, {"accumulate": 0}, {"max_length": 7}, {"max_steps": -1},
        {"learning_rate": math.nan}, {"learning_rate": -1.0}, {"clip": 0.0}, {"weight_decay": math.inf},
        {"warmup": 1.0}, {"eval_share": -0.1},
    ],
)  # fmt: skip
def test_wrong_settings_are_named(wrong: dict[str, Any]) -> None:
    (name, value) = next(iter(wrong.items()))
    with pytest.raises(PoiseError, match=f"{name} is {value}"):
        Settings(**wrong).checked()


def test_an_adapter_needs_lora() -> None:
    with pytest.raises(PoiseError, match="add --lora"):
        Settings(adapter=True).checked()


def test_held_out_prompts_are_chosen_by_their_text() -> None:
    def conversation(prompt: str, answer: str) -> list[dict[str, str]]:
        return [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]

    prompts = [f"Prompt {at}" for at in range(1000)]
    held_out = {prompt for prompt in prompts if is_held_out(conversation(prompt, "a"), 0.1, 1)}
    assert 70 < len(held_out) < 130  # mean 100, standard deviation 9.5
    assert held_out == {prompt for prompt in prompts if is_held_out(conversation(prompt, "b"), 0.1, 1)}
    assert held_out != {prompt for prompt in prompts if is_held_out(conversation(prompt, "a"), 0.1, 2)}
    assert not any(is_held_out(conversation(prompt, "a"), 0.0, 1) for prompt in prompts)


class StoppedError(Exception):
    """Stands for any death of the process after a step."""


def stop_at(step: int) -> Watch:
    def die(done: int, total: int, loss: float) -> None:
        if done == step:
            raise StoppedError

    return Watch(step=die)


def results(report: dict[str, Any]) -> tuple[Any, Any]:
    return report["steps"], report["evaluations"]


@pytest.mark.parametrize("changes", [{}, {"lora": True, "packed": True}], ids=["full-padded", "lora-packed"])
def test_a_stopped_run_goes_on_as_if_nothing_had_been(
    tiny_lm: Path, instruction_file: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    settings = FAST._replace(**changes)
    whole = fine_tune(instruction_file, tiny_lm, tmp_path / "whole", settings)
    out = tmp_path / "parts"
    for step in (3, 5):  # the checkpoints are those of steps 2 and 4
        with pytest.raises(StoppedError):
            fine_tune(instruction_file, tiny_lm, out, settings, save_every=2, watch=stop_at(step))
        assert not out.exists() and (work_folder(out) / "checkpoint.safetensors").is_file()
    began: list[int] = []
    watch = Watch(step=lambda done, total, loss: began.append(done))
    parts = fine_tune(instruction_file, tiny_lm, out, settings, save_every=2, watch=watch)
    assert began[0] == 4 and began[-1] == len(whole["steps"])
    assert results(parts) == results(whole)
    assert (out / "model.safetensors").read_bytes() == (tmp_path / "whole" / "model.safetensors").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["instructions.jsonl", "parts", "whole"]
    assert whole["evaluations"][-1]["loss"] < whole["evaluations"][0]["loss"]


def test_a_killed_process_goes_on(tiny_lm: Path, instruction_file: Path, tmp_path: Path) -> None:
    settings = FAST._replace(epochs=3, eval_every=0, eval_share=0.1)
    out = tmp_path / "out"
    code = (
        "import sys, time, torch\nfrom pathlib import Path\nfrom poise.align.sft import Settings, Watch, fine_tune\n"
        "from poise.align.sft import weights\n"
        "weights.frozen_dtype = lambda device: torch.float32\n"
        "weights.default_device = lambda: torch.device('cpu')\n"
        f"fine_tune(Path({str(instruction_file)!r}), Path({str(tiny_lm)!r}), Path({str(out)!r}), "
        f"Settings(**{settings._asdict()!r}), save_every=1, watch=Watch(step=lambda *a: time.sleep(0.3)))\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen([sys.executable, "-c", code], env=environment)
    checkpoint = work_folder(out) / "checkpoint.safetensors"
    until = time.monotonic() + 120
    while not checkpoint.is_file() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL and checkpoint.is_file() and not out.exists()
    began: list[int] = []
    watch = Watch(step=lambda done, total, loss: began.append(done))
    parts = fine_tune(instruction_file, tiny_lm, out, settings, watch=watch)
    assert began[0] >= 1
    whole = fine_tune(instruction_file, tiny_lm, tmp_path / "whole", settings)
    last = [report["evaluations"][-1]["loss"] for report in (parts, whole)]
    assert last[0] == pytest.approx(last[1], rel=1e-6)


def test_another_run_is_refused_by_name(
    tiny_lm: Path, instruction_file: Path, tmp_path: Path, rows: list[dict[str, str]]
) -> None:
    out, settings = tmp_path / "out", FAST._replace(max_steps=3)
    with pytest.raises(StoppedError):
        fine_tune(instruction_file, tiny_lm, out, settings, save_every=1, watch=stop_at(2))
    with pytest.raises(PoiseError, match=r"another run made it: learning_rate 0\.003 there, 0\.001 now"):
        fine_tune(instruction_file, tiny_lm, out, settings._replace(learning_rate=1e-3))
    report = fine_tune(instruction_file, tiny_lm, out, settings)
    notes: list[str] = []
    assert fine_tune(instruction_file, tiny_lm, out, settings, watch=Watch(note=notes.append)) == report
    assert notes == [f"{out} is complete; nothing to do"]
    instruction_file.write_text("".join(json.dumps(row) + "\n" for row in rows[1:]), encoding="utf-8")
    with pytest.raises(PoiseError, match=r"data_sha256 .* there, .* now .give another --out"):
        fine_tune(instruction_file, tiny_lm, out, settings)


def test_a_damaged_checkpoint_and_a_foreign_folder(tiny_lm: Path, instruction_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(StoppedError):
        fine_tune(instruction_file, tiny_lm, out, FAST, save_every=1, watch=stop_at(1))
    (work_folder(out) / "checkpoint.safetensors").write_bytes(b"?")
    with pytest.raises(PoiseError, match="the checkpoint is damaged"):
        fine_tune(instruction_file, tiny_lm, out, FAST)
    with pytest.raises(PoiseError, match="exists and is no fine-tuned model"):
        fine_tune(instruction_file, tiny_lm, tiny_lm, FAST)


def test_what_is_saved_opens_and_speaks_its_template(tiny_lm: Path, instruction_file: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    settings = FAST._replace(lora=True, rank=4, template="pku", max_steps=4)
    out = tmp_path / "merged"
    report = fine_tune(instruction_file, tiny_lm, out, settings)
    assert report == json.loads((out / REPORT).read_text())
    assert report["rows"]["train"] + report["rows"]["held_out"] == 24 and report["rows"]["dropped"] == {}
    assert (out / "loss.svg").read_text().count("<svg") == 1
    tokenizer, model = AutoTokenizer.from_pretrained(out), AutoModelForCausalLM.from_pretrained(out)
    asked = tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False)
    assert asked == "BEGINNING OF CONVERSATION: USER: Hi ASSISTANT:"
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id

    from peft import PeftModel

    again = fine_tune(instruction_file, tiny_lm, tmp_path / "adapter", settings._replace(adapter=True))
    assert again["steps"] == report["steps"] and not (tmp_path / "adapter" / "model.safetensors").exists()
    base = AutoModelForCausalLM.from_pretrained(tiny_lm)
    ids = torch.arange(5, 25)[None]
    before = base(input_ids=ids).logits.detach()
    adapted = PeftModel.from_pretrained(base, tmp_path / "adapter")(input_ids=ids).logits.detach()
    assert torch.allclose(adapted, model(input_ids=ids).logits, atol=1e-3)
    assert float((adapted - before).abs().max()) > 0.1


def test_a_loss_that_is_not_finite_ends_the_run(tiny_lm: Path, instruction_file: Path, tmp_path: Path) -> None:
    settings = FAST._replace(learning_rate=1e30, warmup=0.0, eval_share=0.0, eval_every=0)
    with pytest.raises(PoiseError, match=r"the gradient of step .* a lower --learning-rate") as error:
        fine_tune(instruction_file, tiny_lm, tmp_path / "out", settings)
    assert error.value.exit_code == 4 and not (tmp_path / "out").exists()


def test_a_loss_that_is_no_number_names_its_rows_and_keeps_the_steps_before(
    tiny_lm: Path, instruction_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls, settings = TokenLoss.__call__, [0], FAST._replace(max_steps=4, eval_share=0.0, eval_every=0)
    seen: list[list[list[int]]] = []

    def odd(self: TokenLoss, batch: Batch) -> tuple[torch.Tensor, int]:
        calls[0] += 1
        value, targets = real(self, batch)
        if calls[0] == 6:  # two micro-batches a step: the second one of step 3
            seen.append(batch.ids.tolist())
            value = value * math.nan
        return value, targets

    out = tmp_path / "out"
    with monkeypatch.context() as patch, pytest.raises(PoiseError, match=r"the loss of step 3 .*kept") as told:
        patch.setattr(TokenLoss, "__call__", odd)
        fine_tune(instruction_file, tiny_lm, out, settings)
    named = re.findall(r"instructions\.jsonl:(\d+)", told.value.what)
    assert told.value.exit_code == 4 and len(named) == settings.batch_size
    tokenizer, lines = load_tokenizer(tiny_lm), instruction_file.read_text().splitlines()
    text = " ".join(tokenizer.decode(row) for row in seen[0])
    assert all(json.loads(lines[int(number) - 1])["output"].strip() in text for number in named)
    began: list[int] = []
    parts = fine_tune(instruction_file, tiny_lm, out, settings, watch=Watch(step=lambda *told: began.append(told[0])))
    assert began[0] == 2 and results(parts) == results(fine_tune(instruction_file, tiny_lm, tmp_path / "2", settings))


def test_a_full_disk_at_the_end_loses_nothing(
    tiny_lm: Path, instruction_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors import SafetensorError

    def full(*arguments: Any, **named: Any) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left")

    settings = FAST._replace(max_steps=2, eval_share=0.0, eval_every=0)
    with monkeypatch.context() as patch, pytest.raises(PoiseError, match=r"No space left.*free some space") as told:
        patch.setattr("transformers.modeling_utils.safe_save_file", full)
        fine_tune(instruction_file, tiny_lm, tmp_path / "out", settings)
    assert told.value.exit_code == 3 and not (tmp_path / "out").exists()
    began: list[int] = []
    watch = Watch(step=lambda done, total, loss: began.append(done))
    fine_tune(instruction_file, tiny_lm, tmp_path / "out", settings, watch=watch)
    assert began == [2]


def test_a_model_file_that_was_cut_off_is_named(tiny_lm: Path, instruction_file: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_lm, tmp_path / "cut-off")
    with (folder / "model.safetensors").open("r+b") as file:
        file.truncate(5000)
    with pytest.raises(PoiseError, match=r"cut-off: can't be loaded as a causal language model"):
        fine_tune(instruction_file, folder, tmp_path / "out", FAST)


def test_nothing_left_to_train_on(tiny_lm: Path, instruction_file: Path, tmp_path: Path) -> None:
    with pytest.raises(PoiseError, match=r"0 examples to train on, 0 held out .rows dropped: prompt-too-long 24"):
        fine_tune(instruction_file, tiny_lm, tmp_path / "out", FAST._replace(max_length=8))
    with pytest.raises(PoiseError, match="save_every is 0"):
        fine_tune(instruction_file, tiny_lm, tmp_path / "out", FAST, save_every=0)
