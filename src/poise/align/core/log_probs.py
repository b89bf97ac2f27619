"""Log-probabilities of chosen tokens without the logits: the vocabulary head runs a piece at a time.

The logits of B x T positions over a vocabulary of V are by far the largest tensor of a small model's step: 2,048
positions over 49,152 words are 400 MB, and cross-entropy keeps them for the backward pass. Here the forward pass keeps
one number for each position (log sum exp) and the backward pass computes each piece of logits again; where the head is
frozen, it keeps the gradient's direction [N, H] instead and computes nothing twice. Pieces are rows, so softmax sees a
whole vocabulary at once; `chunk_bytes` bounds what is alive. First derivatives only.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK_BYTES = 32 * 2**20


def token_log_probs(
    hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float = 1.0, chunk_bytes: int = CHUNK_BYTES
) -> Tensor:
    """log softmax(hidden @ weight.T / temperature)[targets], float32[N].

    Args:
        hidden: float[N, H], the state that predicts each target.
        weight: float[V, H], the vocabulary head (its gradient is computed only where it is asked for).
        targets: int64[N].
        temperature: the one that the tokens were sampled with.
        chunk_bytes: float32 bytes of logits alive at once, at least one row.
    """
    rows = max(1, chunk_bytes // (4 * weight.shape[0]))
    out: Tensor = _TokenLogProbs.apply(  # type: ignore[no-untyped-call]
        hidden, weight, targets, temperature, rows, torch.is_grad_enabled() and hidden.requires_grad
    )
    return out


def response_log_probs(
    hidden: Tensor,
    weight: Tensor,
    ids: Tensor,
    response_mask: Tensor,
    temperature: float = 1.0,
    chunk_bytes: int = CHUNK_BYTES,
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


class _TokenLogProbs(torch.autograd.Function):
    """d log p(y) / d logits = (one-hot(y) - softmax) / temperature.

    Where the head is frozen (adapters), the slope for `hidden` is one row for each position and scales with the
    incoming gradient: the forward pass keeps it, [N, H], and no logits are computed twice.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float, rows: int, learns: bool
    ) -> Tensor:
        out = torch.empty(len(hidden), dtype=torch.float32, device=hidden.device)
        normalizer = torch.empty_like(out)
        kept = torch.empty_like(hidden) if learns and not weight.requires_grad else None
        for at in range(0, len(hidden), rows):
            piece = slice(at, at + rows)
            logits = _logits(hidden[piece], weight, temperature)
            normalizer[piece] = logits.logsumexp(-1)
            out[piece] = logits.gather(-1, targets[piece, None])[:, 0] - normalizer[piece]
            if kept is not None:
                softmax = logits.sub_(normalizer[piece, None]).exp_().to(weight.dtype)
                kept[piece] = (weight[targets[piece]] - softmax @ weight) / temperature
        if kept is not None:
            ctx.save_for_backward(kept)
        else:
            ctx.save_for_backward(hidden, weight, targets, normalizer)
        ctx.temperature, ctx.rows = temperature, rows
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        if not ctx.needs_input_grad[1]:
            (kept,) = ctx.saved_tensors
            return (kept * gradient[:, None]).to(kept.dtype), None, None, None, None, None
        hidden, weight, targets, normalizer = ctx.saved_tensors
        for_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        for_weight = torch.zeros_like(weight)
        for at in range(0, len(hidden), ctx.rows):
            piece = slice(at, at + ctx.rows)
            logits = _logits(hidden[piece], weight, ctx.temperature)
            slope = logits.sub_(normalizer[piece, None]).exp_().neg_()
            slope.scatter_add_(-1, targets[piece, None], torch.ones_like(slope[:, :1]))
            slope = slope.mul_(gradient[piece, None] / ctx.temperature).to(weight.dtype)
            if for_hidden is not None:
                for_hidden[piece] = slope @ weight
            for_weight.addmm_(slope.T, hidden[piece].to(weight.dtype))
        return for_hidden, for_weight, None, None, None, None


def _logits(hidden: Tensor, weight: Tensor, temperature: float) -> Tensor:
    logits = (hidden.to(weight.dtype) @ weight.T).float()
    return logits if temperature == 1.0 else logits.div_(temperature)
