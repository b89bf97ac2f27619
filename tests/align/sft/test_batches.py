"""Rows, steps and tensors; and that neither packing nor padding nor micro-batches change the loss or its gradient."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from poise.align.sft.batches import IGNORED, attention_mask, collate, pack, plan, plan_epoch
from poise.align.sft.loss import TokenLoss
from poise.align.sft.templates import Example
from poise.align.sft.weights import Weights
from poise.errors import PoiseError

LENGTHS = st.lists(st.integers(1, 20), min_size=1, max_size=60)


@pytest.fixture
def weights(tiny_lm: Path) -> Weights:
    return Weights(tiny_lm, 0, 0)


@pytest.fixture
def examples() -> list[Example]:
    """Six examples of 5 to 30 tokens whose first third is the prompt."""
    chance = torch.Generator().manual_seed(1)
    made = []
    for length in (5, 30, 12, 7, 19, 12):
        ids = torch.randint(5, 500, (length,), generator=chance).tolist()
        made.append(Example(ids, [at >= length // 3 for at in range(length)], False))
    return made


def test_a_packed_row_by_hand() -> None:
    examples = [Example([1, 2, 3], [False, True, True], False), Example([4, 5], [True, True], False)]
    batch = collate(examples, [[0, 1], [1]], pad=9)
    assert batch.ids.tolist() == [[1, 2, 3, 4, 5], [4, 5, 9, 9, 9]]
    no = IGNORED  # 4 is never a target: nothing of its conversation stands before it
    assert batch.labels.tolist() == [[no, 2, 3, no, 5], [no, 5, no, no, no]] and batch.targets == 4
    assert batch.positions is not None and batch.positions.tolist() == [[0, 1, 2, 0, 1], [0, 1, 0, 0, 0]]
    assert batch.segments is not None and batch.segments.tolist() == [[0, 0, 0, 1, 1], [0, 0, -1, -1, -1]]
    seen = attention_mask(batch.segments)
    assert seen.shape == (2, 1, 5, 5)
    assert seen[0, 0].int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [0, 0, 0, 1, 0],
        [0, 0, 0, 1, 1],
    ]
    alone = collate(examples, [[0], [1]], pad=9)
    assert alone.positions is None and alone.segments is None


@given(LENGTHS)
def test_packing_loses_nothing_and_fills_rows(lengths: list[int]) -> None:
    rows = pack(range(len(lengths)), lengths, 20)
    assert sorted(at for row in rows for at in row) == list(range(len(lengths)))
    filled = [sum(lengths[at] for at in row) for row in rows]
    assert max(filled) <= 20
    assert sum(value <= 10 for value in filled) <= 1  # two rows that are half empty would have been one


@given(LENGTHS, st.integers(1, 4), st.integers(1, 4), st.booleans())
def test_an_epoch_has_every_example_once(lengths: list[int], batch_size: int, accumulate: int, packed: bool) -> None:
    def steps(batch: int, several: int, epoch: int = 0) -> list[list[list[list[int]]]]:
        return plan_epoch(
            lengths, packed=packed, batch_size=batch, accumulate=several, max_length=20, seed=3, epoch=epoch
        )

    made = steps(batch_size, accumulate)
    assert sorted(at for step in made for rows in step for row in rows for at in row) == list(range(len(lengths)))
    assert all(len(step) <= accumulate and all(len(rows) <= batch_size for rows in step) for step in made)
    whole = steps(batch_size * accumulate, 1)  # what a step learns from does not depend on the micro-batches
    assert [[row for rows in step for row in rows] for step in made] == [step[0] for step in whole]
    assert made == steps(batch_size, accumulate)
    if len(lengths) > 12:
        assert made != steps(batch_size, accumulate, epoch=1)


def test_steps_and_ends_of_epochs() -> None:
    shape: dict[str, Any] = {"packed": False, "batch_size": 2, "accumulate": 2, "max_length": 9, "seed": 0}
    steps, ends = plan([5] * 10, epochs=3, max_steps=0, **shape)  # ceil(10 / 4) = 3 steps an epoch
    assert len(steps) == 9 and ends == [3, 6, 9]
    cut, ends = plan([5] * 10, epochs=3, max_steps=4, **shape)
    assert cut == steps[:4] and ends == [3, 4]


def test_one_batch_costs_what_transformers_says(weights: Weights, examples: list[Example]) -> None:
    batch = collate(examples, [[at] for at in range(6)], pad=0)
    mask = torch.zeros_like(batch.ids)
    for at, example in enumerate(examples):
        mask[at, : len(example.ids)] = 1
    with torch.no_grad():
        theirs = weights.model(input_ids=batch.ids, attention_mask=mask, labels=batch.labels).loss
        total, count = TokenLoss(weights.model, False)(batch)
    assert count == batch.targets == sum(example.targets for example in examples)
    assert float(total) / count == pytest.approx(float(theirs), rel=1e-5)


def gradient(weights: Weights, examples: list[Example], batches: list[list[list[int]]]) -> tuple[float, torch.Tensor]:
    """Loss per token over micro-batches, and its gradient as one vector."""
    loss, total = TokenLoss(weights.model, False), 0.0
    made = [collate(examples, rows, 0) for rows in batches]
    targets = sum(batch.targets for batch in made)
    weights.model.zero_grad()
    for batch in made:
        value, _ = loss(batch)
        (value / targets).backward()  # type: ignore[no-untyped-call]
        total += float(value.detach()) / targets
    return total, torch.cat([p.grad.flatten() for p in weights.model.parameters()])


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize(
    "batches",
    [
        [[[0], [1], [2]], [[3], [4], [5]]],  # two micro-batches
        [[[at]] for at in range(6)],  # no padding
        [[[0, 1, 2], [3, 4, 5]]],  # packed
        [[[4, 2], [1]], [[5, 0, 3]]],  # packed, another order, two micro-batches
    ],
)
def test_how_rows_are_put_together_changes_nothing(
    weights: Weights, examples: list[Example], batches: list[list[list[int]]], attention: str
) -> None:
    weights.model.set_attn_implementation(attention)
    expected, direction = gradient(weights, examples, [[[at] for at in range(6)]])
    value, other = gradient(weights, examples, batches)
    assert value == pytest.approx(expected, abs=1e-4, rel=1e-5)
    assert torch.allclose(other, direction, atol=1e-4 * float(direction.norm()))


def test_packing_without_the_mask_would_change_the_loss(
    weights: Weights, examples: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, _ = gradient(weights, examples, [[[at] for at in range(6)]])
    TokenLoss(weights.model, False).check_packing(64, "tiny")
    monkeypatch.setattr(TokenLoss, "_inputs", lambda self, batch: {"input_ids": batch.ids, "use_cache": False})
    value, _ = gradient(weights, examples, [[[0, 1, 2], [3, 4, 5]]])
    assert abs(value - expected) > 1e-2
    with pytest.raises(PoiseError, match=r"can't keep packed examples apart .use --padded"):
        TokenLoss(weights.model, False).check_packing(64, "tiny")


def test_a_short_attention_window_can_not_be_packed(weights: Weights) -> None:
    weights.model.config.sliding_window = 16
    loss = TokenLoss(weights.model, False)
    loss.check_packing(16, "tiny")
    with pytest.raises(PoiseError, match="window of 16 tokens is shorter than a packed row of 17"):
        loss.check_packing(17, "tiny")


@pytest.mark.parametrize(
    ("kind", "split", "packs"),
    [("gpt2", True, True), ("gemma2", False, True), ("cohere", False, True), ("bloom", True, False)],
)
def test_other_architectures(kind: str, split: bool, packs: bool, examples: list[Example]) -> None:
    """Learnt positions, capped and scaled logits, and one whose positions come from the mask alone."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    heads = {"num_attention_heads": 4, "head_dim": 8} if kind == "gemma2" else {"num_attention_heads": 4}
    shape = {"vocab_size": 512, "hidden_size": 32, "num_hidden_layers": 2, "initializer_range": 0.3}
    names = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "num_key_value_heads": 4}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **shape, **heads, **names)).eval()
    loss = TokenLoss(model, False)
    assert (loss._decoder is not None) == split
    batch = collate(examples, [[at] for at in range(6)], pad=0)
    mask = torch.zeros_like(batch.ids)
    for at, example in enumerate(examples):
        mask[at, : len(example.ids)] = 1
    with torch.no_grad():
        theirs = float(model(input_ids=batch.ids, attention_mask=mask, labels=batch.labels).loss)
        total, count = loss(batch)
        assert float(total) / count == pytest.approx(theirs, rel=1e-5)
        if not packs:
            with pytest.raises(PoiseError, match="can't keep packed examples apart"):
                loss.check_packing(64, kind)
            return
        loss.check_packing(64, kind)
        packed, _ = loss(collate(examples, [[0, 1, 2], [3, 4, 5]], 0))
        assert float(packed) == pytest.approx(float(total), rel=1e-5)


def test_a_model_that_changes_its_logits_is_run_whole(
    weights: Weights, examples: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain: Callable[..., Any] = weights.model.forward

    def capped(*args: Any, **kwargs: Any) -> Any:
        out = plain(*args, **kwargs)
        out.logits = torch.tanh(out.logits)
        return out

    batch = collate(examples, [[at] for at in range(6)], pad=0)
    before = float(TokenLoss(weights.model, False)(batch)[0].detach())
    monkeypatch.setattr(weights.model, "forward", capped)
    after = float(TokenLoss(weights.model, False)(batch)[0].detach())
    logits = torch.tanh(plain(input_ids=batch.ids).logits)[:, :-1].transpose(1, 2)
    expected = torch.nn.functional.cross_entropy(logits, batch.labels[:, 1:], reduction="sum")
    assert after == pytest.approx(float(expected.detach()), rel=1e-5) and abs(after - before) > 1
