"""A whole model for each role instead of one trunk with adapters: full fine-tuning, with `Trunk`'s verbs.

The loops that train a trunk train this as it is. Nothing is shared, so `lower` gives back the token ids and each role
computes all layers: six roles cost six models of memory and time, and the trained ones three times their weights
again for the gradient and AdamW's moments (`parameter_bytes`). Roles may be different models, as long as they read
the same tokens. The reference is a frozen copy of the model that the actor starts as.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from poise.errors import PoiseError
from poise.models.packing import Packed
from poise.models.precision import default_device, frozen_dtype
from poise.models.trunk import REFERENCE, ScalarHead, Trunk, load_causal_lm


class SeparateModels(Trunk):
    """Roles as models of their own.

    Args:
        sources: model folder or hub id of each role, "actor" among them.
        scalar_roles: roles with a scalar head.
        frozen: roles that are asked and not trained (reward and cost models of a constrained run): they are kept in
            the machine's number format, the others in float32.
        seed: initialises the heads.

    Raises:
        PoiseError: no actor, a model that can't be loaded, or one that reads other tokens than the actor.
    """

    def __init__(
        self,
        sources: Mapping[str, str | Path],
        *,
        scalar_roles: Sequence[str] = (),
        frozen: Sequence[str] = (),
        seed: int = 0,
        device: torch.device | None = None,
    ) -> None:
        nn.Module.__init__(self)
        if "actor" not in sources or REFERENCE in sources:
            raise PoiseError(
                f"roles are {', '.join(sources)}",
                where="separate models",
                do="name an actor; the reference is its copy",
            )
        self.device = device or default_device()
        self.shared_layers, self.roles, self.frozen = 0, tuple(sources), tuple(frozen)
        self.models = nn.ModuleDict()
        loaded: dict[str, tuple[Any, Any]] = {}
        for role, source in {**sources, REFERENCE: sources["actor"]}.items():
            if str(source) not in loaded:
                loaded[str(source)] = load_causal_lm(source, self.device, torch.float32)
            model, tokenizer = loaded[str(source)]
            _same_tokens(loaded[str(sources["actor"])][1] if role != "actor" else tokenizer, tokenizer, role, source)
            still = role == REFERENCE or role in frozen
            own = copy.deepcopy(model).to(frozen_dtype(self.device) if still else torch.float32)
            self.models[role] = own.requires_grad_(not still).eval()
        self.tokenizer = loaded[str(sources["actor"])][1]
        torch.manual_seed(seed)
        self.heads = nn.ModuleDict({r: ScalarHead(self._model(r).config.hidden_size) for r in scalar_roles})
        self.heads.to(self.device)
        self._speaker = "actor"
        self.eval()

    def all_models(self) -> list[Any]:
        """That of each role."""
        return list(self.models.values())

    def _model(self, role: str) -> Any:
        return self.models[role]

    def __getattr__(self, name: str) -> Any:
        """`model` and `decoder` are those of the role that speaks, or spoke last."""
        if name == "model":
            return self._model(self._speaker)
        if name == "decoder":
            return self._model(self._speaker).get_decoder()
        return super().__getattr__(name)

    @contextmanager
    def role(self, name: str) -> Iterator[None]:
        """Let the model of `name` speak; it stays the one whose vocabulary head counts until another speaks."""
        if name not in self.models:
            raise PoiseError(f"there is no role {name!r}", where="separate models", do="name it in sources")
        self._speaker = name
        yield

    def autocast(self) -> torch.autocast:
        """Multiply in the machine's number format; trained weights stay float32."""
        enabled = frozen_dtype(self.device) == torch.bfloat16
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=enabled)

    def lower(self, ids: Tensor, packed: Packed | None = None) -> Tensor:
        """The token ids int64[B, T] themselves: the roles share no layer."""
        return ids

    def upper(self, lower: Tensor, role: str, packed: Packed | None = None) -> Tensor:
        """Final hidden states [B, T, H] of `role` from the token ids int64[B, T]."""
        with self.role(role), self.autocast():
            inputs = self._inputs(packed)
            hidden: Tensor = self.decoder(input_ids=lower, **inputs).last_hidden_state
        return hidden

    def parameters_of(self, role: str) -> list[nn.Parameter]:
        """All weights of one role and its head, in a fixed order."""
        return [*self.models[role].parameters(), *(self.heads[role].parameters() if role in self.heads else ())]

    def state_of(self, role: str) -> dict[str, Tensor]:
        """All tensors of one role by name."""
        head = self.heads[role].named_parameters() if role in self.heads else ()
        own = {name: p.detach() for name, p in self.models[role].named_parameters()}
        return own | {f"head.{name}": p.detach() for name, p in head}

    @torch.no_grad()
    def load_role(self, role: str, state: dict[str, Tensor], saved_as: str | None = None) -> None:
        """Copy tensors saved by `state_of` into `role`; the head too, where `role` has one.

        Args:
            saved_as: the role's name at saving time; here it changes no tensor's name, and is said in the error.

        Raises:
            PoiseError: they are of another model.
        """
        mine = self.state_of(role)
        shapes = [{name: tuple(tensor.shape) for name, tensor in each.items()} for each in (mine, state)]
        if shapes[0] != shapes[1]:
            wrong = sorted(name for name, _ in shapes[0].items() ^ shapes[1].items())
            raise PoiseError(
                f"weights of role {saved_as or role!r} do not fit {role!r} at {wrong[0]}",
                where="separate models",
                do="use the model it was trained with",
            )
        for name, tensor in mine.items():
            tensor.copy_(state[name])


def parameter_bytes(trunk: Trunk, trained: Iterable[str]) -> int:
    """Bytes of all weights, and of gradients and AdamW's moments of the trained roles: the peak before activations.

    Args:
        trunk: shared or separate.
        trained: roles with an optimizer; the same weight in two roles counts once.
    """
    learning = {id(p): p for role in trained for p in trunk.parameters_of(role)}
    weights = {id(p): p for p in trunk.parameters()}
    return sum(p.numel() * p.element_size() for p in weights.values()) + sum(
        3 * p.numel() * p.element_size() for p in learning.values()
    )


def _same_tokens(actor: Any, other: Any, role: str, source: str | Path) -> None:
    """A reward model that reads other tokens would score another text than the actor wrote."""
    ends = actor.eos_token_id, other.eos_token_id
    if actor.get_vocab() != other.get_vocab() or ends[0] != ends[1]:
        raise PoiseError(
            f"the {role} model's tokenizer differs from the actor's ({len(other)} tokens, {len(actor)} there)",
            where=str(source),
            do="train it from a model with the actor's tokenizer",
        )
    if actor.chat_template != other.chat_template:
        raise PoiseError(
            f"the {role} model's chat template differs from the actor's", where=str(source), do="give both the same"
        )
