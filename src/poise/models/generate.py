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
from poise.models.decoding import last_hidden, steps_for
from poise.models.encoder import ignore
from poise.models.kv_cache import roomy_cache
from poise.models.trunk import REFERENCE, Trunk

_NUCLEUS_LIMIT = 256  # the nucleus is searched among this many most likely tokens


class Request(NamedTuple):
    """Prompt token ids (template included) and how to continue them."""

    prompt: Sequence[int]
    sampling: Sampling


class Sampled(NamedTuple):
    """Response token ids without the end token.

    Args:
        finished: false when the length limit or the end of the context cut it, and when there is a reason.
        reason: why nothing was sampled: "too-long" (the prompt fills the model's context) or "empty-prompt".
        end: the end token that was sampled, None where it was cut.
    """

    ids: list[int]
    finished: bool
    reason: str | None = None
    end: int | None = None

    @property
    def whole(self) -> list[int]:
        """The response with the end token that was sampled."""
        return self.ids if self.end is None else [*self.ids, self.end]


def chat_ids(trunk: Trunk, messages: Sequence[dict[str, str]]) -> list[int]:
    """Token ids of a conversation with the template's generation prompt."""
    encoded = trunk.tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, return_dict=True)
    ids: list[int] = list(encoded["input_ids"])
    return ids


def end_tokens(trunk: Trunk) -> list[int]:
    """Token ids that end a response: the tokenizer's own first, then those that the model's generation config names.

    A model fine-tuned from a base model ends its turns with the template's token, which is not always the tokenizer's.
    """
    own: int = trunk.tokenizer.eos_token_id
    named = getattr(trunk.model.generation_config, "eos_token_id", None)
    return [*dict.fromkeys([own, *(named if isinstance(named, list) else [] if named is None else [named])])]


def generate(
    trunk: Trunk,
    requests: Sequence[Request],
    *,
    role: str = REFERENCE,
    batch_size: int | None = None,
    on_rows: Callable[[int], object] = ignore,
) -> list[Sampled]:
    """Sample one continuation per request, in the order of the requests.

    A request that can't be served, because its prompt is empty or fills the model's context, gets a reason and the
    others go on. A response ends at the latest where the context ends, and is then not finished.

    Args:
        trunk: the language model.
        requests: prompts with their sampling; temperature 0 is greedy. Equal prompts are computed once a batch.
        role: adapter that speaks.
        batch_size: rows decoded together; None is 96, on a GPU, where a step of few rows takes as long, 256.
        on_rows: called with the number of rows after each batch, for progress.
    """
    limits = [_limit(trunk, request) for request in requests]
    out = [Sampled([], False, limit if isinstance(limit, str) else None) for limit in limits]
    able = [i for i, limit in enumerate(limits) if isinstance(limit, int)]
    if len(able) < len(requests):
        on_rows(len(requests) - len(able))
    if not able:
        return out
    if batch_size is None:
        batch_size = 256 if trunk.device.type == "cuda" else 96
    with trunk.role(role), trunk.autocast(), torch.inference_mode():
        for batch in batches([requests[i].prompt for i in able], batch_size):
            chosen = [able[at] for at in batch]
            rows = [(requests[i], limit) for i in chosen if isinstance(limit := limits[i], int)]
            for i, sampled in zip(chosen, _decode(trunk, rows), strict=True):
                out[i] = sampled
            on_rows(len(chosen))
    return out


def _limit(trunk: Trunk, request: Request) -> int | str:
    """New tokens that this request may get, or why it gets none."""
    context: int | None = getattr(trunk.model.config.get_text_config(), "max_position_embeddings", None)
    if not len(request.prompt):
        return "empty-prompt"
    if context is None:
        return request.sampling.max_new_tokens
    room = context - len(request.prompt)
    return min(request.sampling.max_new_tokens, room) if room > 0 else "too-long"


def batches(prompts: Sequence[Sequence[int]], size: int) -> list[list[int]]:
    """Places of the prompts in batches of at most `size`: near-equal lengths, shortest first, equal prompts together.

    Equal prompts are split between two batches only when they are more than a batch, or when keeping them together
    would leave more than a quarter of a batch empty: a decoding step costs more than one more prompt.
    """
    groups: dict[tuple[int, ...], list[int]] = {}
    for place, prompt in enumerate(prompts):
        groups.setdefault(tuple(prompt), []).append(place)
    out: list[list[int]] = [[]]
    for _, group in sorted(groups.items(), key=lambda item: (len(item[0]), item[1][0])):
        free = size - len(out[-1])
        if len(group) > free and free <= size // 4:
            out.append([])
        for place in group:
            if len(out[-1]) == size:
                out.append([])
            out[-1].append(place)
    return [batch for batch in out if batch]


