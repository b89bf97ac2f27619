"""Log-probabilities of chosen tokens without the logits: the vocabulary head runs a piece at a time.

The logits of B x T positions over a vocabulary of V are by far the largest tensor of a small model's step: 2,048
positions over 49,152 words are 400 MB, and cross-entropy keeps them for the backward pass. Here the forward pass keeps
one number for each position (log sum exp) and the backward pass computes each piece of logits again; where the head is
frozen, it keeps the gradient's direction [N, H] instead and computes nothing twice, and where all positions fit into
one piece it keeps that piece. Pieces are rows, so softmax sees a whole vocabulary at once; `chunk_bytes` bounds what is
alive. Products are in the head's format, or in autocast's where that is on. First derivatives only.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from poise.errors import PoiseError

CHUNK_BYTES = 32 * 2**20
"""About a processor's cache."""
_TIMES_ON_GPU = 8
"""Small pieces leave a GPU idle: 4,096 positions of a 2,048 wide model took 8.0 ms at 1, 5.6 at 8, 5.4 at 64 times."""


def token_log_probs(
    hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float = 1.0, chunk_bytes: int | None = None
) -> Tensor:
    """log softmax(hidden @ weight.T / temperature)[targets], float32[N].

    Args:
        hidden: float[N, H], the state that predicts each target.
        weight: float[V, H], the vocabulary head (its gradient is computed only where it is asked for).
        targets: int64[N].
        temperature: the one that the tokens were sampled with.
        chunk_bytes: float32 bytes of logits alive at once, at least one row; None is `CHUNK_BYTES`, on a GPU 8 times.
    """
    if chunk_bytes is None:
        chunk_bytes = CHUNK_BYTES * (_TIMES_ON_GPU if weight.device.type == "cuda" else 1)
    rows = max(1, chunk_bytes // (4 * weight.shape[0]))
    out: Tensor = _TokenLogProbs.apply(  # type: ignore[no-untyped-call]
        hidden, weight, targets, temperature, rows, torch.is_grad_enabled() and hidden.requires_grad
    )
    return out


def head_weight(model: Any) -> Tensor:
    """The vocabulary head [V, H] of a Transformers causal LM, once it is known that head x states are its logits.

    Raises:
        PoiseError: the model does more to its logits (a cap, a scale, a bias); log-probabilities would be wrong.
    """
    if model not in _plain_heads:
        _plain_heads[model] = split_decoder(model) is not None
    if not _plain_heads[model]:
        raise PoiseError(
            f"the logits of {model.config.model_type!r} are more than its vocabulary head's product",
            where="log-probabilities of responses",
            do="train it with poise align sft, or take another model",
        )
    weight: Tensor = model.get_output_embeddings().weight
    return weight


def own_format(model: Any) -> torch.autocast:
    """Multiply in bfloat16 if the model's weights are that, whatever format adapters in it have; else as around."""
    on = model.dtype == torch.bfloat16 or torch.is_autocast_enabled(model.device.type)
    return torch.autocast(model.device.type, dtype=torch.bfloat16, enabled=on)


_plain_heads: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()


@torch.no_grad()
def split_decoder(model: Any) -> Any:
    """The model below its vocabulary head; None when states @ head.T are not the model's logits."""
    was_training, device = model.training, next(model.parameters()).device
    ids = torch.arange(12, device=device).reshape(2, 6) % model.config.get_text_config().vocab_size
    model.eval()
    try:
        decoder, head = model.get_decoder(), model.get_output_embeddings()
        with own_format(model):
            states = decoder(input_ids=ids, use_cache=False).last_hidden_state
            split, whole = states.to(head.weight.dtype) @ head.weight.T, model(input_ids=ids, use_cache=False).logits
    except (AttributeError, TypeError):
        return None
    finally:
        model.train(was_training)
    same = split.shape == whole.shape and torch.allclose(split.float(), whole.float(), atol=1e-2, rtol=1e-2)
    return decoder if same else None


class _TokenLogProbs(torch.autograd.Function):
    """d log p(y) / d logits = (one-hot(y) - softmax) / temperature.

    Where the head is frozen (adapters), the slope for `hidden` is one row for each position and scales with the
    incoming gradient: the forward pass keeps it, [N, H], and no logits are computed twice.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float, rows: int, learns: bool
    ) -> Tensor:
        head = weight.to(_product_dtype(weight))
        out = torch.empty(len(hidden), dtype=torch.float32, device=hidden.device)
        normalizer = torch.empty_like(out)
        frozen = not ctx.needs_input_grad[1]
        kept = torch.empty_like(hidden) if learns and frozen else None
        slope = None
        for at in range(0, len(hidden), rows):
            piece = slice(at, at + rows)
            logits = _logits(hidden[piece], head, temperature)
            normalizer[piece] = logits.logsumexp(-1)
            out[piece] = logits.gather(-1, targets[piece, None])[:, 0] - normalizer[piece]
            if kept is not None:
                softmax = logits.sub_(normalizer[piece, None]).exp_().to(head.dtype)
                kept[piece] = (head[targets[piece]] - softmax @ head) / temperature
            elif not frozen and len(hidden) <= rows:
                slope = _slope(logits, normalizer, targets).to(head.dtype)
        ctx.temperature, ctx.rows, ctx.dtype = temperature, rows, head.dtype
        ctx.save_for_backward(*((kept,) if frozen else (hidden, weight, targets, normalizer, slope)))
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        if not ctx.needs_input_grad[1]:
            (kept,) = ctx.saved_tensors
            return (kept * gradient[:, None]).to(kept.dtype), None, None, None, None, None
        hidden, weight, targets, normalizer, slope_of_all = ctx.saved_tensors
        head, gradient = weight.to(ctx.dtype), gradient / ctx.temperature
        for_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        for_weight: Tensor | None = None
        for at in range(0, len(hidden), ctx.rows):
            piece = slice(at, at + ctx.rows)
            slope = slope_of_all
            if slope is None:
                logits = _logits(hidden[piece], head, ctx.temperature)
                slope = _slope(logits, normalizer[piece], targets[piece]).to(head.dtype)
            if for_hidden is not None:
                for_hidden[piece] = (slope @ head) * gradient[piece, None]
            scaled = (hidden[piece] * gradient[piece, None]).to(head.dtype)
            part = (slope.T @ scaled).to(weight.dtype)
            for_weight = part if for_weight is None else for_weight.add_(part)
        return for_hidden, torch.zeros_like(weight) if for_weight is None else for_weight, None, None, None, None


def _product_dtype(weight: Tensor) -> torch.dtype:
    device = weight.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype


def _logits(hidden: Tensor, head: Tensor, temperature: float) -> Tensor:
    logits = (hidden.to(head.dtype) @ head.T).float()
    return logits if temperature == 1.0 else logits.div_(temperature)


def _slope(logits: Tensor, normalizer: Tensor, targets: Tensor) -> Tensor:
    """one-hot - softmax [N, V], written over the logits."""
    slope = logits.sub_(normalizer[:, None]).exp_().neg_()
    return slope.scatter_add_(-1, targets[:, None], torch.ones_like(slope[:, :1]))
