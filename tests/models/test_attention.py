"""Attention of an encoder that learns: float32 while gradients are on, the same as before without them."""

import pytest
import torch
from transformers import BertConfig, BertModel

from poise.models.attention import NAME, attend_in_float32

IDS = torch.tensor([[3, 4, 5, 6], [7, 8, 0, 0]])
MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])


def model(attention: str = "sdpa") -> BertModel:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=16, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    config._attn_implementation = attention
    return BertModel(config)


def hidden(of: BertModel, ids: torch.Tensor = IDS) -> torch.Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found: torch.Tensor = of(input_ids=ids, attention_mask=MASK).last_hidden_state
    return found


def test_the_kernel_gets_float32_only_while_gradients_are_on(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, seen = model(), []
    attend_in_float32(ours)
    plain = torch.nn.functional.scaled_dot_product_attention

    def spy(query: torch.Tensor, *rest: object, **more: object) -> torch.Tensor:
        seen.append(query.dtype)
        return plain(query, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", spy)
    hidden(ours)
    assert seen == [torch.float32] * 2
    with torch.no_grad():
        hidden(ours)
    assert seen[2:] == [torch.bfloat16] * 2


def test_without_gradients_every_bit_is_what_it_was() -> None:
    ours, other = model(), model()
    attend_in_float32(ours)
    with torch.no_grad():
        assert torch.equal(hidden(ours), hidden(other))


def test_gradients_are_those_of_float32_and_padding_is_not_read() -> None:
    ours, exact = model(), model()
    attend_in_float32(ours)
    found = hidden(ours)
    assert torch.equal(found[1, :2], hidden(ours, torch.tensor([[3, 4, 5, 6], [7, 8, 9, 9]]))[1, :2])
    (found.float() ** 3).sum().backward()
    (exact(input_ids=IDS, attention_mask=MASK).last_hidden_state ** 3).sum().backward()
    for (name, mine), other in zip(ours.named_parameters(), exact.parameters(), strict=True):
        if other.grad is not None and float(other.grad.norm()) > 1e-3:
            assert mine.grad is not None
            assert torch.cosine_similarity(mine.grad.flatten(), other.grad.flatten(), dim=0) > 0.99, name


def test_a_model_that_attends_eagerly_stays() -> None:
    ours = model("eager")
    attend_in_float32(ours)
    assert ours.config._attn_implementation == "eager" != NAME
