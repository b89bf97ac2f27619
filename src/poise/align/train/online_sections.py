"""The sections of a recipe that online methods read: rollouts, the multiplier, looks on the way, the PTX term."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, Literal

from pydantic import Field

from poise.align.multiplier import (
    FixedMultiplier,
    LinearMultiplier,
    LogMultiplier,
    Multiplier,
    PIDMultiplier,
    RectifiedMultiplier,
    bounded_budget,
)
from poise.align.train.sections import Section
from poise.errors import PoiseError

Rule = Literal["log", "bounded", "linear", "pid", "fixed", "rectified"]

RULES: Mapping[str, Callable[..., Multiplier]] = {
    "log": LogMultiplier,
    "bounded": bounded_budget,
    "linear": LinearMultiplier,
    "pid": PIDMultiplier,
    "fixed": FixedMultiplier,
    "rectified": RectifiedMultiplier,
}
"""Rule -> what makes it; its parameters, with their defaults, are the keys that the rule reads."""

_ONLY: Mapping[str, Rule] = {"reward_shaping": "fixed", "repo": "rectified"}
"""Methods with one rule."""

CRITIC_FREE = ("grpo_lagrangian", "rloo_lagrangian")
"""Methods that compare a response with its siblings."""

OF_CRITICS = ("critic_learning_rate", "ratio_clip", "value_clip")
"""Keys of a rollout that these methods don't read."""


class RolloutSection(Section):
    """The loop.

    Args:
        steps: rollouts, each with its update.
        prompts_per_step, responses_per_prompt: of a rollout; critic-free methods need at least 2 responses.
        max_new_tokens: of a response.
        temperature: at which the actor samples.
        weights: what is trained of the actor, an adapter or all weights of the model; those take a rate some 100 times
            lower. Critics are adapters either way.
        actor_learning_rate, critic_learning_rate: of AdamW.
        updates_per_rollout: passes over a rollout.
        rows_per_batch: responses computed together; no effect on the result but for rounding.
        ratio_clip, value_clip, center_advantages: of methods with critics, as is the rate above; the last subtracts the
            mean over a prompt's responses, None does so where there are several.
        save_every: steps between checkpoints; no effect on the result.
        gradient_checkpointing: compute each layer's insides again in the backward pass instead of keeping them: less
            memory, one more forward pass, the same numbers.
    """

    steps: int = Field(20, ge=1)
    prompts_per_step: int = Field(12, ge=1)
    responses_per_prompt: int = Field(4, ge=1)
    max_new_tokens: int = Field(32, ge=1)
    temperature: float = Field(1.0, gt=0)
    weights: Literal["adapter", "all"] = "adapter"
    actor_learning_rate: float = Field(1e-3, gt=0)
    critic_learning_rate: float = Field(5e-4, gt=0)
    updates_per_rollout: int = Field(1, ge=1)
    rows_per_batch: int = Field(24, ge=1)
    ratio_clip: float = Field(0.2, gt=0)
    value_clip: float = Field(5.0, gt=0)
    center_advantages: bool | None = None
    save_every: int = Field(5, ge=1)
    gradient_checkpointing: bool = False


class MultiplierSection(Section):
    """The constraint: mean cost at or below a threshold, in spreads of the cost model.

    Args:
        rule: see `RULES`; None is the method's own, "log" for those that have none.
        threshold: mean cost allowed; None is what the folder of scores chose for its cost model.
        value: of the rule "fixed", lambda itself.
        initial, lr, maximum, window, delay, proportional, integral, derivative: of the rules that have them; what is
            not given is the rule's default.
    """

    rule: Rule | None = None
    threshold: float | None = None
    value: float | None = Field(None, ge=0)
    initial: float | None = Field(None, ge=0)
    lr: float | None = Field(None, gt=0)
    maximum: float | None = Field(None, ge=0)
    window: int | None = Field(None, ge=1)
    delay: int | None = Field(None, ge=0)
    proportional: float | None = Field(None, ge=0)
    integral: float | None = Field(None, gt=0)
    derivative: float | None = Field(None, ge=0)

    def given(self) -> dict[str, Any]:
        """The keys that the file has, but for the rule and a threshold of None."""
        return {
            key: getattr(self, key)
            for key in self.model_fields_set - {"rule"}
            if key != "threshold" or self.threshold is not None
        }


