"""Several constraints from a recipe: whose prompts, whose cost model, whose multiplier, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from poise.align.engine import EvalPrompt
from poise.align.train import Recipe, Watch, train_online_run
from poise.align.train.constraint_sections import ConstraintPart, multiplier_section
from poise.align.train.constraints import planned, spoken_of
from poise.align.train.data import read_prompts
from poise.align.train.online_sections import MultiplierSection
from poise.align.train.scoring import open_scores
from poise.cli.main import main
from poise.data.records import PartialLabel
from poise.errors import PoiseError
from poise.models.checkpoint import load_state, save_state

QUICK = {"steps": 2, "prompts_per_step": 6, "responses_per_prompt": 2, "save_every": 1}
GROUPS = {"a": {"categories": ["S8"], "threshold": -9.0}, "b": {"categories": ["Violence"], "threshold": 9.0}}
"""Whatever the cost, the first is violated and the second is not."""


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    """Twelve prompts of S8 and of S6, and two of which nothing is told."""
    rows = [{"prompt": f"Say something of number {n}.", "category": ("S8", "S6")[n % 2]} for n in range(12)]
    path = tmp_path / "prompts.jsonl"
    more = [{"prompt": f"Untold {n}."} for n in range(2)]
    path.write_text("".join(json.dumps(row) + "\n" for row in (*rows, *more)), encoding="utf-8")
    return path


@pytest.fixture
def second(scores: Path, tmp_path: Path) -> Path:
    """Another cost model of the same shape, with costs twice as wide."""
    folder = tmp_path / "severe"
    shutil.copytree(scores, folder)
    roles = load_state(folder / "roles.safetensors") or {}
    generator = torch.Generator().manual_seed(7)
    for tensor in roles["cost"].values():
        tensor.add_(torch.randn(tensor.shape, generator=generator) * 0.1)
    save_state(folder / "roles.safetensors", roles)
    (folder / "scale.json").write_text(json.dumps({"reward_mean": 0.0, "reward_std": 1.0, "cost_std": 2.0}))
    (folder / "threshold.json").write_text(json.dumps({"threshold": 0.75}))
    template = json.loads((folder / "template.json").read_text())
    (folder / "template.json").write_text(json.dumps({**template, "speaks_of": "at least severe"}))
    return folder


@pytest.mark.parametrize("method", ["ppo_lagrangian", "rloo_lagrangian"])
def test_the_multiplier_of_the_violated_constraint_alone_rises(
    make_online: Callable[..., Recipe], prompts: Path, tmp_path: Path, method: str
) -> None:
    notes = list[str]()
    given = {"data": {"files": str(prompts)}, "rollout": QUICK, "constraints": GROUPS, "multiplier": {"lr": 0.05}}
    recipe = make_online(method, evaluation={"prompts": 9}, **given)
    report = train_online_run(recipe, tmp_path / "out", Watch(note=notes.append))
    first, last = report["first_step"], report["last_step"]
    assert last["multiplier_a"] > first["multiplier_a"] > 1 > first["multiplier_b"] > last["multiplier_b"]
    told = report["constraints"]
    assert (told["a"]["threshold"], told["b"]["threshold"]) == (-9.0, 9.0) and told["a"]["cost_model"] == "cost"
    assert told["a"]["prompts_of"] == "S8" and told["a"]["prompts"]["unknown"] == 2
    assert told["b"]["last_multiplier"] == last["multiplier_b"] and told["b"]["last_cost"] == last["cost_b"]
    assert any("constraint a: " in note and "2 of 14 do not tell" in note for note in notes)
    assert {"cost_a", "cost_b"} & report["evaluations"][0].keys()
    curves = (tmp_path / "out" / "curves.svg").read_text()
    assert ">a</text>" in curves and ">b</text>" in curves


def test_prompts_of_the_other_group_are_not_penalised(
    make_online: Callable[..., Recipe], scores: Path, prompts: Path
) -> None:
    """A prompt of S8 falls under "a", one of S6 under "b", an untold one under neither, all under a whole one."""
    recipe = make_online("ppo_lagrangian", constraints={**GROUPS, "all": {}})
    plan, read = planned(recipe, open_scores(scores)), read_prompts([prompts])
    assert plan is not None
    asked = [EvalPrompt(text, text, [1]) for text in read.texts]
    one, other, every = spoken_of(plan, asked[:10], asked[10:], read.harm).constraints
    assert one.prompts == set(read.texts[:12:2]) and other.prompts == set(read.texts[1:12:2])
    assert every.prompts is None and plan.limits == {"a": -9.0, "b": 9.0, "all": -1.5}


def test_a_second_cost_model_runs_reports_and_resumes(
    make_online: Callable[..., Recipe], second: Path, tmp_path: Path
) -> None:
    class StoppedError(Exception):
        pass

    def die(phase: str, done: int, total: int, loss: float) -> None:
        if done == 2:
            raise StoppedError

    constraints = {"severe": {"scores": str(second), "lr": 0.3}, "all": {}}
    recipe = make_online("ppo_lagrangian", constraints=constraints, rollout={"steps": 3})
    report = train_online_run(recipe, tmp_path / "whole")
    assert report["constraints"]["severe"]["cost_model"] == "cost_2"
    assert report["constraints"]["severe"]["cost_model_speaks_of"] == "at least severe"
    assert report["constraints"]["severe"]["threshold"] == 0.75 and report["constraints"]["all"]["threshold"] == -1.5
    last = report["last_step"]
    assert "loss_cost_2_critic" in last and last["cost_all"] == pytest.approx(last["cost"])
    assert last["cost_severe"] != pytest.approx(last["cost_all"]) and "cost_severe" in report["evaluations"][0]
    with pytest.raises(StoppedError):
        train_online_run(recipe, tmp_path / "parts", Watch(step=die))
    other = make_online("ppo_lagrangian", constraints={**constraints, "all": {"lr": 0.5}}, rollout={"steps": 3})
    with pytest.raises(PoiseError, match=r"constraints\.all\.lr None there, 0\.5 now"):
        train_online_run(other, tmp_path / "parts")
    train_online_run(recipe, tmp_path / "parts")
    for name in (
        "adapter_model.safetensors",
        "history.jsonl",
        "evaluation.jsonl",
        "curves.svg",
        "samples-000003.jsonl",
    ):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    roles = load_state(second / "roles.safetensors") or {}
    save_state(second / "roles.safetensors", {**roles, "cost": {k: t + 1 for k, t in roles["cost"].items()}})
    with pytest.raises(PoiseError, match=r"another run made it: constraints\.severe\.scores"):
        train_online_run(recipe, tmp_path / "whole")


def test_the_spread_of_the_second_cost_model_is_its_own(make_online: Callable[..., Recipe], second: Path) -> None:
    recipe = make_online("ppo_lagrangian", constraints={"all": {}, "severe": {"scores": str(second)}})
    plan = planned(recipe, open_scores(Path(recipe.head.scores or "")))
    assert plan is not None
    scale = plan.scale(open_scores(second.parent / "scores").scale)
    ten = torch.tensor([10.0])
    assert (float(scale.cost(ten)), float(scale.cost(ten, "cost_2"))) == (10.0, 5.0)


def test_one_folder_is_one_role(make_online: Callable[..., Recipe], scores: Path, second: Path) -> None:
    constraints = {
        "x": {"scores": str(second), "categories": ["S1"]},
        "y": {"scores": str(second)},
        "own": {"scores": str(scores)},
        "all": {},
    }
    plan = planned(make_online("grpo_lagrangian", constraints=constraints), open_scores(scores))
    assert plan is not None
    assert {each.name: each.role for each in plan.constraints} == {
        "all": "cost", "x": "cost_2", "y": "cost_2", "own": "cost",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("system", "Hi.", "its system is 'Hi.', that of scores 'Be brief.'"),
        ("rank", 2, "its rank is 2, that of scores 4"),
        ("model", "other", "its cost model is of "),
    ],
)
def test_a_folder_that_was_trained_otherwise_is_refused(
    make_online: Callable[..., Recipe], second: Path, tmp_path: Path, key: str, value: Any, message: str
) -> None:
    if key == "model":
        value = str(tmp_path / "model")
        (tmp_path / "model").mkdir()
        (tmp_path / "model" / "config.json").write_text("{}")
    template = json.loads((second / "template.json").read_text())
    (second / "template.json").write_text(json.dumps({**template, key: value}))
    recipe = make_online("ppo_lagrangian", constraints={"all": {}, "severe": {"scores": str(second)}})
    with pytest.raises(PoiseError, match=r"constraints\.severe: ") as error:
        train_online_run(recipe, tmp_path / "out")
    assert message in str(error.value)
    (second / "template.json").unlink()
    with pytest.raises(PoiseError, match="holds no preference models"):
        train_online_run(recipe, tmp_path / "out")


def test_a_constraint_without_prompts_is_refused(
    make_online: Callable[..., Recipe], prompts: Path, tmp_path: Path
) -> None:
    recipe = make_online("ppo_lagrangian", data={"files": str(prompts)}, constraints={"x": {"categories": ["S1"]}})
    with pytest.raises(PoiseError, match=r"constraints\.x: speaks of none of .* prompts \(S1; \d of 1\d do not tell\)"):
        train_online_run(recipe, tmp_path / "out")


@pytest.mark.parametrize(
    ("method", "changes", "message"),
    [
        ("ppo", {}, "ppo has no constraint"),
        ("repo", {}, "repo holds every prompt to the one threshold"),
        ("reward_shaping", {}, r"constraints\.a: multiplier: 'threshold' is not read by the rule 'fixed'"),
        ("ppo_lagrangian", {"constraints": {"a": {"scores": "x"}}}, "no constraint asks the cost model of scores"),
        ("ppo_lagrangian", {"constraints": {"a": {"rule": "pid", "lr": 1.0}}}, r"constraints\.a: multiplier: 'lr' is"),
        ("ppo_lagrangian", {"multiplier": {"threshold": 0.0}}, r"multiplier\.threshold is read by no constraint"),
        ("ppo_lagrangian", {"multiplier": {"rule": "rectified"}}, "is that of repo"),
    ],
)
def test_what_cant_be_is_refused(
    make_online: Callable[..., Recipe], method: str, changes: dict[str, Any], message: str
) -> None:
    given = {"constraints": GROUPS, **changes}
    with pytest.raises(PoiseError, match=message):
        make_online(method, **given)


def test_a_constraint_takes_what_it_does_not_say_from_the_section() -> None:
    section = MultiplierSection(rule="log", lr=0.2, threshold=0.5)

    def taken(**own: Any) -> dict[str, Any]:
        whole = multiplier_section(ConstraintPart(**own), section, "ppo_lagrangian")
        return {key: getattr(whole, key) for key in whole.model_fields_set}

    assert taken(categories=("S1",)) == {"rule": "log", "lr": 0.2, "threshold": 0.5}
    assert taken(lr=0.9) == {"rule": "log", "lr": 0.9, "threshold": 0.5}
    assert taken(scores="x") == {"rule": "log", "lr": 0.2}
    assert taken(rule="linear", threshold=1.0) == {"rule": "linear", "threshold": 1.0}


def test_a_file_is_validated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "recipe.yaml"
    head = "name: x\nmethod: ppo_lagrangian\nscores: s\ndata: {files: f}\nconstraints:\n"

    def said(lines: str, code: int = 2) -> str:
        file.write_text(head + lines, encoding="utf-8")
        assert main(["align", "validate", str(file)]) == code
        out = capsys.readouterr()
        return out.err if code else out.out

    told = said("  mine: {categories: [S6, privacy violation], severity_at_least: severe}\n  b: {scores: d}\n", 0)
    assert "constraint mine: prompts of S6, S8, at least severe, the cost model of scores" in told
    assert "constraint b: all prompts, the cost model in d" in told
    assert "constraints.a.categories" in (wrong := said("  a: {categories: [Violense]}\n"))
    assert "did you mean 'Violence'?" in wrong and len(wrong.splitlines()) == 1
    assert "key given twice" in said("  a: {lr: 0.1}\n  a: {lr: 0.2}\n")
    assert "did you mean 'threshold'?" in said("  a: {treshold: 0.1}\n")
    assert "is no name of a constraint" in said("  a.b: {threshold: 0.1}\n")


def test_what_rows_tell_of_a_prompt(tmp_path: Path) -> None:
    rows = [
        {"prompt": "plain", "categories": ["S1", "Violence"], "severity": "severe"},
        {"prompt": "odd", "category": "no such"},
        {"prompt": "odd"},
    ]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    flags = {"Violence": True, "Drugs": None}
    pair = {
        "prompt": "pair", "response_0": "x", "response_1": "y", "is_response_0_safe": True, "is_response_1_safe": False,
        "better_response_id": 0, "safer_response_id": 0, "prompt_source": "s", "response_0_source": "s",
        "response_1_source": "s", "response_0_harm_category": dict.fromkeys(flags, False),
        "response_1_harm_category": flags, "response_0_severity_level": 0, "response_1_severity_level": 2,
        "response_0_sha256": "0", "response_1_sha256": "1",
    }  # fmt: skip
    (tmp_path / "b.jsonl").write_text(json.dumps(pair) + "\n")
    cell = {"prompt": "look", "prompt_source": "s", "kind": "lookalike", "category": "S6", "severity": 0}
    (tmp_path / "c.jsonl").write_text(json.dumps(cell) + "\n")
    harm = read_prompts([tmp_path / f"{name}.jsonl" for name in "abc"]).harm
    assert harm["plain"] == (PartialLabel(categories=("Endangering National Security", "Violence"), severity=3),)
    assert harm["odd"] == () and harm["look"] == (PartialLabel(safe=True),)
    assert [label.categories for label in harm["pair"]] == [(), ("Violence",)]
