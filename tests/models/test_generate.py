"""Sampling: what a row gets depends on the row alone, and follows the model's distribution."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from poise.collect.quality import garbled
from poise.data.rows import Sampling
from poise.llm import Completion
from poise.models.generate import Request, Sampled, batches, chat_ids, end_tokens, generate, pick
from poise.models.local import LocalEndpoint
from poise.models.trunk import REFERENCE, Trunk

MakeTrunk = Callable[..., Trunk]


@pytest.fixture
def trunk(make_trunk: MakeTrunk) -> Trunk:
    """A trunk whose actor speaks differently from the plain model."""
    trunk = make_trunk("actor", shared_layers=1)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in trunk.state_of("actor").values():
            tensor.add_(torch.randn(tensor.shape, generator=generator) * 0.1)
    return trunk


def requests(count: int, *, temperature: float = 1.0, top_p: float = 1.0, longest: int = 12) -> list[Request]:
    """Prompts of different lengths, each with its own seed."""
    g = torch.Generator().manual_seed(1)
    return [
        Request(
            torch.randint(3, 600, (1 + (7 * i) % 19,), generator=g).tolist(),
            Sampling(temperature=temperature, top_p=top_p, max_new_tokens=longest, seed=100 + i),
        )
        for i in range(count)
    ]


def greedy_by_hand(trunk: Trunk, prompt: list[int], longest: int, role: str) -> list[int]:
    """Argmax of a whole forward pass for each token, no cache and no padding."""
    ids = list(prompt)
    with torch.no_grad(), trunk.role(role):
        for _ in range(longest):
            token = int(trunk.model(input_ids=torch.tensor([ids])).logits[0, -1].argmax())
            if token == trunk.tokenizer.eos_token_id:
                break
            ids.append(token)
    return ids[len(prompt) :]


@pytest.mark.parametrize("role", ["actor", REFERENCE])
def test_temperature_zero_is_argmax_without_cache(trunk: Trunk, role: str) -> None:
    rows = requests(9, temperature=0.0)
    got = generate(trunk, rows, role=role)
    assert [s.ids for s in got] == [greedy_by_hand(trunk, list(r.prompt), 12, role) for r in rows]


def test_roles_speak_differently(trunk: Trunk) -> None:
    rows = requests(9, temperature=0.0)
    assert generate(trunk, rows, role="actor") != generate(trunk, rows, role=REFERENCE)


@pytest.mark.parametrize("top_p", [1.0, 0.9])
def test_a_row_depends_neither_on_batch_mates_nor_on_order(trunk: Trunk, top_p: float) -> None:
    rows = requests(15, top_p=top_p)
    together = generate(trunk, rows, role="actor")
    alone = [generate(trunk, [row], role="actor")[0] for row in rows]
    assert together == alone
    assert generate(trunk, rows, role="actor", batch_size=4) == alone
    assert generate(trunk, rows[::-1], role="actor", batch_size=6) == alone[::-1]


def test_same_seed_same_text_other_seed_other_text(trunk: Trunk) -> None:
    prompt = requests(1)[0].prompt
    rows = [Request(prompt, Sampling(max_new_tokens=12, seed=seed)) for seed in (5, 5, 6)]
    first, second, third = generate(trunk, rows)
    assert first == second != third
    assert generate(trunk, rows[:1]) == [first]


def test_limits_belong_to_the_row(trunk: Trunk) -> None:
    rows = [Request([5, 6, 7], Sampling(max_new_tokens=n, seed=n)) for n in (1, 9, 3, 5)]
    got = generate(trunk, rows)
    assert all(len(s.ids) <= r.sampling.max_new_tokens for s, r in zip(got, rows, strict=True))
    assert all(s.finished or len(s.ids) == r.sampling.max_new_tokens for s, r in zip(got, rows, strict=True))
    # A longer limit only continues the same text.
    short, long = (generate(trunk, [Request([5, 6, 7], Sampling(max_new_tokens=n, seed=1))])[0].ids for n in (4, 8))
    assert long[: len(short)] == short


def test_the_end_token_ends_a_row_and_is_not_written(trunk: Trunk) -> None:
    rows = requests(6, longest=8)
    free = generate(trunk, rows)
    end = free[0].ids[3]  # from now on the fourth token of row 0 means the end
    trunk.tokenizer.eos_token = trunk.tokenizer.convert_ids_to_tokens(end)
    for before, after in zip(free, generate(trunk, rows), strict=True):
        if end in before.ids:
            assert after == Sampled(before.ids[: before.ids.index(end)], True, end=end)
        else:
            assert after.ids[: len(before.ids)] == before.ids
    assert generate(trunk, rows)[0].finished


@pytest.mark.parametrize("several", [False, True])
def test_an_end_token_of_the_generation_config_ends_a_row_too(trunk: Trunk, several: bool) -> None:
    """As after fine-tuning a base model whose template ends a turn with another token than the tokenizer's."""
    rows, own = requests(6, longest=8), trunk.tokenizer.eos_token_id
    free = generate(trunk, rows)
    end = free[0].ids[3]
    trunk.model.generation_config.eos_token_id = [own, end] if several else end
    assert end_tokens(trunk) == [own, end]
    for before, after in zip(free, generate(trunk, rows), strict=True):
        if end in before.ids:
            at = before.ids.index(end)
            assert after == Sampled(before.ids[:at], True, end=end) and after.whole == before.ids[: at + 1]
        else:
            assert after == before
    assert free[0].end in (None, own)
    trunk.model.generation_config.eos_token_id = None
    assert generate(trunk, rows) == free


