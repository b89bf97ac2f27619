"""The section `constraints` of a recipe: several constraints at once, each with its own threshold and multiplier.

    constraints:
      privacy: {categories: [S8], threshold: -0.5}
      severe: {scores: severe-scores, lr: 0.3}

A constraint speaks of all prompts, or of those whose rows carry some harm; of the cost model in the recipe's `scores`,
or of one in a folder of its own. What it says of its multiplier goes before what the section `multiplier` says.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from pydantic import Field, RootModel, field_validator

from poise.align.train.online_sections import MultiplierSection, check_multiplier, rule_of
from poise.data.harm_part import HarmPart, harm_part
from poise.errors import PoiseError

_OWN = ("categories", "severity_at_least", "scores")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,39}")
_WITHOUT: Mapping[str, str] = {
    "ppo": "ppo has no constraint",
    "repo": "repo holds every prompt to the one threshold of its section",
}
"""Methods that can't have several, and why."""


class ConstraintPart(MultiplierSection):
    """One constraint.

    Args:
        categories: codes or names; it speaks of prompts whose rows carry one of them. None given: of all.
        severity_at_least: of prompts whose rows carry at least this severity.
        scores: a folder of `poise align preference`, whose cost model it asks; else that of the recipe.
        rule, threshold, ...: as in the section `multiplier`.
    """

    categories: tuple[str, ...] = ()
    severity_at_least: Literal["minor", "moderate", "severe"] | None = None
    scores: str | None = Field(None, min_length=1)

    @field_validator("categories")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(category.code for category in sorted(harm_part(value).categories, key=lambda c: c.index))

    @property
    def part(self) -> HarmPart:
        """Which prompts."""
        return harm_part(self.categories, self.severity_at_least)

    def own(self) -> dict[str, Any]:
        """What it says of its multiplier."""
        return {key: getattr(self, key) for key in self.model_fields_set if key not in _OWN}


class ConstraintsSection(RootModel[dict[str, ConstraintPart]]):
    """Name of the constraint -> what it speaks of, and its multiplier."""

    root: dict[str, ConstraintPart] = Field(min_length=1)

    @field_validator("root")
    @classmethod
    def _named(cls, value: dict[str, ConstraintPart]) -> dict[str, ConstraintPart]:
        for name in value:
            if not _NAME.fullmatch(name):
                raise ValueError(f"{name!r} is no name of a constraint: a letter, then letters, digits, _ and -")
        return value

    def ordered(self) -> dict[str, ConstraintPart]:
        """Those that ask the recipe's own cost model first."""
        return dict(sorted(self.root.items(), key=lambda item: item[1].scores is not None))

    def words(self) -> Iterator[str]:
        """A line for people about each."""
        for name, each in self.root.items():
            prompts = "all prompts" if each.part.whole else f"prompts of {each.part.words}"
            asked = f"the cost model in {each.scores}" if each.scores else "the cost model of scores"
            yield f"constraint {name}: {prompts}, {asked}"


def multiplier_section(each: ConstraintPart, section: MultiplierSection, method: str) -> MultiplierSection:
    """What a constraint says of its multiplier, and the section where it says nothing.

    Nothing is taken from the section under another rule; its threshold speaks of the recipe's own cost model.
    """
    own = each.own()
    taken = {key: getattr(section, key) for key in section.model_fields_set}
    if each.rule is not None and each.rule != rule_of(method, section):
        taken = {}
    if each.scores is not None:
        taken.pop("threshold", None)
    return MultiplierSection(**{**taken, **own})


def check_constraints(constraints: ConstraintsSection, section: MultiplierSection, method: str, where: str) -> None:
    """Refuse what the method, the rules or the engine can't have.

    Raises:
        PoiseError: a method without several constraints, keys that a rule does not read, keys of the section
            `multiplier` that no constraint takes, or no constraint on the recipe's own cost model.
    """
    if method in _WITHOUT:
        do = "remove the section, or take ppo_lagrangian"
        raise PoiseError(_WITHOUT[method], where=f"{where}: constraints", do=do)
    if all(each.scores is not None for each in constraints.root.values()):
        what, do = "no constraint asks the cost model of scores", "leave scores out of one, and name that folder above"
        raise PoiseError(what, where=f"{where}: constraints", do=do)
    unread = set(section.model_fields_set)
    for name, each in constraints.root.items():
        whole = multiplier_section(each, section, method)
        check_multiplier(whole, method, f"{where}: constraints.{name}")
        unread -= whole.model_fields_set - set(each.own())
    if unread:
        key = min(unread)
        what = f"multiplier.{key} is read by no constraint"
        raise PoiseError(what, where=where, do="remove it: each constraint has its own or another rule")
