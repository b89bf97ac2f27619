"""An actor whose weights are all trained, beside a frozen trunk whose adapters play every other role.

The preference models and critics of an online run stay what they were trained as, adapters; only the actor is a model
of its own, in float32 with a gradient and AdamW's two moments: 16 bytes a weight beside the trunk, where
`SeparateModels` has a model for each role.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from poise.models.packing import Packed
from poise.models.separate import SeparateModels
from poise.models.trunk import Trunk, load_causal_lm


class WholeActor(SeparateModels):
    """A trunk's roles, and "actor" as a model of its own that starts as the trunk's.

    What `lower` gives are the token ids, as the actor shares no layer; the trunk's shared layers run once for its roles
    when the first of them is asked.

    Args:
        trunk: with every role but the actor; its reference is the frozen model.
        source: folder or hub id of that model.

    Raises:
        PoiseError: it can't be loaded.
    """

    def __init__(self, trunk: Trunk, source: str | Path) -> None:
        nn.Module.__init__(self)
        self.trunk, self.device, self.tokenizer, self.heads = trunk, trunk.device, trunk.tokenizer, trunk.heads
        self.shared_layers, self.roles, self.frozen = 0, ("actor", *trunk.roles), ()
        actor, _ = load_causal_lm(source, trunk.device, torch.float32)
        self.models = nn.ModuleDict({"actor": actor.requires_grad_(True)})
        self._speaker = "actor"
        self._below: tuple[Tensor, Tensor] | None = None  # token ids, and what the trunk's shared layers made of them
        self.eval()

    def all_models(self) -> list[Any]:
        """The actor, and the model under the adapters."""
        return [self.models["actor"], *self.trunk.all_models()]

    def _model(self, role: str) -> Any:
        return self.models["actor"] if role == "actor" else self.trunk.model

    @contextmanager
    def role(self, name: str) -> Iterator[None]:
        """See `SeparateModels.role`."""
        if name == "actor":
            self._speaker = name
            yield
        else:
            with self.trunk.role(name):
                self._speaker = name
                yield

    def upper(self, lower: Tensor, role: str, packed: Packed | None = None) -> Tensor:
        """Final hidden states [B, T, H] of `role` from the token ids int64[B, T]."""
        if role == "actor":
            return super().upper(lower, role, packed)
        self._speaker = role
        if self._below is None or self._below[0] is not lower:
            self._below = lower, self.trunk.lower(lower, packed)
        below = self._below[1]
        if torch.is_inference_mode_enabled():
            self._below = None  # a gradient can't pass through it later
        return self.trunk.upper(below, role, packed)

    def parameters_of(self, role: str) -> list[nn.Parameter]:
        """All weights of the actor; adapter and head of another role."""
        return list(self.models["actor"].parameters()) if role == "actor" else self.trunk.parameters_of(role)

    def state_of(self, role: str) -> dict[str, Tensor]:
        """All tensors of one role by name."""
        return super().state_of(role) if role == "actor" else self.trunk.state_of(role)

    def load_role(self, role: str, state: dict[str, Tensor], saved_as: str | None = None) -> None:
        """Copy tensors saved by `state_of` into `role`, see `Trunk.load_role`."""
        if role == "actor":
            super().load_role(role, state, saved_as)
        else:
            self.trunk.load_role(role, state, saved_as)
