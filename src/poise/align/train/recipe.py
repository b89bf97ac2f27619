"""The recipe of one alignment run: its head, its sections, and what must fit together.

The file is read elsewhere (`poise.cli`); here are its models. All defaults are here and in the methods' own constants.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, Field, field_validator

from poise.align.train.constraint_sections import ConstraintsSection, check_constraints
from poise.align.train.methods import METHODS, Method, method_of
from poise.align.train.online_sections import (
    CRITIC_FREE,
    OF_CRITICS,
    EvaluationSection,
    MultiplierSection,
    PTXSection,
    RolloutSection,
    check_multiplier,
    check_rollout,
)
from poise.align.train.sections import Section
from poise.errors import PoiseError


class Head(Section):
    """The top of a recipe.

    Args:
        name: of the run.
        seed: root of all chance.
        method: one of `methods.METHODS`.
        model: bundled name, model folder or hub id of the model to start from, which is the reference too.
        system: system message before every prompt; none by default.
        scores: folder that `poise align preference` wrote, for methods that score responses.
        sinks: where the steps are shown while they are made, see `engine.sinks`; no effect on the result.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)
    seed: int = Field(default=0, ge=0, lt=2**63)
    method: str
    model: str = Field(default="smollm2-135m-instruct", min_length=1)
    system: str | None = None
    scores: str | None = None
    sinks: tuple[Literal["jsonl", "tensorboard", "wandb"], ...] = ()

    @field_validator("method")
    @classmethod
    def _known(cls, value: str) -> str:
        try:
            return method_of(value).name
        except PoiseError as error:
            raise ValueError(f"{error.what}; {error.do}") from error


class AdapterSection(Section):
    """LoRA. Args: rank, its scaling is 2; adapted_layers, the upper layers that carry it, None for all."""

    rank: int = Field(8, ge=1)
    adapted_layers: int | None = Field(None, ge=1)


class DataSection(Section):
    """The rows.

    Args:
        files: files or folders of pairs, or tables of `poise data read`.
        format: of the files, see `poise data formats`; found from their columns where it is not given.
        rows: at most so many pairs, chosen by the hash of their prompts; 0 for all.
        held_out: share of the prompts that are only evaluated on.
        max_prompt_tokens: with the template; a longer prompt is cut at its start and counted.
        max_response_tokens: a longer response is cut at its end, has no end token then, and is counted.
    """

    files: str | list[str]
    format: str | None = None
    rows: int = Field(0, ge=0)
    held_out: float = Field(0.05, ge=0, lt=1)
    max_prompt_tokens: int = Field(256, ge=8)
    max_response_tokens: int = Field(256, ge=1)

    @property
    def paths(self) -> list[Path]:
        """`files` as paths."""
        return [Path(name) for name in ([self.files] if isinstance(self.files, str) else self.files)]


class TrainingSection(Section):
    """The loop of the offline methods; the optimizer is AdamW with betas 0.9 and 0.95.

    Args:
        epochs: passes over the pairs, of every step of a method that has several.
        max_steps: at most so many optimizer steps, 0 for no limit.
        learning_rate: at the top.
        warmup: share of the steps in which the rate rises; then it falls as half a cosine.
        weight_decay, clip: of AdamW; largest norm of the gradient.
        weights: what is trained, an adapter or all weights of the model; those take a rate some 100 times lower.
        pairs_per_step: pairs of an optimizer step.
        pairs_per_batch: pairs computed together; no effect on the result but for rounding.
        evaluate_every: steps between evaluations besides the first and the last, 0 for none.
        save_every: steps between checkpoints; no effect on the result.
        cache_mb: disk for the outputs of the layers below the adapters, which then run once for all epochs.
        gradient_checkpointing: compute each layer's insides again in the backward pass instead of keeping them: less
            memory, one more forward pass; no effect on the result.
    """

    epochs: int = Field(1, ge=1)
    max_steps: int = Field(0, ge=0)
    learning_rate: float = Field(2e-4, gt=0)
    warmup: float = Field(0.1, ge=0, lt=1)
    weight_decay: float = Field(0.0, ge=0)
    clip: float = Field(1.0, gt=0)
    weights: Literal["adapter", "all"] = "adapter"
    pairs_per_step: int = Field(16, ge=1)
    pairs_per_batch: int = Field(8, ge=1)
    evaluate_every: int = Field(0, ge=0)
    save_every: int = Field(20, ge=1)
    cache_mb: int = Field(2048, ge=0)
    gradient_checkpointing: bool = False


