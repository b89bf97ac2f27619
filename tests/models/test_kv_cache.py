"""The cache with room holds what the dynamic cache holds."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import DynamicCache, LlamaConfig, MistralConfig

from poise.models.kv_cache import roomy_cache, stay_or_fill

CONFIG = LlamaConfig(num_hidden_layers=2, hidden_size=8, num_attention_heads=2, num_key_value_heads=2)


def step(rows: int, length: int, seed: int) -> tuple[Tensor, Tensor]:
    """Keys and values [rows, 2, length, 4] of new tokens."""
    g = torch.Generator().manual_seed(seed)
    return torch.randn(rows, 2, length, 4, generator=g), torch.randn(rows, 2, length, 4, generator=g)


def test_stay_or_fill_by_hand() -> None:
    # Rows 1 and 3 end. Three of five stay: 0 and 2 in place, and 4, the last one kept, fills place 1.
    assert stay_or_fill(torch.tensor([True, False, True, False, True])).tolist() == [0, 4, 2]
    assert stay_or_fill(torch.tensor([True, True, True])).tolist() == [0, 1, 2]
    assert stay_or_fill(torch.tensor([False, False, True])).tolist() == [2]


@given(keep=st.lists(st.booleans(), min_size=1, max_size=20))
def test_stay_or_fill_keeps_the_kept(keep: list[bool]) -> None:
    order = stay_or_fill(torch.tensor(keep)).tolist()
    assert sorted(order) == [i for i, kept in enumerate(keep) if kept]
    assert all(old in (new, *range(len(order), len(keep))) for new, old in enumerate(order))


@settings(max_examples=30)
@given(data=st.data())
def test_it_agrees_with_the_dynamic_cache(data: st.DataObject) -> None:
    ours, theirs = roomy_cache(CONFIG), DynamicCache(config=CONFIG)
    rows = data.draw(st.integers(1, 6))
    for turn in range(data.draw(st.integers(1, 8))):
        length = data.draw(st.sampled_from([1, 1, 3, 150]))
        for layer in range(2):
            new = step(rows, length, 10 * turn + layer)
            for mine, plain in zip(ours.update(*new, layer), theirs.update(*new, layer), strict=True):
                assert torch.equal(mine, plain)
        if data.draw(st.booleans()):
            rows = data.draw(st.integers(1, rows + 2 if turn == 0 else rows))
            most = len(theirs.layers[0].keys) - 1
            order = torch.tensor(data.draw(st.lists(st.integers(0, most), min_size=rows, max_size=rows)))
            ours.batch_select_indices(order)
            theirs.batch_select_indices(order)
        assert ours.get_seq_length() == theirs.get_seq_length()


def test_a_step_writes_one_token_and_moves_nothing() -> None:
    cache = roomy_cache(CONFIG)
    cache.update(*step(1, 5, 0), 0)
    cache.batch_select_indices(torch.tensor([0, 0, 0]))
    place = cache.layers[0].keys.data_ptr()
    for turn in range(20):
        keys, _ = cache.update(*step(3, 1, turn), 0)
        assert keys.data_ptr() == place
    cache.batch_select_indices(torch.tensor([0, 2]))
    assert cache.update(*step(2, 1, 99), 0)[0].data_ptr() == place


@pytest.mark.parametrize("window", [8, None])
def test_other_kinds_of_layers_stay(window: int | None) -> None:
    config = MistralConfig(num_hidden_layers=2, sliding_window=window)
    plain = [type(layer) for layer in DynamicCache(config=config).layers]
    kinds = [type(layer) for layer in roomy_cache(config).layers]
    assert (kinds == plain) == (window is not None)
