"""Which number format the frozen weights take on this machine."""

from __future__ import annotations

import torch


def frozen_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the processor multiplies it natively (CUDA, or a CPU with AMX or AVX512-BF16), else float32."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    if torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported():
        return torch.bfloat16
    return torch.float32


def default_device() -> torch.device:
    """CUDA when there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
