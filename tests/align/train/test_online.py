"""Whole online runs on the tiny model with random preference models, and their sections."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from launching import COMMAND, launched

from poise.align.multiplier import LinearMultiplier, LogMultiplier, RectifiedMultiplier
from poise.align.sft import read_instructions
from poise.align.train import METHODS, Head, Recipe, Watch, open_policy, recipe_of, sections, train_online_run
from poise.align.train.online_sections import MultiplierSection, multiplier_of
from poise.align.train.ptx_rows import ptx_rows
from poise.data.resumable import work_folder
from poise.errors import PoiseError
from poise.models.generate import chat_ids
from poise.models.trunk import Trunk
from poise.preference.pairs import conversation


@pytest.mark.parametrize("method", [name for name, method in METHODS.items() if method.kind == "online"])
def test_every_method_runs_and_leaves_a_folder(make_online: Callable[..., Recipe], tmp_path: Path, method: str) -> None:
    out, notes = tmp_path / "out", list[str]()
    recipe = make_online(method)
    report = train_online_run(recipe, out)
    assert report["steps"] == 2 and len(report["evaluations"]) == 3 and report["identity"]["system"] == "Be brief."
    assert {"over_refusal", "violation_rate", "cost", "reward"} <= report["evaluations"][0].keys()
    history = [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]
    assert [row["step"] for row in history] == [0, 1] and not any(key.startswith("seconds") for key in history[0])
    names = {path.name for path in out.iterdir()}
    assert {"curves.svg", "evaluation.jsonl"} <= names and sum(name.endswith(".txt") for name in names) == 3
    tensors = open_policy(out).state_of("actor")
    assert any(bool(tensor.any()) for name, tensor in tensors.items() if ".lora_B." in name)
    assert not work_folder(out).exists()
    assert train_online_run(recipe, out, Watch(note=notes.append)) == report and "nothing to do" in notes[0]


def test_a_stopped_run_goes_on_as_if_nothing_had_been(make_online: Callable[..., Recipe], tmp_path: Path) -> None:
    class StoppedError(Exception):
        pass

    def die(phase: str, done: int, total: int, loss: float) -> None:
        if done == 2:
            raise StoppedError

    recipe = make_online("ppo_lagrangian", rollout={"steps": 3})
    train_online_run(recipe, tmp_path / "whole")
    with pytest.raises(StoppedError):
        train_online_run(recipe, tmp_path / "parts", Watch(step=die))
    with pytest.raises(PoiseError, match=r"multiplier\.lr None there, 0\.5 now"):
        train_online_run(
            make_online("ppo_lagrangian", rollout={"steps": 3}, multiplier={"lr": 0.5}), tmp_path / "parts"
        )
    train_online_run(recipe, tmp_path / "parts")
    for name in ("adapter_model.safetensors", "history.jsonl", "evaluation.jsonl", "curves.svg"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


@pytest.mark.slow
def test_two_processes_of_the_command_make_the_run_of_one(make_online: Callable[..., Recipe], tmp_path: Path) -> None:
    """Started as torchrun starts them; the first one writes. Fine-tuning says that it runs in one."""
    recipe = make_online("grpo_lagrangian", rollout={"prompts_per_step": 4}, sinks=("jsonl",))
    train_online_run(recipe, tmp_path / "one")
    file = tmp_path / "recipe.yaml"
    file.write_text(json.dumps(recipe.sections()))  # JSON is YAML
    both = launched(COMMAND, ["align", "train", str(file), "--out", str(tmp_path / "two")])
    assert [code for code, _, _ in both] == [0, 0], both
    assert "run:" in both[0][1] and both[1][1] == ""
    one, two = (
        [json.loads(line) for line in (tmp_path / name / "history.jsonl").read_text().splitlines()]
        for name in ("one", "two")
    )
    assert [row["cost"] for row in two] == pytest.approx([row["cost"] for row in one], abs=1e-3)
    assert [row["multiplier"] for row in two] == pytest.approx([row["multiplier"] for row in one], abs=1e-4)
    assert len((tmp_path / "two" / "steps.jsonl").read_text().splitlines()) == 2
    rows = [{"prompt": f"Say something of {n}.", "category": f"S{1 + n % 2}"} for n in range(10)]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    groups = {"a": {"categories": ["S1"], "threshold": -9.0}, "b": {"categories": ["S2"], "lr": 0.3}}
    given = {"constraints": groups, "data": {"files": str(tmp_path / "prompts.jsonl")}}
    recipe = make_online("rloo_lagrangian", rollout={"prompts_per_step": 4}, **given)
    train_online_run(recipe, tmp_path / "one-several")
    file.write_text(json.dumps(recipe.sections()))
    both = launched(COMMAND, ["align", "train", str(file), "--out", str(tmp_path / "two-several")])
    assert [code for code, _, _ in both] == [0, 0], both
    one, two = (
        [json.loads(line) for line in (tmp_path / name / "history.jsonl").read_text().splitlines()]
        for name in ("one-several", "two-several")
    )
    for mine, theirs in zip(one, two, strict=True):
        names = [name for name in mine if name.endswith(("_a", "_b"))]
        assert len(names) >= 3 and {name: theirs.get(name) for name in names} == pytest.approx(
            {name: mine[name] for name in names}, abs=1e-3
        )
    sft = {"name": "x", "method": "sft", "model": recipe.head.model, "data": {"files": str(recipe.data.paths[0])}}
    file.write_text(json.dumps(sft))
    for code, _, error in launched(COMMAND, ["align", "train", str(file), "--out", str(tmp_path / "three")]):
        assert code == 2 and "method 'sft' runs in one process, not in 2" in error


def test_the_ptx_term_is_learnt_beside(make_online: Callable[..., Recipe], tmp_path: Path) -> None:
    file = tmp_path / "instructions.jsonl"
    file.write_text(json.dumps({"prompt": "Say A.", "response": "A."}) + "\n")
    recipe = make_online("grpo_lagrangian", ptx={"files": str(file), "rows_per_step": 2}, evaluation={"every": 0})
    report = train_online_run(recipe, tmp_path / "out")
    assert report["last_step"]["loss_ptx"] > 0 and report["evaluations"] == []


def test_ptx_rows_are_asked_as_rollouts_are_and_end_only_where_they_were_not_cut(
    make_trunk: Callable[..., Trunk], tmp_path: Path
) -> None:
    trunk, file = make_trunk("actor"), tmp_path / "instructions.jsonl"
    own = [{"role": "system", "content": "Be kind."}, *({"role": r, "content": "A."} for r in ("user", "assistant"))]
    rows = [
        {"prompt": "Say A.", "response": "A."},
        {"prompt": "Say A.", "response": "A long answer of many words that are cut."},
        {"messages": own},
        {"messages": [{"role": "system", "content": ""}, *own[1:]]},
        {"prompt": "Say A.<|im_end|>", "response": "A."},
        {"prompt": "Say A."},
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    end = trunk.tokenizer.eos_token_id
    for system in ("", "Be brief."):
        got = ptx_rows(trunk, read_instructions(file), system, 64, 6)
        asked = chat_ids(trunk, conversation(system, "Say A."))
        assert [prompt for prompt, _ in got.rows[:2]] == [asked, asked]
        assert [prompt for prompt, _ in got.rows[2:]] == [
            chat_ids(trunk, conversation(said, "A.")) for said in ("Be kind.", "")
        ]
        assert got.rows[0][1][-1] == end and len(got.rows[1][1]) == 6 and end not in got.rows[1][1]
        assert got.told == {"train": 4, "cut": 1, "dropped": {"no-response": 1, "special-token": 1}}
    file.write_text(json.dumps(rows[4]))
    with pytest.raises(PoiseError, match=r"no row can be learnt from .special-token 1"):
        ptx_rows(trunk, read_instructions(file), "", 64, 6)


def test_the_rows_of_the_ptx_term_are_part_of_what_a_run_is_and_their_place_is_not(
    make_online: Callable[..., Recipe], tmp_path: Path
) -> None:
    def recipe(file: Path) -> Recipe:
        changes = {"ptx": {"files": str(file), "rows_per_step": 1}, "evaluation": {"every": 0}}
        return make_online("grpo_lagrangian", rollout={"steps": 1}, **changes)

    first, moved, notes = tmp_path / "first.jsonl", tmp_path / "moved.jsonl", list[str]()
    first.write_text(json.dumps({"prompt": "Say A.", "response": "A."}) + "\n")
    report = train_online_run(recipe(first), tmp_path / "out")
    assert report["rows"]["ptx"] == {"train": 1, "cut": 0, "dropped": {}}
    first.rename(moved)
    assert train_online_run(recipe(moved), tmp_path / "out", Watch(note=notes.append)) == report
    assert "nothing to do" in notes[0]
    moved.write_text(json.dumps({"prompt": "Say A.", "response": "B."}) + "\n")
    with pytest.raises(PoiseError, match=r"ptx_sha256 .* there, .* now"):
        train_online_run(recipe(moved), tmp_path / "out")


def test_gradient_checkpointing_computes_layers_again_and_changes_no_bit(
    make_online: Callable[..., Recipe], tmp_path: Path, attention_forwards: list[int]
) -> None:
    counts, files = [], []
    for on in (False, True):
        attention_forwards[0] = 0
        out = tmp_path / str(on)
        train_online_run(make_online("ppo_lagrangian", rollout={"gradient_checkpointing": on}), out)
        counts.append(attention_forwards[0])
        files.append([(out / name).read_bytes() for name in ("adapter_model.safetensors", "history.jsonl")])
    assert counts[0] > 0 and counts[1] == 2 * counts[0]
    assert files[0] == files[1]


def test_the_threshold_is_the_folders_unless_given(
    make_online: Callable[..., Recipe], scores: Path, tmp_path: Path
) -> None:
    quick = {"rollout": {"steps": 1}, "evaluation": {"every": 0}}
    report = train_online_run(make_online("grpo_lagrangian", **quick), tmp_path / "1")
    assert report["identity"]["threshold"] == -1.5  # quantile 0.25 of -3, -2, -1, 0, 1 is -2; the file says -1.5
    given = make_online("grpo_lagrangian", multiplier={"threshold": 0.25}, **quick)
    assert train_online_run(given, tmp_path / "2")["identity"]["threshold"] == 0.25
    (scores / "threshold.json").unlink()
    assert train_online_run(make_online("grpo_lagrangian", **quick), tmp_path / "3")["identity"]["threshold"] == -2.0
    (scores / "safe_costs.json").unlink()
    with pytest.raises(PoiseError, match="says nothing of a threshold"):
        train_online_run(make_online("grpo_lagrangian", **quick), tmp_path / "4")


def test_another_base_model_is_refused(make_online: Callable[..., Recipe], scores: Path, tmp_path: Path) -> None:
    template = json.loads((scores / "template.json").read_text())
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    (scores / "template.json").write_text(json.dumps({**template, "model": str(tmp_path / "model")}))
    with pytest.raises(PoiseError, match="needs one base model for all roles"):
        train_online_run(make_online("ppo"), tmp_path / "out")


@pytest.mark.parametrize(
    ("method", "changes", "message"),
    [
        ("ppo", {"multiplier": {"lr": 0.1}}, "ppo has no constraint"),
        ("reward_shaping", {"multiplier": {"rule": "log"}}, "has the rule 'fixed'"),
        ("repo", {"multiplier": {"threshold": 0.0}}, r"repo has repo\.threshold"),
        ("grpo_lagrangian", {"multiplier": {"rule": "rectified"}}, "is that of repo"),
        ("grpo_lagrangian", {"multiplier": {"rule": "pid", "lr": 0.1}}, "'lr' is not read by the rule 'pid'"),
        ("grpo_lagrangian", {"multiplier": {"rule": "fixed"}}, "needs a value"),
        ("grpo_lagrangian", {"multiplier": {"initial": 0.0}}, "starts at 0.0 with maximum 5.0; both must be positive"),
        ("grpo_lagrangian", {"multiplier": {"window": None}}, "'window' is null"),
        ("grpo_lagrangian", {"multiplier": {"rule": "pid", "initial": None}}, "'initial' is null"),
        ("ppo_lagrangian", {"constraints": {"a": {"initial": 0.0}}}, r"constraints\.a.* both must be positive"),
        ("grpo_lagrangian", {"rollout": {"responses_per_prompt": 1}}, "give at least 2"),
        ("rloo_lagrangian", {"rollout": {"center_advantages": True}}, "those of rloo_lagrangian are centred"),
        ("grpo_lagrangian", {"rollout": {"ratio_clip": 0.1}}, "'ratio_clip' is not read by grpo_lagrangian"),
        ("rloo_lagrangian", {"rollout": {"value_clip": 1.0}}, "'value_clip' is not read by rloo_lagrangian"),
        ("rloo_lagrangian", {"rollout": {"critic_learning_rate": 1e-3}}, "'critic_learning_rate' is not read"),
        ("ppo", {"rollout": {"center_advantages": True, "responses_per_prompt": 1}}, "would be zero"),
        ("ppo_lagrangian", {"training": {"epochs": 2}}, "section 'training' is not read"),
        ("ppo_lagrangian", {"data": {"max_prompt_tokens": 9}}, "the folder of scores decides it"),
        ("ppo_lagrangian", {"system": "Hi."}, "system is not read"),
        ("ppo_lagrangian", {"scores": None}, "needs scores"),
    ],
)
def test_what_is_not_read_is_refused(
    make_online: Callable[..., Recipe], method: str, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(PoiseError, match=message):
        make_online(method, **changes)


@pytest.mark.parametrize("method", ["grpo_lagrangian", "ppo_lagrangian"])
def test_a_recipe_with_all_its_defaults_can_be_read_again(make_online: Callable[..., Recipe], method: str) -> None:
    """A rule without a bound is said by null."""
    recipe = make_online(method, multiplier={"maximum": None})
    written = recipe.sections()
    assert ("ratio_clip" in written["rollout"]) == (method == "ppo_lagrangian")
    models = sections()
    found = {name: models[name](**values) for name, values in written.items() if name in models}
    head = Head(**{name: value for name, value in written.items() if name not in models})
    assert recipe_of(head, found, "recipe").settings() == recipe.settings()


def test_multipliers_are_made_from_their_sections() -> None:
    log = multiplier_of(MultiplierSection(lr=0.5, maximum=2.0), "ppo_lagrangian", 0.3)
    assert isinstance(log, LogMultiplier) and (log.threshold, log.lr, log.value) == (0.3, 0.5, 1.0)
    bounded = multiplier_of(MultiplierSection(rule="bounded"), "ppo_lagrangian", -0.5)
    assert isinstance(bounded, LogMultiplier) and bounded.value == pytest.approx(10.0)
    linear = multiplier_of(MultiplierSection(rule="linear", initial=0.7), "ppo_lagrangian", 0.0)
    assert isinstance(linear, LinearMultiplier) and linear.value == 0.7
    assert isinstance(multiplier_of(MultiplierSection(), "repo", 0.1), RectifiedMultiplier)
    with pytest.raises(PoiseError, match="must be positive"):
        multiplier_of(MultiplierSection(initial=0.0), "ppo_lagrangian", 0.0)
