"""One place that seeds Python, NumPy and torch before weights are created."""

from __future__ import annotations

import random

import numpy as np
import torch


def seed_everything(seed: int) -> None:
    """Seed the three global generators; what is sampled for an item has its own seed (`uniform_seed`)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
