"""The shared trunk: split, roles, masks, log-probabilities, gradients."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from poise.data.rows import Sampling
from poise.errors import PoiseError
from poise.models.generate import Request, generate
from poise.models.recompute import recompute_layers
from poise.models.trunk import REFERENCE, Tokens, Trunk, collate, last_kept

MakeTrunk = Callable[..., Trunk]
CPU = torch.device("cpu")


@pytest.fixture
def three(make_trunk: MakeTrunk) -> Trunk:
    """A trunk with an actor and two scalar roles, all moved away from their start."""
    trunk = make_trunk("actor", "reward", "cost", heads=("reward", "cost"), shared_layers=2)
    for index, role in enumerate(trunk.roles):
        shake(trunk, role, index)
    return trunk


def shake(trunk: Trunk, role: str, seed: int) -> None:
    """Random weights in the adapter and head of a role."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in trunk.state_of(role).values():
            tensor.add_(torch.randn(tensor.shape, generator=generator) * 0.2)


def batch(rows: int = 5, seed: int = 0) -> Tokens:
    """Random rows of several lengths."""
    g = torch.Generator().manual_seed(seed)
    prompts = [torch.randint(3, 600, (2 + i,), generator=g).tolist() for i in range(rows)]
    responses = [torch.randint(3, 600, (7 - i,), generator=g).tolist() for i in range(rows)]
    return collate(prompts, responses, CPU)


def widened(tokens: Tokens, columns: int, fill: int) -> Tokens:
    """The same rows with more padding on the right."""
    return tokens._replace(ids=torch.nn.functional.pad(tokens.ids, (0, columns), value=fill))


def test_collate_and_masks_follow_the_lengths() -> None:
    # Rows [7 8 | 9] and [5 | 6 4 3 2] padded to width 5; token id 0 is padding but could also be a real token.
    tokens = collate([[7, 8], [5]], [[9], [6, 4, 3, 2]], CPU)
    assert tokens.ids.tolist() == [[7, 8, 9, 0, 0], [5, 6, 4, 3, 2]]
    assert tokens.length.tolist() == [3, 5]
    assert tokens.kept.tolist() == [[True, True, True, False, False], [True] * 5]
    assert tokens.response.tolist() == [[False, False, True, False, False], [False, True, True, True, True]]
    zeros = collate([[0]], [[0, 0]], CPU)
    assert zeros.response.tolist() == [[False, True, True]]


def test_last_kept_takes_the_last_real_token() -> None:
    values = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    assert last_kept(values, torch.tensor([2, 3])).tolist() == [2.0, 6.0]
    assert last_kept(values[..., None], torch.tensor([1, 2])).tolist() == [[1.0], [5.0]]