class EvaluationSection(Section):
    """Looks at the actor on prompts that it doesn't train on.

    Args:
        every: steps between them; the start and the end are looked at too. 0 never looks.
        prompts: at most so many held-out prompts.
        benign: so many harmless prompts that look harmful, of those that come with the package.
        max_new_tokens: of a greedy answer.
    """

    every: int = Field(10, ge=0)
    prompts: int = Field(32, ge=1)
    benign: int = Field(16, ge=0)
    max_new_tokens: int = Field(32, ge=1)


class PTXSection(Section):
    """The PTX term. Args: files, of instructions as `poise align sft` reads; coefficient of the term; rows a step."""

    files: str
    coefficient: float = Field(1.0, gt=0)
    rows_per_step: int = Field(8, ge=1)


def rule_of(method: str, section: MultiplierSection) -> Rule:
    """The rule of a method's multiplier."""
    return section.rule or _ONLY.get(method, "log")


def check_rollout(section: RolloutSection, method: str, where: str) -> None:
    """Refuse what the method does not read, or can't do.

    Raises:
        PoiseError: a key of critics for a method without, one response where it is compared with others, or centring
            where nothing is left.
    """
    where = f"{where}: rollout"
    if method in CRITIC_FREE:
        for key in OF_CRITICS:
            if key in section.model_fields_set:
                what = f"{key!r} is not read by {method}, which has no critics"
                raise PoiseError(what, where=where, do="remove the key")
        if section.responses_per_prompt < 2:
            what = f"responses_per_prompt is {section.responses_per_prompt}"
            raise PoiseError(what, where=where, do="give at least 2: a response is compared with its siblings")
        if section.center_advantages:
            what = f"center_advantages is set, but those of {method} are centred"
            raise PoiseError(what, where=where, do="remove the key")
    if section.center_advantages and section.responses_per_prompt < 2:
        what = "center_advantages is set, and responses_per_prompt is 1: all advantages would be zero"
        raise PoiseError(what, where=where, do="remove the key, or give at least 2")


def check_multiplier(section: MultiplierSection, method: str, where: str) -> None:
    """Refuse what the method or the rule does not read.

    Raises:
        PoiseError: a multiplier for PPO, another rule than the method's only one, a key that the rule lacks, or a value
            that it can't have.
    """
    where = f"{where}: multiplier"
    if method == "ppo":
        if section.model_fields_set:
            raise PoiseError("ppo has no constraint", where=where, do="remove the section, or take ppo_lagrangian")
        return
    rule = rule_of(method, section)
    if method in _ONLY and rule != _ONLY[method]:
        raise PoiseError(f"{method} has the rule {_ONLY[method]!r}, not {rule!r}", where=where, do="remove the key")
    if rule == "rectified" and method != "repo":
        raise PoiseError(f"the rule 'rectified' is that of repo, not of {method}", where=where, do="take another rule")
    if rule == "fixed" and section.value is None:
        raise PoiseError("the rule 'fixed' needs a value", where=where, do="give multiplier.value")
    read = set(inspect.signature(RULES[rule]).parameters) - ({"threshold"} if method == "repo" else set())
    for key, value in section.given().items():
        if key not in read:
            more = "; repo has repo.threshold" if (method, key) == ("repo", "threshold") else ""
            raise PoiseError(f"{key!r} is not read by the rule {rule!r}{more}", where=where, do="remove the key")
        if value is None and key != "maximum":  # whose null says that there is none
            raise PoiseError(f"{key!r} is null", where=where, do="give a number, or remove the key")
    multiplier_of(section, method, section.threshold or 0.0, where)


def multiplier_of(section: MultiplierSection, method: str, threshold: float, where: str = "multiplier") -> Multiplier:
    """The multiplier of a checked section; `threshold` is that of the constraint.

    Raises:
        PoiseError: values that do not fit together.
    """
    rule = rule_of(method, section)
    given = section.given()
    if "threshold" in inspect.signature(RULES[rule]).parameters:
        given["threshold"] = threshold
    try:
        return RULES[rule](**given)
    except ValueError as error:
        raise PoiseError(str(error), where=where, do="mend the section") from error
