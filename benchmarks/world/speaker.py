"""The model: a small Llama over the world's tokens, its pre-training, samples and log-probabilities.

All prompts are of one length, so nothing is padded but the end of responses.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from poise.align.core import token_log_probs
from world.grammar import World


class Shape(NamedTuple):
    """Args: layers, width, heads of the decoder; width of its perceptrons."""

    layers: int = 6
    width: int = 192
    heads: int = 6
    inner: int = 512


class Responses(NamedTuple):
    """Args: ids int64[N, R], filled with EOS; mask bool[N, R], true up to the first EOS and with it."""

    ids: Tensor
    mask: Tensor

    def rows(self, which: Tensor) -> Responses:
        """Those of int64[K] or bool[N]."""
        return Responses(self.ids[which], self.mask[which])


def responses(ids: Tensor, eos: int) -> Responses:
    """With the mask that the ends give: everything after the first EOS is no part of the response."""
    ended = (ids == eos).cumsum(-1)
    return Responses(torch.where(ended > 0, eos, ids), (ended - (ids == eos).long()) == 0)


def make(world: World, shape: Shape, seed: int) -> Any:
    """A fresh model with random weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=world.vocabulary,
        hidden_size=shape.width,
        intermediate_size=shape.inner,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        max_position_embeddings=64,
        tie_word_embeddings=True,
        bos_token_id=world.bos,
        eos_token_id=world.eos,
        pad_token_id=world.eos,
    )
    return LlamaForCausalLM(config)


def copied(model: Any) -> Any:
    """The same model again, to be trained apart."""
    return copy.deepcopy(model)


def hidden(model: Any, ids: Tensor) -> Tensor:
    """Final states float32[N, T, H]; multiplied in bfloat16 where the processor does that in hardware."""
    fast = torch.cpu._is_amx_tile_supported()
    with torch.autocast("cpu", torch.bfloat16, enabled=fast):
        states: Tensor = model.model(input_ids=ids, use_cache=False).last_hidden_state
    return states.float()


def label_log_probs(model: Any, states: Tensor, labels: Tensor) -> Tensor:
    """log p of labels[:, t] after states[:, t], float32[N, T]. Args: states float[N, T, H], labels int64[N, T]."""
    flat = token_log_probs(states.flatten(0, 1), model.lm_head.weight, labels.flatten())
    return flat.reshape(labels.shape)


def before_tokens(model: Any, prompt: Tensor, ids: Tensor) -> Tensor:
    """The state that predicts each response token, float32[N, R, H]."""
    return hidden(model, torch.cat([prompt, ids[:, :-1]], 1))[:, prompt.shape[1] - 1 :]


def log_probs(model: Any, prompt: Tensor, said: Responses) -> Tensor:
    """Of response tokens, float32[N, R], zero after the end."""
    return torch.where(said.mask, label_log_probs(model, before_tokens(model, prompt, said.ids), said.ids), 0.0)


@torch.no_grad()
def sample(model: Any, world: World, prompt: Tensor, chance: torch.Generator) -> Responses:
    """One response for each prompt int64[N, P], at temperature 1."""
    from transformers import DynamicCache

    cache, ids, out = DynamicCache(config=model.config), prompt, []
    for _ in range(world.outputs + 1):
        logits = model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[:, -1]
        noise = torch.rand(logits.shape, generator=chance).clamp_(1e-10, 1 - 1e-7)
        ids = (logits - (-noise.log()).log()).argmax(-1, keepdim=True)
        out.append(ids)
    return responses(torch.cat(out, 1), world.eos)


class PreTraining(NamedTuple):
    """Args: steps, rows of a step, peak rate; share of answers that refuse, blind to what is asked."""

    steps: int = 600
    rows: int = 96
    rate: float = 1.5e-3
    refusals: float = 0.15


def pre_train(model: Any, world: World, told: PreTraining, seed: int, say: Callable[[str], object]) -> list[float]:
    """Next-token training on texts and answers of every kind, in place; returns the loss of each step.

    The model learns to obey all requests, and to refuse some at random: it can refuse, and does not know when.
    """
    chance = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), told.rate, betas=(0.9, 0.95), weight_decay=0.01)
    losses: list[float] = []
    for step in range(told.steps):
        warm, gone = min(1.0, (step + 1) / (0.05 * told.steps)), step / told.steps
        for group in optimizer.param_groups:
            group["lr"] = told.rate * warm * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * gone)))
        requests = world.any_requests(told.rows, chance)
        refuses = torch.rand(told.rows, 1, generator=chance) < told.refusals
        said = responses(torch.where(refuses, world.refusal(told.rows), requests.answer), world.eos)
        ids = torch.cat([requests.prompt, said.ids], 1)
        learnt = torch.cat([torch.ones_like(requests.prompt, dtype=torch.bool), said.mask], 1)[:, 1:]
        log_prob = label_log_probs(model, hidden(model, ids[:, :-1]), ids[:, 1:])
        loss = -log_prob[learnt].mean()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(float(loss.detach()))
        if step % 50 == 49:
            say(f"pre-training step {step + 1} of {told.steps}, loss {sum(losses[-50:]) / 50:.3f}")
    return losses
