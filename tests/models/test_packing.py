"""Packed rows: the same numbers and gradients as one response at a time, little padding, clear refusals."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from poise.errors import PoiseError
from poise.models import packing
from poise.models.packing import Group, Packed, can_pack, pack, pack_for, packed_log_probs, packed_scores
from poise.models.trunk import Trunk, collate

CPU = torch.device("cpu")


def groups(count: int, seed: int = 0, prompt: int = 30, response: int = 20) -> list[Group]:
    """Prompts and 1 to 4 responses of unequal lengths."""
    generator = torch.Generator().manual_seed(seed)

    def tokens(most: int) -> list[int]:
        return torch.randint(
            600, (int(torch.randint(1, most + 1, (1,), generator=generator)),), generator=generator
        ).tolist()

    return [Group(tokens(prompt), [tokens(response) for _ in range(1 + at % 4)]) for at in range(count)]


def spread(packs: list[Packed], values: list[Tensor]) -> Tensor:
    """Values of the responses of each batch in the order of the groups."""
    numbers = torch.cat([packed.numbers for packed in packs])
    assert sorted(numbers.tolist()) == list(range(len(numbers)))
    return torch.cat(values)[numbers.argsort()]


@pytest.fixture
def two(make_trunk: Callable[..., Trunk]) -> Trunk:
    """A trunk whose adapters do something."""
    trunk = make_trunk("actor", "cost", heads=("cost",), shared_layers=1, rank=4)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for role in ("actor", "cost"):
            for tensor in trunk.state_of(role).values():
                tensor.add_(torch.randn(tensor.shape, generator=generator) * 0.1)
    return trunk


def one_by_one(trunk: Trunk, some: list[Group]) -> tuple[Tensor, Tensor]:
    """Log-probability and score of each response in a row of its own, unpadded."""
    logs, scores = [], []
    for group in some:
        for response in group.responses:
            tokens = collate([group.prompt], [response], CPU)
            lower = trunk.lower(tokens.ids)
            logs.append(trunk.response_log_probs(trunk.upper(lower, "actor"), tokens).sum(-1))
            scores.append(trunk.score(lower, tokens.length, "cost"))
    return torch.cat(logs), torch.cat(scores)


def together(trunk: Trunk, packs: list[Packed]) -> tuple[Tensor, Tensor]:
    """The same, packed."""
    logs, scores = [], []
    for packed in packs:
        lower = trunk.lower(packed.ids, packed)
        hidden = trunk.upper(lower, "actor", packed)
        logs.append(packed.sums(packed_log_probs(trunk, packed, hidden)))
        scores.append(packed_scores(trunk, packed, trunk.upper(lower, "cost", packed), "cost"))
    return spread(packs, logs), spread(packs, scores)


@pytest.mark.parametrize(("max_tokens", "width", "shared"), [(4000, 256, True), (300, 60, True), (400, 60, False)])
def test_values_and_gradients_are_those_of_one_response_at_a_time(
    two: Trunk, max_tokens: int, width: int, shared: bool
) -> None:
    some = groups(12)
    packs = pack(some, max_tokens, CPU, width=width, shared=shared)
    assert (len(packs) > 1) == (max_tokens < 4000)
    parameters = [*two.parameters_of("actor"), *two.parameters_of("cost")]
    results = []
    for logs, scores in (one_by_one(two, some), together(two, packs)):
        weights = torch.linspace(-1, 1, len(logs))
        loss = (weights * logs).mean() + (weights * scores).mean()
        results.append((logs, scores, *torch.autograd.grad(loss, parameters)))
    for alone, packed in zip(*results, strict=True):
        torch.testing.assert_close(packed, alone, atol=1e-5, rtol=1e-5)


def test_a_response_changes_nothing_beside_it(two: Trunk) -> None:
    """Neither a sibling nor a neighbour group sees it; its own numbers do change."""
    some = [Group([5, 6, 7], [[8, 9], [10, 11, 12]]), Group([13, 14], [[15, 16]])]
    other = [Group([5, 6, 7], [[8, 9], [40, 41, 42]]), Group([13, 14], [[15, 16]])]
    with torch.no_grad():
        first, second = (together(two, pack(each, 100, CPU))[0] for each in (some, other))
    torch.testing.assert_close(first[[0, 2]], second[[0, 2]], atol=0, rtol=0)
    assert abs(first[1] - second[1]) > 1e-3


def test_a_row_by_hand() -> None:
    (packed,) = pack([Group([5, 6], [[7, 8], [9]])], 10, CPU)
    assert packed.ids.tolist() == [[5, 6, 7, 8, 9]]
    assert packed.positions.tolist() == [[0, 1, 2, 3, 2]]
    assert packed.mask is not None
    seen = [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [1, 1, 0, 0, 1]]  # 9 sees 5, 6, itself
    assert packed.mask[0, 0].int().tolist() == seen
    assert packed.source.tolist() == [1, 2, 1]  # both first tokens are predicted from the prompt's last
    assert packed.target.tolist() == [2, 3, 4] and packed.targets.tolist() == [7, 8, 9]
    assert packed.owner.tolist() == [0, 0, 1] and packed.last.tolist() == [3, 4]
    assert packed.sums(torch.tensor([1.0, 2.0, 4.0])).tolist() == [3, 4]
    assert packed.sums(torch.tensor([1.0, 2.0, 4.0]), average=True).tolist() == [1.5, 4]
    rows, mask = packed.padded(torch.tensor([1.0, 2.0, 4.0]))
    assert rows.tolist() == [[1, 2], [4, 0]] and mask.tolist() == [[True, True], [True, False]]


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(st.integers(1, 40), st.lists(st.integers(1, 60), min_size=1, max_size=9)), min_size=1, max_size=40
    ),
    st.integers(100, 900),
    st.integers(16, 300),
    st.booleans(),
)
def test_every_response_stands_once_within_the_limits(
    lengths: list[tuple[int, list[int]]], max_tokens: int, width: int, shared: bool
) -> None:
    some = [Group([1] * prompt, [[2] * size for size in sizes]) for prompt, sizes in lengths]
    packs = pack(some, max_tokens, CPU, width=width, shared=shared)
    sizes = [size for _, sizes in lengths for size in sizes]
    got = spread(packs, [torch.bincount(packed.owner, minlength=len(packed.last)) for packed in packs])
    assert got.tolist() == sizes
    for packed in packs:
        assert packed.ids.numel() <= max_tokens
        assert packed.padding <= 0.05 + 1e-9
        assert packed.padding == pytest.approx(float((packed.ids == 0).float().mean()), abs=1e-6)
        assert (packed.targets == 2).all() and (packed.mask is None) != shared


def test_padding_and_saved_tokens_on_lengths_like_those_of_preference_sets() -> None:
    """Log-normal lengths: prompts of about 60 tokens, pairs of answers of about 90, as in chat preference data."""
    chance = torch.Generator().manual_seed(0)
    prompts, *answers = (
        (torch.randn(512, generator=chance) * spread + centre).exp().clamp(4, 512).long().tolist()
        for centre, spread in ((4.1, 0.5), (4.5, 0.7), (4.5, 0.7))
    )
    some = [Group([1] * p, [[2] * a, [2] * b]) for p, a, b in zip(prompts, *answers, strict=True)]
    packs = pack(some, 4096, CPU)
    computed = sum(packed.ids.numel() for packed in packs)
    assert 1 - sum(packed.real for packed in packs) / computed < 0.05
    rows = [p + r for group in some for p in [len(group.prompt)] for r in map(len, group.responses)]
    padded = sum(max(rows[at : at + 8]) * 8 for at in range(0, len(rows), 8))  # the usual: pairs in the data's order
    assert computed < 0.55 * padded
    assert len(packs) < 1.4 * computed / 4096  # and batches are full


@given(seed=st.integers(0, 200), limit=st.sampled_from([700, 4000]))
@settings(max_examples=30, deadline=None)
def test_a_gpu_gets_fewer_batches(seed: int, limit: int) -> None:
    some = groups(16, seed)
    parts = [part for at, group in enumerate(some) for part in packing._cut(group, 2 * at, 256, limit, at)]
    cpu, gpu = (packing._arrange(parts, 256, limit, machine) for machine in (packing._CPU, packing._GPU))
    assert len(gpu) <= len(cpu)
    assert len(gpu) == 1 or limit < 4000, "all fits into one"
    assert sorted(part.first for rows in gpu for row in rows for part in row) == [part.first for part in parts]
    for rows in gpu:
        sizes = [sum(part.length for part in row) for row in rows]
        assert max(sizes) * len(sizes) <= limit and sum(sizes) >= packing._GPU.filled * max(sizes) * len(sizes)


def test_a_long_group_is_cut_between_responses() -> None:
    (group,) = [Group([1] * 10, [[2] * 30] * 16)]
    packs = pack([group], 200, CPU, width=100)
    assert spread(packs, [packed.numbers for packed in packs]).tolist() == list(range(16))
    assert all(packed.ids.numel() <= 200 for packed in packs)
    assert max(packed.ids.shape[1] for packed in packs) <= 200


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (Group([], [[1]]), "group 1 has an empty prompt"),
        (Group([1], [[1], []]), "group 1 has an empty response"),
        (Group([1], []), "group 1 has an empty response"),
        (Group([1] * 30, [[1], [1] * 21]), "a prompt of 30 and a response of 21 tokens exceed a batch of 50"),
    ],
)
def test_what_is_refused(bad: Group, message: str) -> None:
    with pytest.raises(PoiseError, match=message):
        pack([Group([1], [[1]]), bad], 50, CPU)
    assert pack([], 50, CPU) == []


def model_of(kind: str, **settings: Any) -> Any:
    """A small random model."""
    import transformers

    torch.manual_seed(0)
    size = {"vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "head_dim": 8}
    config = transformers.AutoConfig.for_model(kind, **size, **settings)
    return transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


@pytest.mark.parametrize(
    ("kind", "settings", "able"),
    [
        ("llama", {"num_key_value_heads": 1}, True),
        ("llama", {"attn_implementation": "eager"}, True),
        ("qwen2", {"num_key_value_heads": 1, "intermediate_size": 32}, True),
        ("gpt_neox", {"intermediate_size": 32}, True),
        ("gpt2", {}, True),
        ("mamba", {"state_size": 4}, False),
        ("bloom", {}, False),  # its positions are counted along the row
    ],
)
def test_which_models_can(kind: str, settings: dict[str, Any], able: bool) -> None:
    model = model_of(kind, **settings)
    assert can_pack(model) is able
    (packed,) = pack([Group([1, 2], [[3], [4]])], 10, CPU)
    if able:
        assert model.get_decoder()(input_ids=packed.ids, **packed.inputs(model)).last_hidden_state.isfinite().all()
    else:
        with pytest.raises(PoiseError, match=f"'{kind}' can't keep the responses of a packed row apart"):
            packed.inputs(model)


def test_a_trunk_that_cannot_gets_plain_rows(two: Trunk, monkeypatch: pytest.MonkeyPatch) -> None:
    some = groups(6)
    expected = one_by_one(two, some)
    monkeypatch.setattr(packing, "can_pack", lambda model: False)
    packs = pack_for(two, some, 400)
    assert all(packed.mask is None for packed in packs)
    for plain, packed in zip(expected, together(two, packs), strict=True):
        torch.testing.assert_close(packed, plain, atol=1e-5, rtol=1e-5)


def test_an_attention_window_shorter_than_a_response_is_minded(two: Trunk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(two.model.config, "sliding_window", 8, raising=False)
    short, long = [Group([1, 2], [[3, 4], [5] * 6])], [Group([1, 2], [[3, 4], [5] * 7])]
    assert pack_for(two, short, 100)[0].mask is not None
    assert pack_for(two, long, 100)[0].mask is None
    with pytest.raises(PoiseError, match="shared=False"):
        two.lower(pack(long, 100, CPU)[0].ids, pack(long, 100, CPU)[0])


def test_a_model_that_caps_its_logits_is_refused(two: Trunk, monkeypatch: pytest.MonkeyPatch) -> None:
    from poise.models import log_probs

    model = model_of("granite", num_key_value_heads=1, intermediate_size=32, logits_scaling=4.0)
    with pytest.raises(PoiseError, match="'granite' are more than its vocabulary head's product"):
        log_probs.head_weight(model)
    assert log_probs.head_weight(two.model) is two.model.get_output_embeddings().weight