@pytest.mark.parametrize("shared", [0, 1, 3])
def test_lower_and_upper_make_the_whole_forward_pass(make_trunk: MakeTrunk, shared: int) -> None:
    trunk = make_trunk("actor", shared_layers=shared)
    tokens = batch()
    for role in ("actor", REFERENCE):
        shake(trunk, "actor", 1)
        with torch.no_grad(), trunk.role(role):
            whole = trunk.decoder(input_ids=tokens.ids, use_cache=False).last_hidden_state
        with torch.no_grad():
            split = trunk.upper(trunk.lower(tokens.ids), role)
        torch.testing.assert_close(split, whole, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("shared", [0, 2])
def test_fresh_adapters_equal_the_plain_model(make_trunk: MakeTrunk, shared: int) -> None:
    tokens = batch()
    plain, trunk = make_trunk(), make_trunk("actor", "cost", shared_layers=shared)
    expected = plain.upper(plain.lower(tokens.ids), REFERENCE)
    with torch.no_grad():
        for role in ("actor", "cost", REFERENCE):
            torch.testing.assert_close(trunk.upper(trunk.lower(tokens.ids), role), expected, atol=1e-6, rtol=1e-5)


def test_the_reference_ignores_adapters(three: Trunk, make_trunk: MakeTrunk) -> None:
    tokens, plain = batch(), make_trunk()
    expected = plain.upper(plain.lower(tokens.ids), REFERENCE)
    lower = three.lower(tokens.ids)
    with torch.no_grad():
        assert not torch.allclose(three.upper(lower, "actor"), expected, atol=1e-2)
        torch.testing.assert_close(three.upper(lower, REFERENCE), expected, atol=1e-6, rtol=1e-5)
        assert not torch.allclose(three.upper(lower, "actor"), expected, atol=1e-2)


def test_the_role_that_speaks_is_the_one_named_in_any_order(three: Trunk) -> None:
    lower, roles = three.lower(batch().ids), (*three.roles, REFERENCE)
    with torch.no_grad():
        alone = {role: three.upper(lower, role) for role in roles}
        assert all(not torch.allclose(alone[a], alone[b], atol=1e-2) for a in roles for b in roles if a != b)
        for role in [b for a in roles for b in (a, a, *roles)]:
            torch.testing.assert_close(three.upper(lower, role), alone[role], atol=0, rtol=0)
    with pytest.raises(ValueError, match="no role 'actress'"):
        three.upper(lower, "actress")


@pytest.mark.parametrize("fill", [0, 2, 599])
def test_padding_never_matters(three: Trunk, fill: int) -> None:
    tokens = batch()
    wide = widened(tokens, 6, fill)
    with torch.no_grad():
        score = three.score(three.lower(tokens.ids), tokens.length, "cost")
        log_probs = three.response_log_probs(three.upper(three.lower(tokens.ids), "actor"), tokens)
        wide_score = three.score(three.lower(wide.ids), wide.length, "cost")
        wide_log_probs = three.response_log_probs(three.upper(three.lower(wide.ids), "actor"), wide)
    torch.testing.assert_close(wide_score, score, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(wide_log_probs[:, :-6], log_probs, atol=1e-5, rtol=1e-5)
    assert not wide_log_probs[:, -6:].any()


def test_a_row_does_not_depend_on_longer_batch_mates(three: Trunk) -> None:
    prompts, responses = [[5, 6, 7], [9] * 20], [[10, 11], [12] * 15]
    together = collate(prompts, responses, CPU)
    alone = collate(prompts[:1], responses[:1], CPU)
    with torch.no_grad():
        scores = [three.score(three.lower(t.ids), t.length, "reward")[0] for t in (together, alone)]
        logs = [three.response_log_probs(three.upper(three.lower(t.ids), "actor"), t)[0, :5] for t in (together, alone)]
    torch.testing.assert_close(*scores, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(*logs, atol=1e-5, rtol=1e-5)


def test_response_log_probs_equal_a_plain_log_softmax(three: Trunk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("poise.models.log_probs.CHUNK_BYTES", 4 * 4 * 600)  # 25 response tokens, so that chunks join
    tokens = batch()
    with torch.no_grad():
        hidden = three.upper(three.lower(tokens.ids), "actor")
        every = torch.log_softmax(three.model.get_output_embeddings()(hidden), -1)
        got = three.response_log_probs(hidden, tokens)
    for row in range(len(tokens.ids)):
        for at in range(tokens.ids.shape[1]):
            expected = every[row, at - 1, tokens.ids[row, at]] if tokens.response[row, at] else torch.tensor(0.0)
            torch.testing.assert_close(got[row, at], expected, atol=1e-5, rtol=1e-5)


def test_log_prob_gradients_equal_the_plain_ones(three: Trunk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("poise.models.log_probs.CHUNK_BYTES", 4 * 4 * 600)
    tokens = batch()
    start = three.upper(three.lower(tokens.ids), "actor").detach()
    gradients = []
    for plain in (True, False):
        hidden = start.clone().requires_grad_()
        if plain:
            every = torch.log_softmax(three.model.get_output_embeddings()(hidden[:, :-1]), -1)
            chosen = every.gather(-1, tokens.ids[:, 1:, None])[..., 0]
            (chosen * tokens.response[:, 1:]).sum().backward()
        else:
            three.response_log_probs(hidden, tokens).sum().backward()
        assert hidden.grad is not None
        gradients.append(hidden.grad)
    torch.testing.assert_close(gradients[1], gradients[0], atol=1e-6, rtol=1e-5)


def test_gradients_reach_only_the_active_role(three: Trunk) -> None:
    tokens = batch()
    lower = three.lower(tokens.ids)
    three.score(lower, tokens.length, "cost").sum().backward()
    touched = {name for name, p in three.model.named_parameters() if p.grad is not None}
    assert touched and all(".cost." in name for name in touched)
    assert all(p.grad is not None for p in three.parameters_of("cost"))
    assert all(p.grad is None for role in ("actor", "reward") for p in three.parameters_of(role))
    three.response_log_probs(three.upper(lower, "actor"), tokens).sum().backward()
    assert all(p.grad is not None for p in three.parameters_of("actor"))
    assert all(p.grad is None for p in three.parameters_of("reward"))


def test_a_loss_over_two_roles_reaches_both(three: Trunk) -> None:
    """Switching the role between forward and backward must not freeze what was computed before."""
    tokens = batch()
    lower = three.lower(tokens.ids)
    reward, cost = (three.score(lower, tokens.length, role).sum() for role in ("reward", "cost"))
    three.upper(lower, REFERENCE)
    (reward - cost).backward()
    for role in ("reward", "cost"):
        assert all(p.grad is not None for p in three.parameters_of(role))
    assert all(p.grad is None for p in three.parameters_of("actor"))


def test_parameters_of_the_roles_are_disjoint_and_sit_above_the_shared_layers(three: Trunk) -> None:
    own = {role: {id(p) for p in three.parameters_of(role)} for role in three.roles}
    assert not own["actor"] & own["reward"] and not own["reward"] & own["cost"]
    names = [name for name in three.state_of("cost") if not name.startswith("head.")]
    assert {int(name.split("layers.")[1].split(".")[0]) for name in names} == {2, 3}
    assert all(name.startswith("head.") is False for name in three.state_of("actor"))


def test_training_one_role_leaves_the_others_alone(three: Trunk) -> None:
    tokens = batch()

    def outputs() -> dict[str, torch.Tensor]:
        with torch.no_grad():
            lower = three.lower(tokens.ids)
            scores = {role: three.score(lower, tokens.length, role) for role in ("reward", "cost")}
            return scores | {role: three.upper(lower, role) for role in ("actor", REFERENCE)}

    before = outputs()
    optimizer = torch.optim.AdamW(three.parameters_of("cost"), lr=0.05)
    for _ in range(3):
        optimizer.zero_grad()
        three.score(three.lower(tokens.ids), tokens.length, "cost").sum().backward()
        optimizer.step()
    after = outputs()
    assert (after["cost"] < before["cost"]).all()
    for same in ("reward", "actor", REFERENCE):
        assert torch.equal(before[same], after[same])


def test_a_critic_starts_as_a_copy_of_the_cost_model(make_trunk: MakeTrunk) -> None:
    trunk = make_trunk("cost", "cost_critic", heads=("cost", "cost_critic"), shared_layers=1)
    shake(trunk, "cost", 3)
    tokens = batch()
    trunk.load_role("cost_critic", trunk.state_of("cost"), saved_as="cost")
    with torch.no_grad():
        lower = trunk.lower(tokens.ids)
        copied = trunk.score(lower, tokens.length, "cost_critic")
        assert torch.equal(copied, trunk.score(lower, tokens.length, "cost"))
        shake(trunk, "cost_critic", 4)  # a copy, not the same weights
        assert not torch.equal(trunk.score(lower, tokens.length, "cost_critic"), copied)
        assert torch.equal(copied, trunk.score(lower, tokens.length, "cost"))


def test_state_travels_to_another_trunk(three: Trunk, make_trunk: MakeTrunk) -> None:
    other = make_trunk("cost", heads=("cost",), shared_layers=2, seed=9)
    other.load_role("cost", {name: tensor.clone() for name, tensor in three.state_of("cost").items()})
    tokens = batch()
    with torch.no_grad():
        scores = [t.score(t.lower(tokens.ids), tokens.length, "cost") for t in (three, other)]
    assert torch.equal(*scores)


@pytest.mark.parametrize("other", [{"shared_layers": 1}, {"shared_layers": 2, "rank": 4}])
def test_a_state_that_does_not_fit_is_refused(three: Trunk, make_trunk: MakeTrunk, other: dict[str, int]) -> None:
    with pytest.raises(PoiseError, match="does not fit"):
        make_trunk("cost", heads=("cost",), **other).load_role("cost", three.state_of("cost"))


def test_same_seed_same_start(make_trunk: MakeTrunk) -> None:
    first, second, third = (make_trunk("reward", heads=("reward",), seed=seed).state_of("reward") for seed in (1, 1, 2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], third[name]) for name in first)


@pytest.mark.parametrize("shared", [-1, 4, 30])
def test_shared_layers_out_of_range(make_trunk: MakeTrunk, shared: int) -> None:
    with pytest.raises(PoiseError, match=f"shared_layers is {shared}, the model has 4 layers"):
        make_trunk("actor", shared_layers=shared)


def made(source: Path, folder: Path, config: Any) -> Path:
    """Random weights of another architecture with the tiny model's tokenizer."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(source)
    config.vocab_size, config.eos_token_id = len(tokenizer), tokenizer.eos_token_id
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).float().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(("kind", "linear"), [("gpt_neox", 4), ("gpt2", 4), ("opt", 6)])
def test_models_of_another_build_carry_adapters_on_all_layers_and_are_not_split(
    tiny_lm: Path, tmp_path: Path, float32: None, kind: str, linear: int
) -> None:
    """Pythia's final norm, GPT-2's layers and OPT's positions have other names or places than Llama's."""
    from transformers import AutoConfig

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    inner = {"opt": {"ffn_dim": 48, "word_embed_proj_dim": 32}, "gpt_neox": {"intermediate_size": 48}}.get(kind, {})
    folder = made(tiny_lm, tmp_path / kind, AutoConfig.for_model(kind, **sizes, **inner))
    trunk = Trunk(folder, roles=("actor", "cost"), scalar_roles=("cost",), device=CPU)
    assert len(trunk.state_of("actor")) == 2 * 2 * linear  # layers, and two matrices of each adapter
    recompute_layers(trunk)
    tokens = batch()
    (trunk.score(trunk.lower(tokens.ids), tokens.length, "cost")).sum().backward()
    assert any(bool(p.grad.any()) for p in trunk.parameters_of("cost")[:-2] if p.grad is not None)
    requests = [Request([5, 6, 7][at:], Sampling(temperature=0.0, max_new_tokens=4)) for at in range(2)]
    shake(trunk, "actor", 1)
    for request, sampled in zip(requests, generate(trunk, requests, role="actor"), strict=True):
        ids = list(request.prompt)
        with torch.no_grad(), trunk.role("actor"):
            for token in sampled.whole:
                assert int(trunk.model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()) == token
                ids.append(token)
    with pytest.raises(PoiseError, match=f"the layers of '{kind}' can't be run in two parts .set shared_layers: 0"):
        Trunk(folder, roles=("actor",), shared_layers=1, device=CPU)


def test_layers_of_several_kinds_are_split_where_their_order_repeats(
    tiny_lm: Path, tmp_path: Path, float32: None
) -> None:
    """Layers 1 and 3 look back three tokens: after one shared layer each would get the other kind's mask."""
    from transformers import Qwen2Config

    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2}
    kinds = ["full_attention", "sliding_attention"] * 2
    config = Qwen2Config(
        **sizes, num_hidden_layers=4, use_sliding_window=True, sliding_window=3, layer_types=kinds,
        initializer_range=0.4,
    )  # fmt: skip
    folder = made(tiny_lm, tmp_path / "mixed", config)
    trunk = Trunk(folder, roles=("actor",), shared_layers=2, device=CPU)
    ids = torch.arange(3, 23)[None]
    with torch.no_grad():
        whole = trunk.decoder(input_ids=ids, use_cache=False).last_hidden_state
        torch.testing.assert_close(trunk.upper(trunk.lower(ids), "actor"), whole, atol=1e-5, rtol=1e-5)
    for shared, fewer in ((1, 0), (3, 2)):
        with pytest.raises(PoiseError, match=rf"shifts after {shared} of 4 layers .set shared_layers: {fewer}"):
            Trunk(folder, roles=("actor",), shared_layers=shared, device=CPU)


def test_a_model_without_chat_template_is_refused(tiny_lm: Path, tmp_path: Path, float32: None) -> None:
    folder = shutil.copytree(tiny_lm, tmp_path / "plain")
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(PoiseError, match="has no chat template"):
        Trunk(folder)


def test_a_folder_that_is_no_causal_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(PoiseError, match="can't be loaded as a causal language model"):
        Trunk(tmp_path)


def test_a_model_file_that_was_cut_off_is_refused(tiny_lm: Path, tmp_path: Path, float32: None) -> None:
    folder = shutil.copytree(tiny_lm, tmp_path / "cut-off")
    with (folder / "model.safetensors").open("r+b") as file:
        file.truncate(5000)
    with pytest.raises(PoiseError, match="can't be loaded as a causal language model"):
        Trunk(folder)


def test_bfloat16_trunk_trains_float32_adapters(tiny_lm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("poise.models.trunk.frozen_dtype", lambda device: torch.bfloat16)
    trunk = Trunk(tiny_lm, roles=("actor", "cost"), scalar_roles=("cost",), shared_layers=2, device=CPU)
    tokens = batch()
    lower = trunk.lower(tokens.ids)
    assert lower.dtype == torch.bfloat16
    score = trunk.score(lower, tokens.length, "cost")
    log_probs = trunk.response_log_probs(trunk.upper(lower, "actor"), tokens)
    assert score.dtype == log_probs.dtype == torch.float32
    (score.sum() + log_probs.sum()).backward()
    parameters = trunk.parameters_of("actor") + trunk.parameters_of("cost")
    assert all(p.dtype == torch.float32 and p.grad is not None and p.grad.isfinite().all() for p in parameters)
