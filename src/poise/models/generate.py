"""Batched sampling with a KV cache, in which chance belongs to the item and not to the batch.

Each row brings its own seed; its uniform numbers are drawn from that seed and turned into tokens by inverting the
cumulative distribution. So a prompt gets the same random numbers whichever batch it lands in. Finished rows leave the
batch at once, and prompts are sorted by length so that little of a batch is padding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from poise.data.rows import Sampling
from poise.models.encoder import ignore
from poise.models.trunk import REFERENCE, Trunk

_NUCLEUS_LIMIT = 256  # the nucleus is searched among this many most likely tokens


class Request(NamedTuple):
    """Prompt token ids (template included) and how to continue them."""

    prompt: Sequence[int]
    sampling: Sampling


class Sampled(NamedTuple):
    """Response token ids without the end token; `finished` is false when the length limit cut it."""

    ids: list[int]
    finished: bool


def chat_ids(trunk: Trunk, messages: Sequence[dict[str, str]]) -> list[int]:
    """Token ids of a conversation with the template's generation prompt."""
    encoded = trunk.tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, return_dict=True)
    ids: list[int] = list(encoded["input_ids"])
    return ids


def generate(
    trunk: Trunk,
    requests: Sequence[Request],
    *,
    role: str = REFERENCE,
    batch_size: int = 96,
    on_rows: Callable[[int], object] = ignore,
) -> list[Sampled]:
    """Sample one continuation per request, in the order of the requests.

    Args:
        trunk: the language model.
        requests: prompts with their sampling; temperature 0 is greedy.
        role: adapter that speaks.
        batch_size: rows decoded together.
        on_rows: called with the number of rows after each batch, for progress.
    """
    order = sorted(range(len(requests)), key=lambda i: (len(requests[i].prompt), i))
    out: list[Sampled | None] = [None] * len(requests)
    with trunk.role(role), trunk.autocast(), torch.inference_mode():
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            for i, sampled in zip(chosen, _decode(trunk, [requests[i] for i in chosen]), strict=True):
                out[i] = sampled
            on_rows(len(chosen))
    return [sampled for sampled in out if sampled is not None]


def _decode(trunk: Trunk, rows: list[Request]) -> list[Sampled]:
    from transformers import DynamicCache

    device = trunk.device
    width, steps = max(len(r.prompt) for r in rows), max(r.sampling.max_new_tokens for r in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, width - len(row.prompt) :] = torch.tensor(row.prompt)
        mask[i, width - len(row.prompt) :] = 1
    uniform = torch.stack([_uniform(r.sampling, steps) for r in rows]).to(device)
    ids, mask = ids.to(device), mask.to(device)
    position = (mask.cumsum(-1) - 1).clamp(min=0)
    alive = torch.arange(len(rows), device=device)
    limits = torch.tensor([r.sampling.max_new_tokens for r in rows], device=device)
    temperature = torch.tensor([r.sampling.temperature for r in rows], device=device)
    top_p = torch.tensor([r.sampling.top_p for r in rows], device=device)
    written: list[list[int]] = [[] for _ in rows]
    finished = [False] * len(rows)
    cache: Any = DynamicCache(config=trunk.model.config)
    for step in range(steps):
        hidden = trunk.decoder(
            input_ids=ids, attention_mask=mask, position_ids=position, past_key_values=cache, use_cache=True
        ).last_hidden_state
        # The model's own `logits_to_keep=1` multiplies a strided slice: on a CPU 600 times slower than contiguous.
        logits = trunk.model.get_output_embeddings()(hidden[:, -1].contiguous())
        token = pick(logits.float(), uniform[alive, step], temperature[alive], top_p[alive])
        ended = token == trunk.tokenizer.eos_token_id
        for row, value, end in zip(alive.tolist(), token.tolist(), ended.tolist(), strict=True):
            finished[row] |= end
            if not end:
                written[row].append(value)
        keep = (~ended & (step + 1 < limits[alive])).nonzero()[:, 0]
        if len(keep) == 0:
            break
        if len(keep) < len(alive):
            cache.batch_select_indices(keep)
            alive, token, mask, position = alive[keep], token[keep], mask[keep], position[keep]
        ids, position = token[:, None], position[:, -1:] + 1
        mask = torch.cat([mask, mask.new_ones(len(keep), 1)], 1)
    return [Sampled(w, f) for w, f in zip(written, finished, strict=True)]


def _uniform(sampling: Sampling, steps: int) -> Tensor:
    generator = torch.Generator().manual_seed(sampling.seed)
    return torch.rand(steps, generator=generator)


def pick(logits: Tensor, uniform: Tensor, temperature: Tensor, top_p: Tensor) -> Tensor:
    """Turn uniform numbers into tokens by inverting the cumulative distribution.

    Args:
        logits: float[B, V].
        uniform: float[B] in [0, 1).
        temperature: float[B]; 0 picks the most likely token.
        top_p: float[B]; below 1, only the smallest set of likely tokens with that much mass is kept.

    Returns:
        int64[B] token ids.
    """
    greedy = logits.argmax(-1)
    probability = torch.softmax(logits / temperature.clamp(min=1e-6)[:, None], -1)
    if bool((top_p < 1).all()):
        probability, tokens = probability.topk(min(_NUCLEUS_LIMIT, logits.shape[-1]), dim=-1)
        before = probability.cumsum(-1) - probability
        probability = torch.where(before < top_p[:, None], probability, 0.0)
    elif bool((top_p >= 1).all()):
        tokens = None
    else:
        nucleus, plain = top_p < 1, top_p >= 1
        out = torch.empty_like(greedy)
        for part in (nucleus, plain):
            out[part] = pick(logits[part], uniform[part], temperature[part], top_p[part])
        return out
    total = probability.cumsum(-1)
    index = torch.searchsorted(total, (uniform * total[:, -1])[:, None], right=True)[:, 0]
    index = index.clamp(max=total.shape[-1] - 1)
    sampled = index if tokens is None else tokens.gather(-1, index[:, None])[:, 0]
    return torch.where(temperature > 0, sampled, greedy)
