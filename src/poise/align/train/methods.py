"""The methods that `poise align train` knows: what each is, what it needs, and the section that a recipe gives it.

A section has the constants of the method's own NamedTuple, with the defaults that stand there, and beside them what
only a whole run needs: whose order makes the chosen response, which weights are trained, how two steps are merged.
"""

from __future__ import annotations

import typing
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, create_model

from poise.align.algorithms.bfpo import BFPO
from poise.align.algorithms.dpo import DPO, IPO
from poise.align.algorithms.grpo_lagrangian import GRPOLagrangian
from poise.align.algorithms.ppo import PPO
from poise.align.algorithms.ppo_lagrangian import PPOLagrangian
from poise.align.algorithms.repo import RePO
from poise.align.algorithms.reward_shaping import RewardShaping
from poise.align.algorithms.rloo_lagrangian import RLOOLagrangian
from poise.align.algorithms.sacpo import SACPO
from poise.align.algorithms.safe_dpo import SafeDPO
from poise.align.sft import Settings
from poise.errors import PoiseError

Kind = Literal["sft", "offline", "online"]

_POSITIVE = ("beta", "tau", "clip", "score_clip", "multiplier", "rank", "epochs", "batch_size", "accumulate")
_NOT_NEGATIVE = ("kl", "margin", "gamma", "lam", "learning_rate", "weight_decay", "max_steps", "eval_every")
_BOUNDS: dict[str, Any] = {
    **{name: Field(gt=0) for name in _POSITIVE},
    **{name: Field(ge=0) for name in _NOT_NEGATIVE},
    "b1": Field(gt=1),
}


class LabelOption(NamedTuple):
    """Args: label, which order makes the chosen response; "better" takes a single overall preference too."""

    label: Literal["better", "safer"] = "better"


class IPOOptions(NamedTuple):
    """Args: label as for DPO; average, whether log-probabilities are divided by the tokens of a response."""

    label: Literal["better", "safer"] = "better"
    average: bool = False


class BFPOOptions(NamedTuple):
    """Args: selective, train the adapters of the down-projections alone."""

    selective: bool = False


class SACPOOptions(NamedTuple):
    """Args: merge, the weight of the second step in P-SACPO's merge, None for the second step as it is."""

    merge: Annotated[float, Field(ge=0, le=1)] | None = None


class Constraint(NamedTuple):
    """MoCAN's and PeCAN's constants. Args: beta of the dual and of DPO; threshold, d, on the mean cost."""

    beta: float = 0.1
    threshold: float = 0.0


class DeRTaOptions(NamedTuple):
    """Args: refusal, the word whose first token every position of a harmful answer learns."""

    refusal: Annotated[str, Field(min_length=1)] = "Sorry"


class Method(NamedTuple):
    """One method.

    Args:
        name: as a recipe says it, and the name of its section.
        kind: "sft", "offline" from pairs, or "online" from its own responses.
        paper: where it is from.
        needs: what its data, or its scores, must hold.
        parts: NamedTuples whose fields, with their defaults, are the keys of its section.
    """

    name: str
    kind: Kind
    paper: str
    needs: str
    parts: tuple[Any, ...]

    def section(self) -> type[BaseModel]:
        """The pydantic model of its section; an unknown key is refused."""
        return _model(f"{self.name} section", *self.parts)

    def part(self, kind: Any, values: BaseModel) -> Any:
        """One of `parts`, filled from a checked section."""
        return _filled(kind, values.model_dump())


_PAIRS = "pairs with the more helpful response"
_FLAGS = f"{_PAIRS} and safe or unsafe for both"
_SCORES = "prompts; a reward and a cost model (scores)"

METHODS: Mapping[str, Method] = {
    method.name: method
    for method in (
        Method("sft", "sft", "Alpaca, safe-rlhf", "prompts with answers", (Settings,)),
        Method("dpo", "offline", "arXiv 2305.18290", f"{_PAIRS}, or the safer one", (DPO, LabelOption)),
        Method("ipo", "offline", "arXiv 2310.12036", f"{_PAIRS}, or the safer one", (IPO, IPOOptions)),
        Method("safe_dpo", "offline", "arXiv 2505.20065", _FLAGS, (SafeDPO,)),
        Method("bfpo", "offline", "arXiv 2408.15313", _FLAGS, (BFPO, BFPOOptions)),
        Method("sacpo", "offline", "arXiv 2404.11049", f"{_PAIRS}; pairs with the safer one", (SACPO, SACPOOptions)),
        Method("mocan", "offline", "arXiv 2405.19544", "two responses each; a reward and a cost model", (Constraint,)),
        Method("pecan", "offline", "arXiv 2405.19544", f"{_PAIRS}; pairs with the safer one", (Constraint,)),
        Method("derta", "offline", "arXiv 2407.09121", "pairs with one safe response", (DeRTaOptions,)),
        Method("ppo", "online", "arXiv 1707.06347", "prompts; a reward model (scores)", (PPO,)),
        Method("ppo_lagrangian", "online", "arXiv 2310.12773", _SCORES, (PPOLagrangian,)),
        Method("reward_shaping", "online", "arXiv 2310.12773", _SCORES, (RewardShaping,)),
        Method("grpo_lagrangian", "online", "arXiv 2602.05863", _SCORES, (GRPOLagrangian,)),
        Method("rloo_lagrangian", "online", "arXiv 2402.14740", _SCORES, (RLOOLagrangian,)),
        Method("repo", "online", "arXiv 2410.19933", _SCORES, (RePO,)),
    )
}
"""Name -> method, in the order of `poise align ls`."""


def method_of(name: str) -> Method:
    """The method of that name.

    Raises:
        PoiseError: there is none; the message names the nearest one.
    """
    if name not in METHODS:
        near = get_close_matches(name, METHODS, n=1, cutoff=0.4)
        do = f"did you mean {near[0]!r}?" if near else f"one of {', '.join(METHODS)}"
        raise PoiseError(f"no method {name!r}", where="method", do=do)
    return METHODS[name]


def _model(name: str, *parts: Any) -> type[BaseModel]:
    """A strict pydantic model with the fields, types and defaults of some NamedTuples."""
    fields: dict[str, Any] = {}
    for part in parts:
        kinds = typing.get_type_hints(part, include_extras=True)
        for field in (name for name in part._fields if name != "seed"):  # the seed is the recipe's
            kind, default = kinds[field], part._field_defaults[field]
            if hasattr(kind, "_fields"):
                inner = _model(f"{name} {field}", kind)
                fields[field] = (inner, inner(**default._asdict()))
            else:
                bounded = Annotated[kind, _BOUNDS[field]] if field in _BOUNDS else kind
                fields[field] = (bounded, default)
    return create_model(name, __config__=ConfigDict(extra="forbid", frozen=True), **fields)


def _filled(kind: Any, values: Mapping[str, Any]) -> Any:
    kinds = typing.get_type_hints(kind)
    inner = {name: kinds[name] for name in kind._fields if hasattr(kinds[name], "_fields")}
    own = [name for name in kind._fields if name in values]
    return kind(**{name: _filled(inner[name], values[name]) if name in inner else values[name] for name in own})
