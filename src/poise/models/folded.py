"""LoRA layers in float32 that multiply once, by W + s B A, instead of by W and then by A and B.

h = W x + s B A x (Hu et al. 2021, "LoRA", eq. 3; s = alpha / r) is PEFT's order, which adds two thin products, a
scaling and a sum as wide as the output to every layer. For many tokens it is less work to add up the weights first;
the gradients of A and B need thin products alone. The result is the same to rounding (1e-6 of a gradient's norm), and
equal where B is zero. A step of a guard's training (32 windows of 85 tokens, rank 16, two cores with AVX2) took 1.20 s
before and 1.03 s now.

Bfloat16 stays with PEFT: the sum would lose what is small beside W.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear


def fold_adapters(model: nn.Module) -> None:
    """Let the LoRA layers (PEFT) of a model multiply once wherever that is exact and less work.

    A layer does what PEFT does in any other case: adapters off, merged, several at once, with dropout or a variant of
    LoRA, in another format than float32, weights below that learn, or few tokens. Where it multiplies once, hooks of
    the linear layer below are not called.
    """
    from peft.tuners.lora.layer import Linear

    for layer in model.modules():
        if isinstance(layer, Linear) and type(layer.get_base_layer()) is nn.Linear:
            layer.forward = MethodType(_forward, layer)


def _forward(self: Any, x: Tensor, *args: Any, **more: Any) -> Tensor:
    base = self.get_base_layer()
    name = self.active_adapters[0] if len(self.active_adapters) == 1 else ""
    if args or more or name not in self.lora_A or not _foldable(self, base, name, x):
        plain: Tensor = type(self).forward(self, x, *args, **more)
        return plain
    down, up = self.lora_A[name].weight, self.lora_B[name].weight
    out: Tensor = _Folded.apply(x, base.weight, base.bias, down, up, self.scaling[name])  # type: ignore[no-untyped-call]
    return out


def _foldable(layer: Any, base: nn.Linear, name: str, x: Tensor) -> bool:
    parts = (x, base.weight, layer.lora_A[name].weight)
    tokens = x.numel() // base.in_features
    return (
        tokens * (base.in_features + base.out_features) > 2 * base.in_features * base.out_features
        and not layer.disable_adapters
        and not layer.merged
        and name not in layer.lora_variant
        and layer.lora_B[name].bias is None
        and isinstance(layer.lora_dropout[name], nn.Identity)
        and all(part.dtype == torch.float32 for part in parts)
        and not torch.is_autocast_enabled(x.device.type)
        and not any(part.requires_grad for part in base.parameters())
    )


class _Folded(torch.autograd.Function):
    """x (W + s B A)^T + b. The sum is formed again for the gradient, so that no copy of the weights waits for it.

    Args:
        x: [..., in]; weight W: [out, in]; bias b: [out] or None; down A: [r, in]; up B: [out, r]; scale s.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, down: Tensor, up: Tensor, scale: float
    ) -> Tensor:
        ctx.save_for_backward(x, weight, down, up)
        ctx.scale = scale
        return linear(x, torch.addmm(weight, up, down, alpha=scale), bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, down, up = ctx.saved_tensors
        g, flat = grad.reshape(-1, grad.shape[-1]), x.reshape(-1, x.shape[-1])
        below = (g @ torch.addmm(weight, up, down, alpha=ctx.scale)).view_as(x) if ctx.needs_input_grad[0] else None
        of_down = ((g @ up).T @ flat).mul_(ctx.scale) if ctx.needs_input_grad[3] else None
        of_up = (g.T @ (flat @ down.T)).mul_(ctx.scale) if ctx.needs_input_grad[4] else None
        return below, None, None, of_down, of_up, None
