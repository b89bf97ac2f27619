"""Pairs about harmless things with labels of every kind, and recipes on the tiny model."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from poise.align.train import Head, Recipe, recipe_of, sections
from poise.models.checkpoint import save_state
from poise.models.trunk import Trunk

THINGS = ("a kettle", "a lamp", "a chair", "a river", "a bridge", "the old clock", "bread", "a map of the town")
SMALL = {
    "adapter": {"rank": 2, "adapted_layers": 2},
    "data": {"held_out": 0.2, "max_prompt_tokens": 48, "max_response_tokens": 40},
    "training": {
        "epochs": 2, "learning_rate": 5e-3, "pairs_per_step": 6, "pairs_per_batch": 3, "save_every": 1,
        "evaluate_every": 3,
    },
}  # fmt: skip
ROLLOUT = {"steps": 2, "prompts_per_step": 3, "responses_per_prompt": 2, "max_new_tokens": 6, "save_every": 1}
EVALUATION = {"every": 1, "prompts": 2, "benign": 2, "max_new_tokens": 6}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny tensors gain nothing from more, and sums are in one order wherever the test runs."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def attention_forwards(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """[how often an attention layer has run with gradients on]; a test may set it back to 0."""
    from transformers.models.llama.modeling_llama import LlamaAttention

    forward, seen = LlamaAttention.forward, [0]

    def counted(*arguments: Any, **named: Any) -> Any:
        seen[0] += torch.is_grad_enabled()
        return forward(*arguments, **named)

    monkeypatch.setattr(LlamaAttention, "forward", counted)
    return seen


@pytest.fixture
def rows() -> list[dict[str, Any]]:
    """24 rows in the columns of PKU-SafeRLHF: all four combinations of flags, ids that prefer either position."""
    out = []
    for turn in range(3):
        for at, thing in enumerate(THINGS):
            number = 8 * turn + at
            safe = (number % 4 != 3, number % 4 < 2)
            out.append(
                {
                    "prompt": f"Say {'something more ' * (at % 4)}about {thing}, {turn}.",
                    "response_0": f"You ask about {thing}. " + "It is useful. " * (at % 5 + turn),
                    "response_1": f"No more than this: {thing}." + " It is here." * (at % 3),
                    "is_response_0_safe": safe[0],
                    "is_response_1_safe": safe[1],
                    "better_response_id": number % 2,
                    "safer_response_id": number % 2 if safe[0] == safe[1] else int(safe[1]),
                }
            )
    return out


@pytest.fixture
def pair_file(tmp_path: Path, rows: list[dict[str, Any]]) -> Path:
    """The rows as JSON lines."""
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def make_recipe(tiny_lm: Path, pair_file: Path, float32: None) -> Callable[..., Recipe]:
    """A small recipe of a method; `changes` are sections (dicts) or keys of the head."""

    def make(method: str, **changes: Any) -> Recipe:
        models = sections()
        given: dict[str, dict[str, Any]] = {name: dict(values) for name, values in SMALL.items()}
        given["data"]["files"] = str(pair_file)
        head = {"name": method, "seed": 3, "method": method, "model": str(tiny_lm)}
        for name, value in changes.items():
            if name in models:
                given[name] = {**given.get(name, {}), **value}
            else:
                head[name] = value
        if given["training"].get("weights") == "all" and "adapter" not in changes:
            del given["adapter"]
        return recipe_of(Head(**head), {name: models[name](**values) for name, values in given.items()}, "recipe")

    return make


@pytest.fixture
def scores(make_trunk: Callable[..., Trunk], tmp_path: Path) -> Path:
    """A folder of random but fixed preference models."""
    names = ("reward", "cost")
    trunk, folder = make_trunk(*names, heads=names, shared_layers=2, rank=4), tmp_path / "scores"
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for role in names:
            for tensor in trunk.state_of(role).values():
                tensor.add_(torch.randn(tensor.shape, generator=generator) * 0.1)
    folder.mkdir()
    save_state(folder / "roles.safetensors", {role: trunk.state_of(role) for role in names})
    template = {"system": "Be brief.", "adapted_layers": 2, "rank": 4, "max_prompt_tokens": 64}
    (folder / "template.json").write_text(json.dumps(template))
    (folder / "scale.json").write_text(json.dumps({"reward_mean": 0.0, "reward_std": 1.0, "cost_std": 1.0}))
    (folder / "safe_costs.json").write_text("[-3, -2, -1, 0, 1]")
    (folder / "threshold.json").write_text(json.dumps({"threshold": -1.5}))
    return folder


@pytest.fixture
def make_online(tiny_lm: Path, pair_file: Path, scores: Path, float32: None) -> Callable[..., Recipe]:
    """A small recipe of an online method; `changes` are sections (dicts) or keys of the head."""

    def make(method: str, **changes: Any) -> Recipe:
        models = sections()
        given: dict[str, dict[str, Any]] = {
            "data": {"files": str(pair_file), "held_out": 0.2},
            "rollout": ROLLOUT,
            "evaluation": EVALUATION,
            **({"multiplier": {"value": 0.5}} if method == "reward_shaping" else {}),
        }
        head = {"name": method, "seed": 3, "method": method, "model": str(tiny_lm), "scores": str(scores)}
        for name, value in changes.items():
            if name in models:
                given[name] = {**given.get(name, {}), **value}
            else:
                head[name] = value
        return recipe_of(Head(**head), {name: models[name](**values) for name, values in given.items()}, "recipe")

    return make
