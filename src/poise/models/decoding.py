"""Decoding steps: rows that grow by a token, on a CPU one kernel after another, on a GPU as a recorded graph.

A step of a small model with adapters is some two thousand short kernels, and a GPU waits for Python between them: 25 ms
a step for 128 rows of a 1 B model on an H200, whatever the number of rows. So where the model allows it, the step is
recorded once as a CUDA graph over buffers that stay where they are, and played again for every token. Rows that have
ended stay in the recorded step until half of them have; recording again costs more than they do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers.cache_utils import DynamicLayer

from poise.models.kv_cache import roomy_layers, stay_or_fill
from poise.models.packing import can_pack
from poise.models.trunk import Trunk

_CHUNK = 256  # tokens of room that are recorded at a time; attention runs over all of it
Record = Callable[[Callable[[], Tensor]], tuple[Callable[[], object], Tensor]]
"""Runs a step once; returns what runs it again, and the tensor into which it then writes."""


class Steps(Protocol):
    """A batch of B rows after its prompts."""

    def leave(self, keep: Tensor) -> Tensor | None:
        """Let rows leave. Args: keep bool[B], false for rows that have ended. Returns: int64[N], the old places of the
        rows that are left; None when all stay for now."""

    def next(self, token: Tensor) -> Tensor:
        """Append token int64[B] to each row; the last hidden states [B, H], valid until the next call."""


def steps_for(trunk: Trunk, cache: Any, mask: Tensor, steps: int) -> Steps:
    """How this model decodes on this machine.

    Args:
        trunk: the model, in the role and under the autocast that it decodes in.
        cache: `roomy_cache` after the prompts, a row for each of B.
        mask: int64[B, W], 1 at the prompts' tokens.
        steps: most tokens to come.
    """
    attention = getattr(trunk.model.config, "_attn_implementation", "")
    if trunk.device.type == "cuda" and attention == "sdpa" and roomy_layers(cache) and can_pack(trunk.model):
        return RecordedSteps(trunk, cache, mask, steps, cuda_graph)
    return GrowingSteps(trunk, cache, mask, steps)


class GrowingSteps:
    """Every step computes what there is: the cache grows by a token, and rows that end leave at once."""

    def __init__(self, trunk: Trunk, cache: Any, mask: Tensor, steps: int) -> None:
        self._decoder, self._cache, self._width = trunk.decoder, cache, mask.shape[1]
        self._position = mask.sum(-1, keepdim=True)
        self._mask = torch.cat([mask, mask.new_ones(len(mask), steps)], 1)

    def leave(self, keep: Tensor) -> Tensor | None:
        """See `Steps`; all that may leave do."""
        order = stay_or_fill(keep)
        self._cache.batch_select_indices(order)
        self._mask, self._position = self._mask[order], self._position[order]
        return order

    def next(self, token: Tensor) -> Tensor:
        """See `Steps`."""
        self._width += 1
        hidden = last_hidden(self._decoder, token[:, None], self._mask[:, : self._width], self._position, self._cache)
        self._position = self._position + 1
        return hidden


class RecordedSteps:
    """A step over buffers of fixed shape, recorded when the shape changes and played again until then.

    Args:
        record: `cuda_graph`; a test runs the step each time instead.
    """

    def __init__(self, trunk: Trunk, cache: Any, mask: Tensor, steps: int, record: Record) -> None:
        self._decoder, self._cache, self._record = trunk.decoder, cache, record
        self._filled, self._most = mask.shape[1], mask.shape[1] + steps
        self._at = torch.tensor([self._filled], device=mask.device)
        self._position = mask.sum(-1, keepdim=True)
        self._token = torch.zeros_like(self._position)
        self._seen = mask.bool()[:, None, None]
        cache.layers = [_FixedLayer(layer, self._at) for layer in cache.layers]
        self._play: Callable[[], object] | None = None
        self._hidden: Tensor | None = None
        self._resize(None)

    def leave(self, keep: Tensor) -> Tensor | None:
        """See `Steps`; rows leave when half or more have ended."""
        if 2 * int(keep.sum()) > len(keep):
            return None
        order = keep.nonzero()[:, 0]
        self._resize(order)
        return order

    def next(self, token: Tensor) -> Tensor:
        """See `Steps`."""
        if self._filled == self._seen.shape[-1]:
            self._resize(None)
        self._token.copy_(token[:, None])
        if self._play is None:
            self._play, self._hidden = self._record(self._step)
        self._play()
        assert self._hidden is not None
        self._filled += 1
        self._at += 1
        self._position += 1
        return self._hidden

    def _step(self) -> Tensor:
        """Running it twice does what running it once does."""
        self._seen.index_fill_(-1, self._at, True)
        return last_hidden(self._decoder, self._token, self._seen, self._position, self._cache)

    def _resize(self, order: Tensor | None) -> None:
        """New buffers for the rows of `order` (None: all) with room for the next tokens."""
        self._play = self._hidden = None
        room = -(-min(self._most, self._filled + _CHUNK) // 8) * 8  # kernels want masks in steps of 8
        rows = slice(None) if order is None else order
        self._position, self._token = self._position[rows].clone(), self._token[rows].clone()
        seen = self._seen[rows, :, :, : self._filled]
        self._seen = torch.nn.functional.pad(seen, (0, room - self._filled))
        for layer in self._cache.layers:
            layer.resize(rows, self._filled, room)


class _FixedLayer(DynamicLayer):  # type: ignore[misc]
    """Keys and values [B, heads, room, width]; new ones are written at the place `at`, int64[1]."""

    keys: Tensor
    values: Tensor

    def __init__(self, layer: DynamicLayer, at: Tensor) -> None:
        super().__init__()
        self.keys, self.values, self._at = layer.keys, layer.values, at
        self.dtype, self.device, self.is_initialized = self.keys.dtype, self.keys.device, True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        self.keys.index_copy_(2, self._at, key_states)
        self.values.index_copy_(2, self._at, value_states)
        return self.keys, self.values

    def resize(self, rows: Tensor | slice, filled: int, room: int) -> None:
        """Zeros stand in the free places: what is masked is multiplied by zero and must be a number."""
        pad = (0, 0, 0, room - filled)
        self.keys, self.values = (
            torch.nn.functional.pad(old[rows, :, :filled], pad) for old in (self.keys, self.values)
        )


def last_hidden(decoder: Any, ids: Tensor, mask: Tensor, position: Tensor, cache: Any) -> Tensor:
    """Hidden states [B, H] of the last of ids int64[B, T] at positions int64[B, T], after what the cache holds.

    Args:
        mask: of cache and ids together: int64[B, W], or bool[B, 1, T, W].
    """
    hidden: Tensor = decoder(
        input_ids=ids, attention_mask=mask, position_ids=position, past_key_values=cache, use_cache=True
    ).last_hidden_state
    # The model's own `logits_to_keep=1` multiplies a strided slice: on a CPU 600 times slower than contiguous.
    return hidden[:, -1].contiguous()


def cuda_graph(step: Callable[[], Tensor]) -> tuple[Callable[[], object], Tensor]:
    """`Record` as a CUDA graph; a model whose step can't be recorded runs it each time."""
    here, beside = torch.cuda.current_stream(), torch.cuda.Stream()  # type: ignore[no-untyped-call]
    beside.wait_stream(here)
    with torch.cuda.stream(beside):  # libraries set up what they must not while recording
        out = step()
    here.wait_stream(beside)
    graph, random = torch.cuda.CUDAGraph(), torch.cuda.get_rng_state()
    try:
        with torch.cuda.graph(graph):
            recorded = step()
    except RuntimeError:
        torch.cuda.synchronize()
        _draw_on_from(random)
        return lambda: out.copy_(step()), out
    return graph.replay, recorded


def _draw_on_from(state: Tensor) -> None:
    """Give the GPU a new generator behind its old name: one that a failed recording holds can't draw any more."""
    fresh = torch.Generator("cuda")
    fresh.set_state(state)
    torch.cuda.default_generators[torch.cuda.current_device()].graphsafe_set_state(fresh.graphsafe_get_state())
