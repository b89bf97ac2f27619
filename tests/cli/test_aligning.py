"""`poise align ls | validate | train | sample | export`: what they print and refuse."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from poise.align.train import METHODS
from poise.cli.aligning import escaped, read_recipe
from poise.cli.main import main
from poise.data import load_seeds

RECIPES = sorted((Path(__file__).parents[2] / "recipes" / "align").glob("*.yaml"))


@pytest.fixture
def pair_file(tmp_path: Path) -> Path:
    """Pairs of our own seeds' harmless prompts with plain answers."""
    prompts = [p.prompt for p in load_seeds().prompts if p.kind == "ordinary"][:12]
    rows = [
        {
            "prompt": prompt, "response_0": f"Here is what I know of it, {at}.", "response_1": "It is so.",
            "is_response_0_safe": True, "is_response_1_safe": True, "better_response_id": at % 2,
            "safer_response_id": at % 2,
        }
        for at, prompt in enumerate(prompts)
    ]  # fmt: skip
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def recipe(tiny_lm: Path, pair_file: Path, tmp_path: Path, float32: None) -> Path:
    """A small recipe of DPO."""
    path = tmp_path / "recipe.yaml"
    path.write_text(
        f"name: small\nmethod: dpo\nmodel: {tiny_lm}\nadapter: {{rank: 2, adapted_layers: 2}}\n"
        f"data: {{files: {pair_file}, held_out: 0.2, max_prompt_tokens: 48, max_response_tokens: 24}}\n"
        "training: {pairs_per_step: 4, learning_rate: 5e-3}\ndpo: {beta: 0.1}\n",
        encoding="utf-8",
    )
    return path


def test_there_is_a_recipe_of_every_method() -> None:
    assert {path.stem for path in RECIPES} == {*METHODS, "two_constraints"}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_recipes_are_valid(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["align", "validate", str(path)]) == 0
    method = "ppo_lagrangian" if path.stem == "two_constraints" else path.stem
    assert capsys.readouterr().out.startswith(f"{path}: fine; method {method} ")
    assert read_recipe(path).sections()["method"] == method


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_written_out_reads_back_as_itself(path: Path, tmp_path: Path) -> None:
    read = read_recipe(path)
    (tmp_path / "again.yaml").write_text(json.dumps(read.sections()), encoding="utf-8")
    assert read_recipe(tmp_path / "again.yaml").settings().items() >= read.settings().items()


def test_the_table_of_methods(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["align", "ls"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(METHODS)
    assert "arXiv 2505.20065" in next(line for line in lines if line.startswith("safe_dpo"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--set", "method=safedpo"], "did you mean 'safe_dpo'?"),
        (["--set", "training.learnin_rate=1"], "did you mean 'learning_rate'?"),
        (["--set", "dpo.beta=0"], "got 0, expected greater than 0"),
        (["--set", "method=ipo"], "section 'dpo' is not read by method 'ipo'"),
        (["--set", "scores=x"], "reads no scores"),
        (["--set", "data.held_out=1"], "expected less than 1"),
    ],
)
def test_wrong_recipes_are_refused_in_one_line(
    recipe: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert main(["align", "validate", str(recipe), *words]) == 2
    told = capsys.readouterr().err
    assert message in told and len(told.splitlines()) == 1


def test_train_sample_export(recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    words = ["align", "train", str(recipe), "--out", str(out), "--set", "training.epochs=2"]
    assert main(words) == 0
    told = capsys.readouterr().out.splitlines()
    assert any(line.startswith("held out, actor: loss 0.6931 -> ") for line in told) and told[-1] == f"run: {out}"
    assert json.loads((out / "report.json").read_text())["identity"]["training.epochs"] == 2
    assert main(words) == 0 and "is complete; nothing to do" in capsys.readouterr().out
    assert main([*words, "--set", "dpo.beta=0.5"]) == 2 and "dpo.beta 0.1 there, 0.5 now" in capsys.readouterr().err

    prompts = tmp_path / "prompts.txt"
    prompts.write_text("How are you?\n\nTell me of \x1b[31mtea.\n", encoding="utf-8")
    asked = ["align", "sample", str(out), "--prompt", "Hello.", "--prompts", str(prompts), "--max-new-tokens", "5"]
    assert main(asked) == 0
    first = capsys.readouterr().out
    assert [line for line in first.splitlines() if line.startswith("> ")] == [
        "> Hello.", "> How are you?", "> Tell me of \\x1b[31mtea.",
    ]  # fmt: skip
    assert "\x1b" not in first and main(asked) == 0 and capsys.readouterr().out == first
    assert main(["align", "sample", str(out)]) == 2 and "give --prompt or --prompts" in capsys.readouterr().err

    assert main(["align", "export", str(out), "--out", str(tmp_path / "model")]) == 0
    assert (tmp_path / "model" / "model.safetensors").is_file()
    assert main(["align", "export", str(out), "--out", str(tmp_path / "model")]) == 2
    assert "already exists" in capsys.readouterr().err


def test_wrong_rows_leave_nothing(recipe: Path, pair_file: Path, tmp_path: Path) -> None:
    pair_file.write_text("", encoding="utf-8")
    assert main(["align", "train", str(recipe), "--out", str(tmp_path / "run")]) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pairs.jsonl", "recipe.yaml"]


def test_sft_by_a_recipe(tiny_lm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr("poise.align.sft.weights.frozen_dtype", lambda device: torch.float32)
    data, path = tmp_path / "rows.jsonl", tmp_path / "sft.yaml"
    data.write_text("".join(json.dumps({"prompt": f"Say {n}.", "response": f"{n}."}) + "\n" for n in range(9)))
    path.write_text(
        f"name: s\nseed: 5\nmethod: sft\nmodel: {tiny_lm}\ndata: {{files: {data}}}\n"
        "sft: {max_steps: 1, max_length: 64, eval_share: 0.0}\n"
    )
    assert main(["align", "train", str(path), "--out", str(tmp_path / "out")]) == 0
    assert json.loads((tmp_path / "out" / "sft.json").read_text())["identity"]["seed"] == 5


def test_text_can_do_nothing_to_a_terminal() -> None:
    assert escaped("a\nb\x1b[0m\u202e\x07é") == "a\nb\\x1b[0m\\u202e\\x07é"
