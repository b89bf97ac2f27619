"""Gradient checkpointing: a layer's insides are computed again in the backward pass instead of being kept.

The price is one more forward pass of the layers; what is kept is one [B, T, H] for each layer. The results are the
same numbers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from poise.models.layers import layers_of
from poise.models.trunk import Trunk


def recompute_layers(trunk: Trunk) -> None:
    """Switch it on for every layer of the trunk (or of each model where roles have their own), for good.

    It works where a gradient is asked for, and never during sampling: a KV cache may not be written twice. The
    backward pass runs a layer with the adapter of its forward pass, whichever role has spoken since.
    """
    every: list[Any] = [layer for model in trunk.all_models() for layer in layers_of(model.get_decoder())[1]]
    for layer in every:
        if not hasattr(layer, "computed_again"):
            layer.forward = _twice(layer, layer.forward)
            layer.computed_again = True


def _twice(layer: torch.nn.Module, forward: Any) -> Any:
    adapted: list[Any] = [module for module in layer.modules() if hasattr(module, "active_adapters")]

    def again(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled() or kwargs.get("past_key_values") is not None:
            return forward(*args, **kwargs)
        then = [list(module.active_adapters) for module in adapted]

        def run(*inner: Any, **named: Any) -> Any:
            now = [list(module.active_adapters) for module in adapted]
            _activate(adapted, then)
            try:
                return forward(*inner, **named)
            finally:
                _activate(adapted, now)

        return checkpoint(run, *args, use_reentrant=False, **kwargs)

    return again


def _activate(modules: list[Any], names: list[list[str]]) -> None:
    """Which adapters speak; whether they learn is left alone (PEFT's own switch would freeze the others)."""
    for module, active in zip(modules, names, strict=True):
        module._active_adapter = active
