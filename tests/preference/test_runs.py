"""`poise align preference` from files to a folder: complete, resumed, refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from poise.align.engine.rollout import ScoreScale
from poise.cli.main import main
from poise.models.checkpoint import load_state
from poise.models.trunk import Trunk

FILES = {"roles.safetensors", "template.json", "scale.json", "safe_costs.json", "threshold.json", "metrics.json",
         "diagnostics.svg"}  # fmt: skip
RECIPE = """\
name: tiny
reward: {{sets: [helpful]}}
cost: {{sets: [harm, signs]}}
model: {model}
data: {{test_share: 0.3, validation_share: 0.2, max_prompt_tokens: 48, max_response_tokens: 16}}
training: {{shared_adapter: {shared}, adapted_layers: 2, rank: 2, prompts_per_step: 16, checkpoint_every: 2}}
threshold: {{violation_rate: 0.1}}
"""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A pair about help and a dual pair for each of 60 prompts, and labels alone."""
    topics = [f"{chr(97 + n % 26) * 5} {n * n} subject number {n * 37}" for n in range(60)]
    folder = tmp_path / "data"
    folder.mkdir()
    rows: dict[str, list[dict[str, Any]]] = {"helpful": [], "harm": [], "signs": []}
    for n, topic in enumerate(topics):
        rows["helpful"].append({"prompt": topic, "chosen": f"a full answer {n}", "rejected": f"no {n}"})
        rows["harm"].append(
            {
                "prompt": topic,
                "response_0": f"fine words {n}",
                "response_1": f"bad words {n}",
                "safer_response_id": 0,
                "is_response_0_safe": True,
                "is_response_1_safe": False,
                "better_response_id": None,
            }
        )
        rows["signs"].append({"prompt": topic, "response": f"alone {n}", "response_source": "x", "is_safe": n % 2 == 0})
    for name, some in rows.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some), encoding="utf-8")
    return folder


@pytest.fixture
def start(data: Path, tiny_lm: Path, tmp_path: Path, float32: None) -> Callable[..., int]:
    """Runs the command; returns the exit code."""

    def run(out: str = "scores", *changes: str, shared: str = "true") -> int:
        recipe = tmp_path / f"recipe-{shared}.yaml"
        recipe.write_text(RECIPE.format(model=tiny_lm, shared=shared), encoding="utf-8")
        words = ["align", "preference", str(recipe), "--data", str(data), "--out", str(tmp_path / out)]
        return main([*words, *(word for change in changes for word in ("--set", change))])

    return run


