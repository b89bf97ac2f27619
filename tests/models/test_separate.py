"""Separate models behave like a trunk: same verbs, all weights trained, another tokenizer refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from poise.align.algorithms.ppo_lagrangian import PPOLagrangian
from poise.align.engine import LoopSettings, ScoreScale, train_online
from poise.align.multiplier import LogMultiplier
from poise.data.rows import Sampling
from poise.errors import PoiseError
from poise.models.checkpoint import load_state
from poise.models.generate import Request, generate
from poise.models.recompute import recompute_layers
from poise.models.separate import SeparateModels, parameter_bytes
from poise.models.trunk import REFERENCE, Trunk, collate

ROLES = ("actor", "reward", "cost", "reward_critic", "cost_critic")
PROMPTS = [(f"p-{i}", [1, 20 + i, 30]) for i in range(3)]
SETTINGS = LoopSettings(2, 3, 1, 5, 1.0, 1e-3, 1e-3, 2, 2, 0.2, 5.0, False, 3)
TRAINED = ("actor", "reward_critic", "cost_critic")


@pytest.fixture
def model(tiny_lm: Path, float32: None) -> Path:
    """Folder of the tiny model, computed in float32."""
    return tiny_lm


def make(model: Path, **changes: Any) -> SeparateModels:
    """Five roles on the tiny model."""
    settings: dict[str, Any] = {"scalar_roles": ROLES[1:], "frozen": ("reward", "cost"), **changes}
    return SeparateModels(dict.fromkeys(ROLES, model), **settings)


def test_an_untouched_role_computes_what_the_trunk_does(model: Path) -> None:
    separate, trunk = make(model), Trunk(model, roles=("actor",), shared_layers=2)
    tokens = collate([[1, 20], [1, 21, 22]], [[30, 31, 2], [32]], torch.device("cpu"))
    for role in ("actor", REFERENCE):
        states = [each.upper(each.lower(tokens.ids), role) for each in (separate, trunk)]
        torch.testing.assert_close(states[0], states[1], atol=1e-5, rtol=1e-4)
        log_probs = [each.response_log_probs(s, tokens) for each, s in zip((separate, trunk), states, strict=True)]
        torch.testing.assert_close(log_probs[0], log_probs[1], atol=1e-5, rtol=1e-4)
    requests = [Request([1, 40 + i], Sampling(temperature=1.0, max_new_tokens=6, seed=i)) for i in range(3)]
    assert generate(separate, requests, role="actor") == generate(trunk, requests, role="actor")


def test_ppo_lagrangian_trains_all_weights_and_continues(model: Path, tmp_path: Path) -> None:
    histories = []
    for number, stops in enumerate(([2], [1, 2])):
        for steps in stops:
            models = make(model)
            before = {role: {k: t.clone() for k, t in models.state_of(role).items()} for role in (*ROLES, REFERENCE)}
            result = train_online(
                models,
                PROMPTS,
                PPOLagrangian(),
                LogMultiplier(threshold=-1.0, window=8),
                ScoreScale(),
                SETTINGS._replace(steps=steps),
                checkpoint=tmp_path / f"{number}.safetensors",
            )
        histories.append([{k: v for k, v in row.items() if "seconds" not in k} for row in result.history])
        for role, old in before.items():
            changed = [k for k, t in models.state_of(role).items() if not torch.equal(t, old[k])]
            assert (len(changed) == len(old)) == (role in TRAINED) and bool(changed) == (role in TRAINED), role
    assert histories[0] == histories[1]
    state = load_state(tmp_path / "1.safetensors")
    assert state is not None and set(state["roles"]) == set(TRAINED)


def test_bytes_of_six_models_and_of_one_trunk(model: Path) -> None:
    """Six models of P weights: 6 P and 3 (P + head) more for each trained one; heads have H + 1 weights."""
    separate = make(model)
    weights = sum(p.numel() for p in separate.models["actor"].parameters())
    head = separate.models["actor"].config.hidden_size + 1
    assert parameter_bytes(separate, ()) == 4 * (6 * weights + 4 * head)
    assert parameter_bytes(separate, TRAINED) == 4 * (15 * weights + 4 * head + 3 * 2 * head)
    trunk = Trunk(model, roles=ROLES, scalar_roles=ROLES[1:], shared_layers=2, rank=4)
    adapters = sum(p.numel() for p in trunk.parameters_of("actor"))
    assert parameter_bytes(trunk, ["actor"]) == 4 * (weights + 5 * adapters + 4 * head + 3 * adapters)


def test_another_tokenizer_is_refused(model: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    other = tmp_path / "other"
    AutoModelForCausalLM.from_pretrained(model).save_pretrained(other)
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.add_tokens(["<new>"])
    tokenizer.save_pretrained(other)
    with pytest.raises(PoiseError, match="the reward model's tokenizer differs from the actor's") as caught:
        SeparateModels({"actor": model, "reward": other})
    assert caught.value.where == str(other)
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.chat_template = "{{ messages[0]['content'] }}"
    tokenizer.save_pretrained(other)
    with pytest.raises(PoiseError, match="the reward model's chat template differs"):
        SeparateModels({"actor": model, "reward": other})


def test_what_cannot_be_made_or_loaded(model: Path) -> None:
    with pytest.raises(PoiseError, match="name an actor"):
        SeparateModels({"reward": model})
    models = SeparateModels({"actor": model, "reward": model}, scalar_roles=("reward",))
    with pytest.raises(PoiseError, match="there is no role 'cost'"):
        models.upper(torch.tensor([[1]]), "cost")
    with pytest.raises(PoiseError, match="weights of role 'reward' do not fit 'actor' at head"):
        models.load_role("actor", models.state_of("reward"), saved_as="reward")


@pytest.mark.parametrize("kind", ["trunk", "separate"])
def test_layers_computed_again_give_the_same_gradient(model: Path, kind: str) -> None:
    """Also when another role has spoken before the backward pass; and sampling is as before."""
    gradients, calls, samples = [], [], []
    for again in (False, True):
        trunk = make(model) if kind == "separate" else Trunk(model, roles=("actor", "reward"), rank=4, seed=1)
        with torch.no_grad():
            for number, role in enumerate(("actor", "reward")):
                for tensor in trunk.state_of(role).values():
                    tensor.add_(torch.randn(tensor.shape, generator=torch.Generator().manual_seed(number)) * 0.05)
        if again:
            recompute_layers(trunk)
            recompute_layers(trunk)  # twice is once
        tokens = collate([[1, 20], [1, 21, 22]], [[30, 31, 2], [32]], torch.device("cpu"))
        with torch.no_grad():  # the first time, the vocabulary head is tried out
            trunk.response_log_probs(trunk.upper(trunk.lower(tokens.ids), "actor"), tokens)
        seen: list[int] = []
        layer = (trunk.models["actor"] if isinstance(trunk, SeparateModels) else trunk.model).get_decoder().layers[-1]
        layer.self_attn.register_forward_hook(lambda *args, seen=seen: seen.append(1))
        log_prob = trunk.response_log_probs(trunk.upper(trunk.lower(tokens.ids), "actor"), tokens)
        first = len(seen)
        with torch.no_grad():
            trunk.upper(trunk.lower(tokens.ids), "reward")
        own = len(seen)
        log_prob.sum().backward()
        calls.append((first, len(seen) - own))
        gradients.append(torch.cat([p.grad.flatten() for p in trunk.parameters_of("actor") if p.grad is not None]))
        request = Request([1, 40], Sampling(temperature=1.0, max_new_tokens=6, seed=1))
        samples.append(generate(trunk, [request], role="actor"))
    assert calls == [(1, 0), (1, 1)] and samples[0] == samples[1]
    assert gradients[0].norm() > 0
    torch.testing.assert_close(gradients[0], gradients[1])
