"""Reward and cost of responses on one trunk, in either of two forms.

* Two adapters, "reward" and "cost", each with its head: they share nothing but the frozen trunk.
* One adapter, "scores", with two heads: the layers above the split run once for both, so that a response that carries
  both labels is one forward and one backward pass.

On disk both are two roles with their own head. Of one adapter both roles hold the same tensors, so whoever loads
roles, such as the engine of the online methods, need not know which form was trained.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from poise.errors import PoiseError
from poise.models.packing import Group, Packed, pack_for, packed_scores
from poise.models.trunk import Tokens, Trunk, collate, last_kept
from poise.preference.pairs import Example

ROLES = ("reward", "cost")
SHARED = "scores"
"""Name of the one adapter that has both heads."""
_CHUNK = 24  # rows of near-equal length scored together, so that little of a step is padding


class Batch(NamedTuple):
    """Responses that run together. Args: rows: their places among all; inputs: tokens; lower: the shared layers'."""

    rows: list[int]
    inputs: Tokens | Packed
    lower: Tensor


class Scorer:
    """The models of a trunk that has the role `SHARED`, or the roles of `ROLES`, with a head for reward and for cost.

    Args:
        trunk: see `build_trunk`.
        max_tokens: of a batch, in which the prompt of several responses stands once; 0 pads a response to a row.
        rows: responses of a padded batch; 0 takes the usual number.
    """

    def __init__(self, trunk: Trunk, max_tokens: int = 0, rows: int = 0) -> None:
        self.trunk, self.max_tokens, self.rows = trunk, max_tokens, rows or _CHUNK
        self.adapters = (SHARED,) if SHARED in trunk.roles else ROLES

    def heads(self, adapter: str) -> tuple[str, ...]:
        """The scores that an adapter gives."""
        return ROLES if adapter == SHARED else (adapter,)

    def parameters(self, adapter: str) -> list[nn.Parameter]:
        """Of an adapter and its heads."""
        own = self.trunk.parameters_of(adapter)
        return own + [p for head in self.heads(adapter) if head != adapter for p in self.trunk.parameters_of(head)]

    def batches(self, examples: Sequence[Example]) -> list[Batch]:
        """All responses, through the layers that no adapter touches."""
        return [
            Batch(
                rows,
                inputs,
                self.trunk.lower(inputs.ids, inputs) if isinstance(inputs, Packed) else self.trunk.lower(inputs.ids),
            )
            for rows, inputs in self._inputs(examples)
        ]

    def scores(self, batches: Sequence[Batch], adapter: str) -> dict[str, Tensor]:
        """Scores float32[N] by head, in the order of the examples."""
        parts = [self._heads(batch, adapter) for batch in batches]
        place = torch.empty(sum(len(batch.rows) for batch in batches), dtype=torch.long)
        place[[row for batch in batches for row in batch.rows]] = torch.arange(len(place))
        return {head: torch.cat([part[head] for part in parts])[place] for head in self.heads(adapter)}

    def states(self) -> dict[str, dict[str, Tensor]]:
        """Role -> tensors by name, as `Trunk.load_role` takes them, for both forms."""
        if self.adapters == ROLES:
            return {role: self.trunk.state_of(role) for role in ROLES}
        adapter = self.trunk.state_of(SHARED)
        return {
            role: {name.replace(f".{SHARED}.", f".{role}."): tensor for name, tensor in adapter.items()}
            | self.trunk.state_of(role)
            for role in ROLES
        }

    def load(self, states: Mapping[str, dict[str, Tensor]]) -> None:
        """Restore `states`.

        Raises:
            PoiseError: another shape, or two adapters for a trunk that has one.
        """
        if self.adapters == ROLES:
            for role in ROLES:
                self.trunk.load_role(role, states[role])
            return
        bodies = [
            {name.replace(f".{role}.", f".{SHARED}."): t for name, t in states[role].items() if f".{role}." in name}
            for role in ROLES
        ]
        same = bodies[0].keys() == bodies[1].keys() and all(torch.equal(t, bodies[1][n]) for n, t in bodies[0].items())
        if not same:
            raise PoiseError("reward and cost have an adapter each", where="preference", do="set shared: false")
        self.trunk.load_role(SHARED, bodies[0])
        for role in ROLES:
            self.trunk.load_role(role, {n: t for n, t in states[role].items() if f".{role}." not in n})

    def _inputs(self, examples: Sequence[Example]) -> Iterator[tuple[list[int], Tokens | Packed]]:
        if self.max_tokens:
            groups: dict[tuple[int, ...], list[int]] = {}
            for row, example in enumerate(examples):
                groups.setdefault(tuple(example.prompt), []).append(row)
            order = [row for rows in groups.values() for row in rows]
            made = [Group(prompt, [examples[row].response for row in rows]) for prompt, rows in groups.items()]
            for packed in pack_for(self.trunk, made, self.max_tokens):
                yield [order[number] for number in packed.numbers.tolist()], packed
            return
        order = sorted(range(len(examples)), key=lambda row: tokens_of(examples[row]))
        for at in range(0, len(order), self.rows):
            rows = order[at : at + self.rows]
            chosen = [examples[row] for row in rows]
            yield rows, collate([e.prompt for e in chosen], [e.response for e in chosen], self.trunk.device)

    def _heads(self, batch: Batch, adapter: str) -> dict[str, Tensor]:
        if isinstance(batch.inputs, Packed):
            hidden = self.trunk.upper(batch.lower, adapter, batch.inputs)
            return {head: packed_scores(self.trunk, batch.inputs, hidden, head) for head in self.heads(adapter)}
        last = last_kept(self.trunk.upper(batch.lower, adapter), batch.inputs.length)[:, None]
        return {head: self.trunk.values(last, head)[:, 0] for head in self.heads(adapter)}


def size_of(batches: Sequence[Batch]) -> tuple[int, int]:
    """(tokens that are computed, padding among them)."""
    slots = sum(batch.inputs.ids.numel() for batch in batches)
    real = sum(b.inputs.real if isinstance(b.inputs, Packed) else int(b.inputs.length.sum()) for b in batches)
    return slots, slots - real


def tokens_of(example: Example) -> int:
    """Prompt and response tokens."""
    return len(example.prompt) + len(example.response)


def build_trunk(source: str | Path, *, shared: bool, adapted_layers: int, rank: int, seed: int) -> Trunk:
    """A trunk for a `Scorer`.

    Args:
        source: model folder or hub id.
        shared: one adapter with both heads, else two adapters.
        adapted_layers: upper layers that have adapters; 0 or more than there are for all.
        rank: of the adapters.
        seed: of their start.

    Raises:
        PoiseError: as `Trunk`.
    """
    from transformers import AutoConfig

    layers = AutoConfig.from_pretrained(source).num_hidden_layers if adapted_layers else 0
    return Trunk(
        source,
        roles=(SHARED,) if shared else ROLES,
        scalar_roles=ROLES,
        shared_layers=max(0, layers - adapted_layers),
        rank=rank,
        seed=seed,
    )
