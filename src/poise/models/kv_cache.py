"""A KV cache with room to grow, so that a decoding step writes one token instead of copying all earlier ones.

Transformers' dynamic cache joins the old keys and the new one at every step, which copies the whole cache each time.
Here the keys lie in a buffer with free places after them. When rows leave the batch, the last rows take their places
and nothing else moves. Layers of other kinds (sliding windows, recurrent states) stay as Transformers has them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer

_CHUNK = 128  # tokens of free room added at a time


class _RoomyLayer(DynamicLayer):  # type: ignore[misc]
    """Keys and values [B, heads, T, width] as views of buffers that are longer than T and may be taller than B."""

    keys: Tensor
    values: Tensor

    def __init__(self) -> None:
        super().__init__()
        self._buffers: tuple[Tensor, Tensor] | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if self._buffers is None:
            joined: tuple[Tensor, Tensor] = super().update(key_states, value_states, *args, **kwargs)
            return joined
        rows, _, old, _ = self.keys.shape
        length = old + key_states.shape[2]
        if length > self._buffers[0].shape[2]:
            self._allocate(self.keys, self.values, length + _CHUNK)
        for buffer, new in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[:rows, :, old:length] = new
        self.keys, self.values = (buffer[:rows, :, :length] for buffer in self._buffers)
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        if self.get_seq_length() == 0:
            return
        if self._buffers is None:
            self._allocate(self.keys[indices], self.values[indices], self.keys.shape[2] + _CHUNK)
            return
        moved = (indices != torch.arange(len(indices), device=indices.device)).nonzero()[:, 0]
        if len(indices) > len(self.keys) or len(moved) > len(indices) // 2:
            self._allocate(self.keys[indices], self.values[indices], self._buffers[0].shape[2])
            return
        for kept in (self.keys, self.values):
            kept[moved] = kept[indices[moved]]
        self.keys, self.values = self.keys[: len(indices)], self.values[: len(indices)]

    def _allocate(self, keys: Tensor, values: Tensor, room: int) -> None:
        rows, _, length, _ = keys.shape
        buffers = [old.new_empty(rows, old.shape[1], room, old.shape[3]) for old in (keys, values)]
        for buffer, old in zip(buffers, (keys, values), strict=True):
            buffer[:, :, :length] = old
        self._buffers = buffers[0], buffers[1]
        self.keys, self.values = (buffer[:, :, :length] for buffer in buffers)


def roomy_cache(config: Any) -> DynamicCache:
    """An empty cache for a model with this Transformers config.

    It works as a `DynamicCache`. The first `batch_select_indices` after the prompt sets up the buffers; it may repeat
    rows, which gives each sample of one prompt its own row without computing the prompt again.
    """
    cache = DynamicCache(config=config)
    cache.layers = [_RoomyLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    if getattr(cache, "layer_class_to_replicate", None) is DynamicLayer:
        cache.layer_class_to_replicate = _RoomyLayer
    return cache


def roomy_layers(cache: Any) -> bool:
    """Whether keys and values of every layer lie in one buffer that holds all tokens."""
    return all(isinstance(layer, _RoomyLayer) for layer in cache.layers)


def stay_or_fill(keep: Tensor) -> Tensor:
    """Where the rows of a smaller batch come from: rows stay in place, and the last kept ones fill the holes.

    Args:
        keep: bool[B], true for the rows that go on.

    Returns:
        int64[N], N = number of kept rows; entry i is the old place of the row at i.
    """
    kept = keep.nonzero()[:, 0]
    order = torch.arange(len(kept), device=keep.device)
    order[~keep[: len(kept)]] = kept[kept >= len(kept)]
    return order
