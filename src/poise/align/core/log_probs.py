"""Log-probabilities of the responses of a padded batch, through `token_log_probs`, which never keeps the logits."""

from __future__ import annotations

import torch
from torch import Tensor

from poise.models.log_probs import token_log_probs

__all__ = ["response_log_probs", "token_log_probs"]


def response_log_probs(
    hidden: Tensor,
    weight: Tensor,
    ids: Tensor,
    response_mask: Tensor,
    temperature: float = 1.0,
    chunk_bytes: int | None = None,
) -> Tensor:
    """float32[B, T], zero outside the response; entry t belongs to token t, predicted from position t - 1.

    The head runs at response positions only. Works with either padding side: positions come from the mask.

    Args:
        hidden: float[B, T, H], final hidden states.
        weight: float[V, H].
        ids: int64[B, T].
        response_mask: bool[B, T], true at response tokens; the first column never is, as nothing predicts it.

    Raises:
        ValueError: the mask is true in the first column.
    """
    if bool(response_mask[:, 0].any()):
        raise ValueError("a response begins in the first column: nothing stands before it that could predict it")
    chosen = response_mask[:, 1:]
    values = token_log_probs(hidden[:, :-1][chosen], weight, ids[:, 1:][chosen], temperature, chunk_bytes)
    out = torch.zeros(ids.shape, dtype=torch.float32, device=hidden.device)
    return out.masked_scatter(response_mask, values)
