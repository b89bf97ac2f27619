"""Attention of an encoder that learns on a CPU: computed in float32, though all around it is bfloat16.

The CPU kernel's backward pass in bfloat16 takes more than twice as long as in float32 for heads of 32 (torch 2.13;
32 x 12 heads, 150 tokens, once: 174 and 75 ms forward and backward), and attention is then most of a training step.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

NAME = "sdpa_float32_backward"
"""As Transformers knows it once `attend_in_float32` was called."""


def attend_in_float32(model: Any) -> None:
    """Let a model on a CPU compute attention in float32 while gradients are on; one that doesn't use SDPA stays.

    Args:
        model: a Transformers model; without gradients it computes what it did before, bit for bit.
    """
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

    if getattr(model.config, "_attn_implementation", "") != "sdpa":
        return
    AttentionInterface.register(NAME, _attend)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    model.set_attn_implementation(NAME)


def _attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **how: Any
) -> tuple[Tensor, None]:
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    narrow = query.dtype
    if narrow != torch.bfloat16 or query.device.type != "cpu" or not torch.is_grad_enabled():
        out, _ = sdpa_attention_forward(module, query, key, value, mask, **how)
        return out, None
    with torch.autocast("cpu", enabled=False):
        wide = (part.float() for part in (query, key, value))
        out, _ = sdpa_attention_forward(module, *wide, mask, **how)
    return out.to(narrow), None