class Recipe(NamedTuple):
    """A checked recipe.

    Args:
        head: its top.
        method: the method.
        constants: the method's section.
        parts: the other sections that the method reads, by name, defaults where the file has none; None where there
            is no default, and for `adapter` where all weights are trained.
    """

    head: Head
    method: Method
    constants: BaseModel
    parts: Mapping[str, Any]

    @property
    def data(self) -> DataSection:
        """The section `data`, which every method has."""
        data: DataSection = self.parts["data"]
        return data

    def part(self, kind: Any) -> Any:
        """The method's own constants, as one of its NamedTuples."""
        return self.method.part(kind, self.constants)

    def settings(self) -> dict[str, Any]:
        """Everything that decides the result, by dotted key."""
        flat = {key: value for key, value in self.head.model_dump().items() if key not in ("name", "sinks")}
        for name, part in {**self.parts, self.method.name: self.constants}.items():
            free = _FREE.get(name, ())
            values = {} if part is None else _values(name, part)
            flat |= {f"{name}.{key}": value for key, value in values.items() if key not in free}
        plain: dict[str, Any] = json.loads(json.dumps(flat))
        return plain

    def sections(self) -> dict[str, Any]:
        """The recipe with every default written out, as the file would have it."""
        named = {**self.parts, self.method.name: self.constants}
        unread = dict(_UNREAD.get(self.method.kind, {}))
        if self.method.name in CRITIC_FREE:
            unread["rollout"] = OF_CRITICS
        head = self.head.model_dump(exclude=set(unread.get("", ())))
        written = {name: _values(name, part, unread.get(name, ())) for name, part in named.items() if part is not None}
        return head | {name: values for name, values in written.items() if values}


def _values(name: str, part: BaseModel, without: Sequence[str] = ()) -> dict[str, Any]:
    """A section's keys; of multipliers those that are given, as the defaults are the rule's."""
    given = name in ("multiplier", "constraints")
    values: dict[str, Any] = part.model_dump(exclude=set(without), exclude_unset=given)
    return values


_FREE: Mapping[str, tuple[str, ...]] = {
    "data": ("files",),
    "training": ("save_every", "cache_mb", "gradient_checkpointing"),
    "rollout": ("save_every", "gradient_checkpointing"),
    "ptx": ("files",),
}
"""Keys that another run may have and be the same: the rows are known by their digest."""

_PARTS: Mapping[str, Mapping[str, type[BaseModel]]] = {
    "sft": {"data": DataSection},
    "offline": {"adapter": AdapterSection, "data": DataSection, "training": TrainingSection},
    "online": {
        "data": DataSection,
        "rollout": RolloutSection,
        "multiplier": MultiplierSection,
        "constraints": ConstraintsSection,
        "evaluation": EvaluationSection,
        "ptx": PTXSection,
    },
}
"""Sections that methods of each kind read, besides their own."""

_OPTIONAL = ("ptx", "constraints")

_UNREAD: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "sft": {
        "": ("system", "scores", "sinks"),
        "data": tuple(name for name in DataSection.model_fields if name != "files"),
    },
    "online": {"": ("system",), "data": ("max_prompt_tokens", "max_response_tokens")},
}
"""Keys of the head and of sections that mean nothing to methods of a kind."""

_INSTEAD: Mapping[str, str] = {
    "sft": "remove it; the section sft has its own keys",
    "online": "remove it; the folder of scores decides it",
}


def sections() -> dict[str, type[BaseModel]]:
    """Section -> its model, for whoever reads the file."""
    parts = {name: model for kind in _PARTS.values() for name, model in kind.items()}
    return parts | {name: method.section() for name, method in METHODS.items()}


def recipe_of(head: Head, found: Mapping[str, BaseModel], where: str) -> Recipe:
    """Put the parts of a file together.

    Args:
        head: its top.
        found: its sections, checked.
        where: the file, for messages.

    Raises:
        PoiseError: a section or key that the method does not read, or something that it needs is missing.
    """
    method = METHODS[head.method]
    parts = _PARTS[method.kind]
    for name in found:
        if name not in parts and name != method.name:
            raise PoiseError(f"section {name!r} is not read by method {method.name!r}", where=where, do="remove it")
    if "data" not in found:
        raise PoiseError("has no section 'data'", where=where, do="name the rows under data.files")
    for name, keys in _UNREAD.get(method.kind, {}).items():
        given = head.model_fields_set if not name else found[name].model_fields_set if name in found else set()
        for key in keys:
            if key in given and getattr(found[name] if name else head, key) is not None:
                what = f"{name}{'.' if name else ''}{key} is not read by method {method.name!r}"
                raise PoiseError(what, where=where, do=_INSTEAD[method.kind])
    scored = "model" in method.needs
    if scored != (head.scores is not None):
        what = "needs scores" if scored else "reads no scores"
        do = "give the folder that `poise align preference` wrote" if scored else "remove the key"
        raise PoiseError(f"method {method.name!r} {what}", where=f"{where}: scores", do=do)
    filled = {name: found.get(name) or (None if name in _OPTIONAL else model()) for name, model in parts.items()}
    training = filled.get("training")
    if isinstance(training, TrainingSection) and training.weights == "all":
        if "adapter" in found and found["adapter"].model_fields_set:
            what = "section 'adapter' is not read where training.weights is 'all'"
            raise PoiseError(what, where=where, do="remove it (or --set adapter=null)")
        filled["adapter"] = None
    constants = found.get(method.name) or method.section()()
    recipe = Recipe(head, method, constants, filled)
    if method.kind == "online":
        check_rollout(recipe.parts["rollout"], method.name, where)
        multiplier, several = recipe.parts["multiplier"], recipe.parts["constraints"]
        if several is None:
            check_multiplier(multiplier, method.name, where)
        else:
            check_constraints(several, multiplier, method.name, where)
    return recipe
