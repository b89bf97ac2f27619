"""Offline methods that train all weights: what they learn from, what they leave, going on after a stop."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from typer.testing import CliRunner

from poise.align.train import Recipe, Watch, export_merged, open_policy, runs, train_offline
from poise.align.train.batches import Store, encode_pairs
from poise.align.train.data import read_pairs
from poise.cli.main import app
from poise.data.resumable import work_folder
from poise.errors import PoiseError
from poise.models.checkpoint import load_state
from poise.models.separate import SeparateModels
from poise.models.trunk import Trunk

Make = Callable[..., Recipe]
ALL = {"weights": "all", "learning_rate": 1e-3}
BRIEF = {**ALL, "max_steps": 3, "evaluate_every": 0}
IDS = torch.tensor([[1, 40, 41, 60, 61, 62, 90, 91]])


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[SeparateModels]:
    """The trunks of the runs of a test, as these left them."""
    kept, real = list[Any](), runs._trunk

    def make(*given: Any) -> Any:
        kept.append(real(*given))
        return kept[-1]

    monkeypatch.setattr(runs, "_trunk", make)
    return kept


@torch.no_grad()
def log_probs(trunk: Trunk, role: str) -> Tensor:
    states = trunk.upper(trunk.lower(IDS), role)
    return trunk.model.get_output_embeddings()(states).float().log_softmax(-1)


@torch.no_grad()
def plain_log_probs(folder: Path) -> Tensor:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)(IDS).logits.log_softmax(-1)


def history(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]


def test_dpo_learns_and_leaves_a_plain_model(
    make_recipe: Make, made: list[SeparateModels], tiny_lm: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    report = train_offline(make_recipe("dpo", training={**ALL, "gradient_checkpointing": True}), out)
    rows = history(out)
    assert rows[0]["loss"] == pytest.approx(0.693147, abs=1e-4)  # -log s(0): the policy is the reference
    assert rows[0]["accuracy"] < 0.2 and rows[-1]["accuracy"] == 1.0
    (trunk,) = made
    count = sum(p.numel() for p in trunk.models["actor"].parameters())
    assert report["whole_model"] == {"weights": count, "format": "float32"} and "adapter" not in report
    names = {path.name for path in out.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja", "curves.svg"} <= names
    assert not {name for name in names if name.startswith("adapter")}
    trained = log_probs(trunk, "actor")
    assert torch.allclose(plain_log_probs(out), trained, atol=1e-4)
    assert torch.allclose(log_probs(open_policy(out), "actor"), trained, atol=1e-4)
    base = plain_log_probs(tiny_lm)
    assert not torch.allclose(trained, base, atol=1e-2)
    for each in (trunk, open_policy(out)):
        assert torch.allclose(log_probs(each, "reference"), base, atol=1e-4)


def test_the_reference_is_the_untouched_base_and_a_stopped_run_goes_on(
    make_recipe: Make, make_trunk: Callable[..., Trunk], pair_file: Path, tmp_path: Path
) -> None:
    class StoppedError(Exception):
        pass

    def die(phase: str, done: int, total: int, loss: float) -> None:
        if done == 3:
            raise StoppedError

    recipe = make_recipe("dpo", training={**ALL, "save_every": 2, "epochs": 1}, data={"held_out": 0.0})
    out = tmp_path / "parts"
    with pytest.raises(StoppedError):
        train_offline(recipe, out, Watch(step=die))
    kept = load_state(work_folder(out) / "log-probs-reference-actor.safetensors")
    trunk = make_trunk("actor")
    pairs = encode_pairs(trunk, read_pairs([pair_file]).pairs, 48, 40).pairs
    assert kept is not None
    assert torch.allclose(kept["log_probs"], Store(trunk, pairs, tmp_path, 0).log_probs("reference"), atol=1e-3)
    begun: list[int] = []
    train_offline(recipe, out, Watch(step=lambda phase, done, total, loss: begun.append(done)))
    assert begun[0] == 2
    train_offline(recipe, tmp_path / "whole")
    for name in ("model.safetensors", "history.jsonl", "curves.svg"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


@pytest.mark.parametrize("method", ["derta", "pecan", "ipo"])
def test_other_methods_learn_too(make_recipe: Make, tmp_path: Path, method: str) -> None:
    train_offline(make_recipe(method, data={"held_out": 0.0}, training=ALL), tmp_path / "out")
    rows = history(tmp_path / "out")
    for phase in {row["phase"] for row in rows}:
        losses = [row["loss"] for row in rows if row["phase"] == phase]
        half = (len(losses) + 1) // 2
        assert sum(losses[-half:]) < sum(losses[:half])


def test_bfpo_trains_the_down_projections_alone_when_asked(make_recipe: Make, tiny_lm: Path, tmp_path: Path) -> None:
    train_offline(make_recipe("bfpo", bfpo={"selective": True}, training=BRIEF), tmp_path / "out")
    base, trained = (load_file(folder / "model.safetensors") for folder in (tiny_lm, tmp_path / "out"))
    assert base.keys() == trained.keys()
    moved = {name for name in base if not torch.equal(base[name], trained[name])}
    assert len(moved) == 4 and all(".down_proj." in name for name in moved)  # of 4 layers


def test_p_sacpo_is_the_average_of_the_weights(make_recipe: Make, made: list[SeparateModels], tmp_path: Path) -> None:
    train_offline(make_recipe("sacpo", sacpo={"merge": 0.25}, training=BRIEF), tmp_path / "out")
    helpful, safe = (made[0].state_of(role) for role in ("helpful", "actor"))
    written = load_file(tmp_path / "out" / "model.safetensors")
    for name, tensor in helpful.items():
        assert torch.allclose(written[name], 0.75 * tensor + 0.25 * safe[name], atol=1e-7), name
    assert any(not torch.allclose(helpful[name], safe[name], atol=1e-5) for name in helpful)


def test_the_weights_have_the_format_in_which_the_model_came(
    make_recipe: Make, made: list[SeparateModels], tiny_lm: Path, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    model = tmp_path / "model"
    shutil.copytree(tiny_lm, model)
    AutoModelForCausalLM.from_pretrained(tiny_lm, dtype=torch.bfloat16).save_pretrained(model)
    report = train_offline(make_recipe("dpo", model=str(model), training=BRIEF), tmp_path / "out")
    assert report["whole_model"]["format"] == "bfloat16"
    written = load_file(tmp_path / "out" / "model.safetensors")
    assert {tensor.dtype for tensor in written.values()} == {torch.bfloat16}
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"
    assert next(made[0].models["actor"].parameters()).dtype == torch.float32  # as it was trained
    assert (plain_log_probs(tmp_path / "out") - log_probs(made[0], "actor")).abs().mean() < 0.05


def test_sample_and_export_by_the_command(make_recipe: Make, tiny_lm: Path, tmp_path: Path) -> None:
    out, model = tmp_path / "out", tmp_path / "model"
    train_offline(make_recipe("dpo", training=BRIEF), out)
    asked = ["align", "sample", str(out), "--prompt", "Say something about bread.", "--max-new-tokens", "4"]
    told = CliRunner().invoke(app, asked)
    assert told.exit_code == 0 and told.output.count("> Say something about bread.") == 1, told.output
    assert CliRunner().invoke(app, ["align", "export", str(out), "--out", str(model)]).exit_code == 0
    assert (model / "model.safetensors").read_bytes() == (out / "model.safetensors").read_bytes()
    names = {path.name for path in model.iterdir()}
    assert {"config.json", "tokenizer.json", "poise-alignment.json"} <= names and "report.json" not in names
    again = CliRunner().invoke(app, ["align", "export", str(out), "--out", str(model)])
    assert again.exit_code != 0 and "already exists" in str(again.exception)
    (out / "model.safetensors").write_bytes((out / "model.safetensors").read_bytes()[:1000])
    with pytest.raises(PoiseError, match="its weights can't be read"):
        open_policy(out)
    with pytest.raises(PoiseError, match="its weights can't be read"):
        export_merged(out, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_an_adapter_section_is_refused_and_a_written_recipe_is_read_again(make_recipe: Make) -> None:
    with pytest.raises(PoiseError, match=r"section 'adapter' is not read where training\.weights is 'all'"):
        make_recipe("dpo", training=ALL, adapter={"rank": 4})
    recipe = make_recipe("dpo", training=ALL)
    assert "adapter" not in recipe.sections() and recipe.settings()["training.weights"] == "all"
    assert not [name for name in recipe.settings() if name.startswith("adapter.")]
