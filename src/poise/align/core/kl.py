"""Estimators of KL(pi || pi_ref) from single samples y ~ pi (Schulman, "Approximating KL divergence", 2020).

With u = log pi(y) - log pi_ref(y), all three are float[B, T] per token, zero where both policies agree:
k1 = u, unbiased, of either sign; k2 = u^2 / 2, biased, never negative; k3 = e^-u - 1 + u, unbiased, never negative.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor


def kl_k1(log_prob: Tensor, reference_log_prob: Tensor) -> Tensor:
    """u, the sample itself; both float[B, T], in nats."""
    return log_prob - reference_log_prob


def kl_k2(log_prob: Tensor, reference_log_prob: Tensor) -> Tensor:
    """u^2 / 2, whose gradient is that of the KL divergence when sampled on policy; both float[B, T]."""
    return 0.5 * (log_prob - reference_log_prob).square()


def kl_k3(log_prob: Tensor, reference_log_prob: Tensor) -> Tensor:
    """e^-u - 1 + u, the estimator in the loss of GRPO (arXiv 2402.03300, eq. 4); both float[B, T]."""
    difference = reference_log_prob - log_prob
    return torch.expm1(difference) - difference


KL_ESTIMATORS: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = MappingProxyType(
    {"k1": kl_k1, "k2": kl_k2, "k3": kl_k3}
)
"""By name, as settings write them."""