def positions(trunk: Trunk, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Shapes (rows, tokens) of everything that goes through the layers from now on."""
    shapes: list[tuple[int, int]] = []
    forward = trunk.decoder.forward

    def counted(*args: Any, **kwargs: Any) -> Any:
        shapes.append(tuple(kwargs["input_ids"].shape))
        return forward(*args, **kwargs)

    monkeypatch.setattr(trunk.decoder, "forward", counted)
    return shapes


@pytest.mark.parametrize("top_p", [1.0, 0.9])
def test_samples_of_one_prompt_share_it_and_stay_what_they_are(
    trunk: Trunk, monkeypatch: pytest.MonkeyPatch, top_p: float
) -> None:
    prompts = [r.prompt for r in requests(3)]
    how = Sampling(top_p=top_p, max_new_tokens=12)
    rows = [Request(p, how.model_copy(update={"seed": 10 * i + k})) for k in range(5) for i, p in enumerate(prompts)]
    alone = [generate(trunk, [row], role="actor")[0] for row in rows]
    shapes = positions(trunk, monkeypatch)
    assert generate(trunk, rows, role="actor") == alone
    assert len({tuple(s.ids) for s in alone}) > len(prompts), "the samples of a prompt differ"
    assert shapes[0] == (3, max(map(len, prompts))), "each prompt once"
    assert shapes[1] == (15, 1)
    shapes.clear()
    assert generate(trunk, rows, role="actor", batch_size=5) == alone
    assert [shape for shape in shapes if shape[1] > 1] == [(1, len(p)) for p in sorted(prompts, key=len) if len(p) > 1]


def test_batches_by_hand() -> None:
    a, b, c = [1], [2, 2], [3, 3]
    assert batches([b, a, b, a, c], 8) == [[1, 3, 0, 2, 4]], "shortest first, equal prompts together"
    assert batches([a, c, b, c, b, c], 4) == [[0, 1, 3, 5], [2, 4]]
    assert batches([a, a, a, b, b, b], 4) == [[0, 1, 2], [3, 4, 5]], "one empty place is cheaper than a prompt again"
    assert batches([a, a, b, b, b], 4) == [[0, 1, 2, 3], [4]], "two of four are not"
    assert batches([a] * 5, 2) == [[0, 1], [2, 3], [4]]
    assert batches([], 2) == []


def test_long_responses_outgrow_the_buffers(trunk: Trunk) -> None:
    rows = requests(2, temperature=0.0, longest=140)
    trunk.tokenizer.eos_token = "<|endoftext|>"  # never said here, so that every row runs on
    got = generate(trunk, rows)
    assert [len(s.ids) for s in got] == [140, 140]
    assert [s.ids for s in got] == [greedy_by_hand(trunk, list(r.prompt), 140, REFERENCE) for r in rows]


def test_a_prompt_that_is_too_long_gets_a_reason_and_the_rest_goes_on(trunk: Trunk) -> None:
    context = trunk.model.config.max_position_embeddings
    short = requests(2)
    long, edge = (Request([5] * n, Sampling(max_new_tokens=12, seed=3)) for n in (context, context - 3))
    seen: list[int] = []
    got = generate(trunk, [short[0], long, edge, Request([], Sampling()), short[1]], on_rows=seen.append)
    assert got[1] == Sampled([], False, "too-long")
    assert got[3] == Sampled([], False, "empty-prompt")
    assert [got[0], got[4]] == generate(trunk, short)
    assert len(got[2].ids) == 3 or got[2].finished, "the context ends the response"
    assert got[2] == generate(trunk, [Request(edge.prompt, Sampling(max_new_tokens=3, seed=3))])[0]
    assert sum(seen) == 5
    assert generate(trunk, [long]) == [got[1]]


def test_the_endpoint_says_why_there_is_no_reply(trunk: Trunk) -> None:
    context = trunk.model.config.max_position_embeddings
    how = [Sampling(temperature=0.0, max_new_tokens=6)] * 2
    said = LocalEndpoint(trunk, "tiny").complete(["Once upon a time", "no " * context], how)
    assert said[1] == Completion("", False, "too-long")
    assert said[0] == LocalEndpoint(trunk, "tiny").complete(["Once upon a time"], how[:1])[0]
    assert said[0].text
    assert said[0].reason is None


def test_a_model_that_repeats_itself_for_ever_ends_and_is_seen(trunk: Trunk) -> None:
    word = trunk.tokenizer(" the", add_special_tokens=False)["input_ids"]
    assert len(word) == 1
    with torch.no_grad():  # whatever was said, the last hidden state is zero and the bias alone speaks
        trunk.decoder.norm.weight.zero_()
    trunk.model.get_output_embeddings().bias = torch.nn.Parameter(
        torch.nn.functional.one_hot(torch.tensor(word[0]), trunk.model.config.vocab_size).float()
    )
    said = LocalEndpoint(trunk, "tiny").chat(
        [[{"role": "user", "content": "Hi"}]], [Sampling(max_new_tokens=40, temperature=0.0)]
    )[0]
    assert not said.finished
    assert said.text.split() == ["the"] * 40
    assert garbled(said.text) == "repeats"


def test_nothing_to_do(trunk: Trunk) -> None:
    assert generate(trunk, []) == []


def test_progress_counts_every_row(trunk: Trunk) -> None:
    seen: list[int] = []
    generate(trunk, requests(10, longest=2), batch_size=4, on_rows=seen.append)
    assert seen == [4, 4, 2]


def test_the_endpoint_keeps_order_and_reads_the_template(trunk: Trunk) -> None:
    endpoint = LocalEndpoint(trunk, "tiny")
    talks = [[{"role": "user", "content": text}] for text in ("Hello there, how are you?", "Hi")]
    how = [Sampling(temperature=0.0, max_new_tokens=6)] * 2
    ids = chat_ids(trunk, talks[1])
    assert trunk.tokenizer.decode(ids) == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    for talk, said in zip(talks, endpoint.chat(talks, how), strict=True):
        expected = greedy_by_hand(trunk, chat_ids(trunk, talk), 6, REFERENCE)
        assert said.text == trunk.tokenizer.decode(expected, skip_special_tokens=True)
    plain = endpoint.complete(["Once"], how[:1])[0]
    start = trunk.tokenizer("Once", add_special_tokens=False)["input_ids"]
    assert plain.text == trunk.tokenizer.decode(greedy_by_hand(trunk, start, 6, REFERENCE), skip_special_tokens=True)


def picked(probability: list[float], uniform: list[float], temperature: float = 1.0, top_p: float = 1.0) -> list[int]:
    """`pick` for one distribution and many uniform numbers."""
    n = len(uniform)
    logits = torch.tensor(probability).log().repeat(n, 1)
    return pick(logits, torch.tensor(uniform), torch.full((n,), temperature), torch.full((n,), top_p)).tolist()


def test_pick_by_hand() -> None:
    # Cumulative 0.2, 0.7, 1.0: u < 0.2 gives token 0, u < 0.7 gives 1, the rest 2.
    assert picked([0.2, 0.5, 0.3], [0.0, 0.19, 0.21, 0.69, 0.71, 0.9999999]) == [0, 0, 1, 1, 2, 2]


def test_nucleus_by_hand() -> None:
    # Sorted 0.5 (1), 0.3 (2), 0.2 (0). top_p 0.6 keeps tokens 1 and 2, shares 0.625 and 0.375; top_p 0.5 keeps 1 alone.
    assert picked([0.2, 0.5, 0.3], [0.0, 0.62, 0.63, 0.99], top_p=0.6) == [1, 1, 2, 2]
    assert picked([0.2, 0.5, 0.3], [0.0, 0.62, 0.63, 0.99], top_p=0.49) == [1, 1, 1, 1]


def test_temperature_by_hand() -> None:
    # Temperature 0.5 squares: 0.04, 0.25, 0.09 over 0.38, cumulative 0.105, 0.763, 1. Temperature 0 is the argmax.
    assert picked([0.2, 0.5, 0.3], [0.10, 0.11, 0.75, 0.77], temperature=0.5) == [0, 1, 1, 2]
    assert picked([0.2, 0.5, 0.3], [0.0, 0.99], temperature=0.0) == [1, 1]


def test_rows_of_one_batch_keep_their_own_settings() -> None:
    logits = torch.tensor([0.2, 0.5, 0.3]).log().repeat(4, 1)
    uniform = torch.full((4,), 0.99)
    got = pick(logits, uniform, torch.tensor([1.0, 0.0, 1.0, 1.0]), torch.tensor([1.0, 1.0, 0.49, 2.0]))
    assert got.tolist() == [2, 1, 1, 2]


@settings(max_examples=25, deadline=None)
@given(
    weights=st.lists(st.floats(0.01, 1.0), min_size=2, max_size=12),
    top_p=st.one_of(st.just(1.0), st.floats(0.05, 0.95)),
)
def test_pick_follows_the_distribution(weights: list[float], top_p: float) -> None:
    """An even grid of uniform numbers gives each token its share of the nucleus."""
    n = 4000
    p = torch.tensor(weights, dtype=torch.float64)
    p /= p.sum()
    order = p.argsort(descending=True)
    before = p[order].cumsum(0) - p[order]
    clear = ((before - top_p).abs() > 1e-6).all()  # float32 may decide a tie at the edge the other way
    kept = torch.zeros_like(p)
    kept[order[before < top_p]] = 1
    expected = p * kept / (p * kept).sum()
    grid = ((torch.arange(n) + 0.5) / n).tolist()
    share = torch.bincount(torch.tensor(picked(p.tolist(), grid, top_p=top_p)), minlength=len(p)) / n
    if clear and bool((p.sort().values.diff() > 1e-6).all()):
        assert (share[kept == 0] == 0).all()
        torch.testing.assert_close(share.double(), expected, atol=3 / n, rtol=0)
    elif clear:  # of equally likely tokens at the edge, either may be kept
        torch.testing.assert_close(share.double().sort().values, expected.sort().values, atol=3 / n, rtol=0)