@pytest.mark.parametrize("shared", ["true", "false"])
def test_the_folder_is_what_online_methods_load(
    start: Callable[..., int], tmp_path: Path, make_trunk: Callable[..., Trunk], shared: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    assert start(shared=shared) == 0
    out = tmp_path / "scores"
    assert {path.name for path in out.iterdir()} == FILES
    assert not (tmp_path / ".scores.training").exists()
    report = json.loads((out / "metrics.json").read_text())
    assert report["parts"]["train"]["labels_alone"] > 10
    assert report["parts"]["train"]["reward_pairs"] == report["parts"]["train"]["cost_pairs"] > 20
    assert 0 <= report["padding_share"] < 0.05
    assert report["threshold"]["rule"] == "violation_rate"
    ScoreScale(**json.loads((out / "scale.json").read_text()))
    template = json.loads((out / "template.json").read_text())
    roles = load_state(out / "roles.safetensors") or {}
    trunk = make_trunk("reward", "cost", heads=("reward", "cost"), shared_layers=2, rank=template["rank"])
    for role in ("reward", "cost"):
        trunk.load_role(role, roles[role])
    assert "cost, signs" in capsys.readouterr().out
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    assert start(shared=shared) == 0
    assert "is complete; nothing to do" in capsys.readouterr().out
    assert before == {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    assert start("scores", "training.epochs=2", shared=shared) == 2
    assert "training.epochs 1 there, 2 now" in capsys.readouterr().err


def test_a_killed_run_goes_on_to_the_same_models(
    start: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from poise.preference import training

    assert start("whole", "training.epochs=3") == 0
    step, done = training._step, []

    def killed(*args: Any) -> Any:
        done.append(1)
        if len(done) == 6:
            raise KeyboardInterrupt
        return step(*args)

    monkeypatch.setattr(training, "_step", killed)
    assert start("stopped", "training.epochs=3") != 0
    assert not (tmp_path / "stopped").exists()
    assert (tmp_path / ".stopped.training" / "checkpoint.safetensors").is_file()
    monkeypatch.setattr(training, "_step", step)
    assert start("stopped", "training.epochs=3") == 0
    first, second = (load_state(tmp_path / name / "roles.safetensors") or {} for name in ("whole", "stopped"))
    for role in ("reward", "cost"):
        assert all(torch.equal(tensor, second[role][name]) for name, tensor in first[role].items())


def test_wrong_input_is_one_line(
    start: Callable[..., int], data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(*changes: str, out: str = "x") -> str:
        assert start(out, *changes) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        return line

    assert "did you mean 'learning_rate'" in said("training.learning_rat=1")
    assert "no set 'harmm'" in said("cost.sets=[harmm]")
    assert "give safe_quantile or violation_rate, not both" in said("threshold.safe_quantile=0.5")
    assert "no pair says which response is better" in said("reward.sets=[signs]")
    assert "no response has a label" in said("cost.sets=[helpful]")
    rows = (data / "signs.jsonl").read_text().replace("false", "true")
    (data / "safe.jsonl").write_text(rows, encoding="utf-8")
    assert "labels are one class (safe)" in said("cost.sets=[safe]")
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "file").write_text("mine")
    assert "exists and holds no preference models" in said(out="used")
    assert {path.name for path in tmp_path.iterdir() if path.name.startswith(".")} == set(), "nothing was begun"


def test_a_loss_that_is_not_finite_keeps_the_last_checkpoint(
    start: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from poise.preference import training

    rate = training._rate
    monkeypatch.setattr(training, "_rate", lambda step, steps: float("inf") if step == 2 else rate(step, steps))
    assert start("bad", "training.epochs=3") == 4
    error = capsys.readouterr().err
    assert "step 3 of" in error and "weights of" in error and "harm:" in error
    state = load_state(tmp_path / ".bad.training" / "checkpoint.safetensors")
    assert state is not None and len(state["history"]["cost"]) == 2
    assert not (tmp_path / "bad").exists()


def test_the_recipe_that_comes_with_poise_is_valid() -> None:
    from poise.cli.preferring import read_preference_recipe

    recipe = Path(__file__).parents[2] / "recipes" / "preference.yaml"
    plan = read_preference_recipe(recipe, ["training.epochs=2"])
    assert plan.training.epochs == 2
    assert plan.cost.sets == ("pku_saferlhf_pairs", "saferlhf_qa4k")


def test_a_cost_model_of_a_part_of_the_policy(
    start: Callable[..., int], data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every second harmful answer is of violence, the others are of drugs; the signs alone name no category."""
    rows = [json.loads(line) for line in (data / "harm.jsonl").read_text().splitlines()]
    for n, row in enumerate(rows):
        for side, named in ((0, []), (1, [("Violence", "Drugs")[n % 2]])):
            row |= {f"response_{side}_harm_category": named, f"response_{side}_severity_level": 2 * side}
            row |= {f"response_{side}_source": "x", f"response_{side}_sha256": f"{n}-{side}", "prompt_source": "x"}
    (data / "harm.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert start("part", "cost.categories=[violence]") == 0
    assert "cost speaks of: S6" in capsys.readouterr().out
    report = json.loads((tmp_path / "part" / "metrics.json").read_text())
    assert report["cost_speaks_of"] == "S6" and report["identity"]["cost"]["categories"] == ["S6"]
    assert json.loads((tmp_path / "part" / "template.json").read_text())["speaks_of"] == "S6"
    parts = report["parts"].values()
    assert sum(part["unsafe"] for part in parts) == 30 == sum(part["cost_pairs"] for part in parts)
    assert sum(part["safe"] for part in parts) == 30 + 60 + 30, "drugs, safe answers, and safe signs"
    assert report["dropped"]["labels that do not tell of the cost model's part"] == 30
    assert report["dropped"]["orders of two answers alike in the cost model's part, or not known to differ"] == 30
    assert set(report["test"]["cost"]["by_rung"]) == {"boundary"}
    assert report["test"]["cost"]["labels"]["unsafe"] == report["parts"]["test"]["unsafe"]
    assert "Cost of S6" in (tmp_path / "part" / "diagnostics.svg").read_text()
    assert start("whole") == 0
    assert "speaks_of" not in json.loads((tmp_path / "whole" / "template.json").read_text())
    assert start("part", "cost.severity_at_least=severe", "cost.categories=[S6]") == 2
    assert "cost.severity_at_least None there, 'severe' now" in capsys.readouterr().err
    assert start("none", "cost.severity_at_least=severe") == 2
    assert "all" in (told := capsys.readouterr().err) and "labels are one class (safe)" in told
    assert start("wrong", "cost.categories=[Violense]") == 2
    assert "did you mean 'Violence'?" in capsys.readouterr().err
