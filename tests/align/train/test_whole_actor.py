"""Online methods that train all weights of the actor, beside preference models and critics that stay adapters."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from poise.align.train import METHODS, Recipe, Watch, export_merged, open_policy, train_online_run
from poise.data.resumable import work_folder
from poise.models.packing import Group, pack_for
from poise.models.trunk import REFERENCE, Trunk, collate
from poise.models.whole_actor import WholeActor

Make = Callable[..., Recipe]
ALL = {"weights": "all", "actor_learning_rate": 1e-3}


def history(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]


@pytest.fixture
def scored(make_trunk: Callable[..., Trunk]) -> Trunk:
    """A trunk of everybody but the actor, with adapters that say something."""
    names = ("reward", "cost", "reward_critic")
    trunk = make_trunk(*names, heads=names, shared_layers=2, rank=4)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for tensor in (t for role in names for t in trunk.state_of(role).values()):
            tensor.add_(torch.randn(tensor.shape, generator=generator) * 0.1)
    return trunk


def test_roles_say_what_they_say_on_the_trunk(scored: Trunk, tiny_lm: Path) -> None:
    both = WholeActor(scored, tiny_lm)
    tokens = collate([[1, 20], [1, 21, 22]], [[30, 31, 2], [32]], torch.device("cpu"))
    calls, lower_of = [], scored.lower
    scored.lower = lambda *args: calls.append(1) or lower_of(*args)  # type: ignore[method-assign,func-returns-value]
    lower, plain = both.lower(tokens.ids), lower_of(tokens.ids)
    for role in ("reward", "cost"):
        assert torch.equal(both.score(lower, tokens.length, role), scored.score(plain, tokens.length, role))
    assert len(calls) == 1, "the shared layers run once for all roles"
    torch.testing.assert_close(both.upper(lower, "actor"), both.upper(lower, REFERENCE), atol=1e-5, rtol=1e-4)
    both.upper(both.lower(tokens.ids.clone()), "cost")
    assert len(calls) == 2, "and again for other tokens"
    packed = pack_for(both, [Group([1, 20], [[30, 31, 2], [32, 2]])], 64)[0]
    states = [each.upper(each.lower(packed.ids, packed), "cost", packed) for each in (both, scored)]
    assert torch.equal(*states)


def test_what_was_computed_without_gradients_is_not_used_with_them(scored: Trunk, tiny_lm: Path) -> None:
    both, ids = WholeActor(scored, tiny_lm), torch.tensor([[1, 20, 30]])
    with torch.inference_mode():
        both.upper(ids, "reward_critic")
    both.values(both.upper(ids, "reward_critic"), "reward_critic").sum().backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is not None for p in both.parameters_of("reward_critic"))
    assert all(p.grad is None for p in both.parameters_of("actor"))


@pytest.mark.parametrize("method", [name for name, method in METHODS.items() if method.kind == "online"])
def test_every_method_begins_like_with_an_adapter_and_leaves_a_plain_model(
    make_online: Make, tiny_lm: Path, tmp_path: Path, method: str
) -> None:
    changes = {"gradient_checkpointing": method == "grpo_lagrangian"}
    for name, more in (("all", ALL), ("adapter", {})):
        report = train_online_run(make_online(method, rollout={**changes, **more}), tmp_path / name)
        assert ("whole_model" in report) == (name == "all")
    first, second = history(tmp_path / "all")[0], history(tmp_path / "adapter")[0]
    for name in ("reward", "cost"):
        assert first[name] == pytest.approx(second[name], abs=1e-4)
    last = history(tmp_path / "all")[-1], history(tmp_path / "adapter")[-1]
    assert last[0]["kl"] != last[1]["kl"]
    policy = open_policy(tmp_path / "all")
    started = open_policy(tmp_path / "all").state_of(REFERENCE)
    moved = [n for n, t in policy.state_of("actor").items() if not torch.equal(t, started[n])]
    assert len(moved) > 0.9 * len(started), "all weights learn"
    export_merged(tmp_path / "all", tmp_path / "plain")
    assert {"config.json", "model.safetensors"} <= {path.name for path in (tmp_path / "plain").iterdir()}


def test_a_stopped_run_goes_on(make_online: Make, tmp_path: Path) -> None:
    class StoppedError(Exception):
        pass

    def die(phase: str, done: int, total: int, loss: float) -> None:
        if done == 2:
            raise StoppedError

    recipe = make_online("ppo_lagrangian", rollout={"steps": 3, "save_every": 1, **ALL})
    train_online_run(recipe, tmp_path / "whole")
    with pytest.raises(StoppedError):
        train_online_run(recipe, tmp_path / "parts", Watch(step=die))
    assert work_folder(tmp_path / "parts").exists()
    train_online_run(recipe, tmp_path / "parts")
    for name in ("model.safetensors", "history.jsonl", "evaluation.jsonl"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