def _prefill(trunk: Trunk, prompts: Sequence[Sequence[int]], cache: Any) -> tuple[Tensor, Tensor]:
    """Fill the cache with left-padded prompts; their last hidden states [U, H] and the mask int64[U, W]."""
    width = max(len(prompt) for prompt in prompts)
    ids = torch.zeros(len(prompts), width, dtype=torch.long)
    mask = torch.zeros(len(prompts), width, dtype=torch.long)
    for i, prompt in enumerate(prompts):
        ids[i, width - len(prompt) :] = torch.tensor(prompt)
        mask[i, width - len(prompt) :] = 1
    ids, mask = ids.to(trunk.device), mask.to(trunk.device)
    return last_hidden(trunk.decoder, ids, mask, (mask.cumsum(-1) - 1).clamp(min=0), cache), mask


def _decode(trunk: Trunk, rows: Sequence[tuple[Request, int]]) -> list[Sampled]:
    """Continue the rows (request, most new tokens) together; each distinct prompt is computed once."""
    device, ends = trunk.device, end_tokens(trunk)
    stops = torch.tensor(ends, device=device)
    numbers: dict[tuple[int, ...], int] = {}
    prompt_of = torch.tensor([numbers.setdefault(tuple(r.prompt), len(numbers)) for r, _ in rows], device=device)
    limits = torch.tensor([limit for _, limit in rows], device=device)
    steps = max(limit for _, limit in rows)
    uniform = torch.stack([_uniform(r.sampling, steps) for r, _ in rows]).to(device)
    temperature = torch.tensor([r.sampling.temperature for r, _ in rows], device=device)
    top_p = torch.tensor([r.sampling.top_p for r, _ in rows], device=device)
    alive = torch.arange(len(rows), device=device)
    written = torch.full((len(rows), steps), ends[0], device=device)
    cache = roomy_cache(trunk.model.config)
    hidden, mask = _prefill(trunk, list(numbers), cache)
    cache.batch_select_indices(prompt_of)
    hidden, decoding = hidden[prompt_of], steps_for(trunk, cache, mask[prompt_of], steps)
    keep = torch.ones(len(rows), dtype=torch.bool, device=device)
    for step in range(steps):
        logits = trunk.model.get_output_embeddings()(hidden)
        token = pick(logits.float(), uniform[alive, step], temperature[alive], top_p[alive])
        written[alive, step] = token
        keep = keep & ~torch.isin(token, stops) & (step + 1 < limits[alive])
        going = int(keep.sum())
        if not going:
            break
        if going < len(keep) and (order := decoding.leave(keep)) is not None:
            alive, token, keep = alive[order], token[order], keep[order]
        hidden = decoding.next(token)
    return [_sampled(ids[:limit], ends) for ids, (_, limit) in zip(written.tolist(), rows, strict=True)]


def _sampled(ids: list[int], ends: Sequence[int]) -> Sampled:
    at = next((place for place, token in enumerate(ids) if token in ends), None)
    return Sampled(ids, False) if at is None else Sampled(ids[:at], True, end=ids[at])


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
    if not bool((temperature > 0).any()):
        return logits.argmax(-1)
    probability = torch.softmax(logits / temperature.clamp(min=1e-6)[:, None], -1)
    if bool((top_p < 1).all()):
        probability, tokens = probability.topk(min(_NUCLEUS_LIMIT, logits.shape[-1]), dim=-1)
        before = probability.cumsum(-1) - probability
        probability = torch.where(before < top_p[:, None], probability, 0.0)
    elif bool((top_p >= 1).all()):
        tokens = None
    else:
        out = torch.empty(len(logits), dtype=torch.long, device=logits.device)
        for part in (top_p < 1, top_p >= 1):
            out[part] = pick(logits[part], uniform[part], temperature[part], top_p[part])
        return out
    total = probability.cumsum(-1)
    index = torch.searchsorted(total, (uniform * total[:, -1])[:, None], right=True)[:, 0]
    index = index.clamp(max=total.shape[-1] - 1)
    sampled = index if tokens is None else tokens.gather(-1, index[:, None])[:, 0]
    greedy = temperature <= 0
    return torch.where(greedy, logits.argmax(-1), sampled) if bool(greedy.any()) else sampled
