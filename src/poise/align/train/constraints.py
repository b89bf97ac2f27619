"""What the section `constraints` becomes in a run: cost models with roles, limits, multipliers, and whose prompts.

The recipe's own cost model has the role "cost", further ones "cost_2", "cost_3", ... in the order of the section; two
constraints on one folder share a role. A prompt is known by what its rows carry (`poise.data.harm_part`); one of which
no row tells whether a constraint speaks of it falls outside that constraint and is counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from poise.align.engine import Constraint, EvalPrompt, ScoreScale
from poise.align.multiplier import Multipliers
from poise.align.train.constraint_sections import ConstraintsSection, multiplier_section
from poise.align.train.online_sections import MultiplierSection, multiplier_of
from poise.align.train.recipe import Recipe
from poise.align.train.scoring import Scores, open_scores
from poise.data.harm_part import HarmPart, any_known
from poise.data.records import PartialLabel
from poise.errors import PoiseError
from poise.models.bundled import resolve
from poise.models.trunk import Trunk

Harm = Mapping[str, tuple[PartialLabel, ...]]
_SHAPE = ("adapted_layers", "rank", "system", "max_prompt_tokens")


class Planned(NamedTuple):
    """One constraint. Args: role, of its cost model; threshold, in that model's spreads; part, whose prompts."""

    name: str
    role: str
    threshold: float
    multiplier: MultiplierSection
    part: HarmPart


class Plan(NamedTuple):
    """All of them, those on the recipe's own cost model first. Args: further, the folder of each further role."""

    constraints: list[Planned]
    further: dict[str, Scores]

    @property
    def asked(self) -> list[Constraint]:
        """For the engine, before the prompts are known."""
        return [Constraint(each.name, each.role) for each in self.constraints]

    @property
    def limits(self) -> dict[str, float]:
        """Threshold by constraint."""
        return {each.name: each.threshold for each in self.constraints}

    def load(self, trunk: Trunk) -> None:
        """The further cost models into their roles."""
        for role, scores in self.further.items():
            trunk.load_role(role, scores.roles["cost"], saved_as="cost")

    def scale(self, own: ScoreScale) -> ScoreScale:
        """That of the recipe's models, with the spreads of the further ones."""
        return own._replace(further={role: scores.scale.cost_std for role, scores in self.further.items()})

    def multiplier(self, method: str) -> Multipliers:
        """One for each.

        Raises:
            PoiseError: values of a section that do not fit together.
        """
        parts = {each.name: multiplier_of(each.multiplier, method, each.threshold) for each in self.constraints}
        return Multipliers(parts)

    def identity(self, section: ConstraintsSection) -> dict[str, Any]:
        """What makes two runs the same: as the file has it, with the limits, and digests in place of folders."""
        given = {name: each.model_dump(mode="json", exclude_unset=True) for name, each in section.root.items()}
        for each in self.constraints:
            given[each.name]["threshold"] = each.threshold
            if each.role in self.further:
                given[each.name]["scores"] = self.further[each.role].digest()
        return {f"constraints.{name}": values for name, values in given.items()}


class Spoken(NamedTuple):
    """Args: constraints, with their prompts; counts, of prompts by constraint: train, held_out, unknown."""

    constraints: list[Constraint]
    counts: dict[str, dict[str, int]]


def planned(recipe: Recipe, scores: Scores) -> Plan | None:
    """The constraints of a checked recipe; None where it has no such section.

    Args:
        scores: of the recipe.

    Raises:
        PoiseError: a folder holds no preference models, or they are not of the base model, shape, system message and
            prompt limit of the recipe's.
    """
    section: ConstraintsSection | None = recipe.parts["constraints"]
    if section is None:
        return None
    roles = {scores.digest(): "cost"}
    out = Plan([], {})
    for name, each in section.ordered().items():
        mine = scores
        if each.scores is not None:
            mine = open_scores(Path(each.scores))
            _check_folder(mine, scores, recipe.head.model, name)
            role = roles.setdefault(mine.digest(), f"cost_{len(roles) + 1}")
            if role != "cost":
                out.further[role] = mine
        multiplier = multiplier_section(each, recipe.parts["multiplier"], recipe.method.name)
        threshold = mine.threshold() if multiplier.threshold is None else multiplier.threshold
        out.constraints.append(Planned(name, roles[mine.digest()], threshold, multiplier, each.part))
    return out


def _check_folder(further: Scores, scores: Scores, model: str, name: str) -> None:
    """One line for what differs from the models of the recipe."""
    where, do = f"constraints.{name}: {further.folder}", f"train it as the models in {scores.folder} were"
    theirs, ours = (str(each.template.get("model", model)) for each in (further, scores))
    if resolve(theirs) != resolve(ours):
        raise PoiseError(f"its cost model is of {theirs!r}, that of scores of {ours!r}", where=where, do=do)
    for key in _SHAPE:
        there, here = further.template[key], scores.template[key]
        if there != here:
            raise PoiseError(f"its {key} is {there!r}, that of scores {here!r}", where=where, do=do)


def spoken_of(plan: Plan, train: Sequence[EvalPrompt], held_out: Sequence[EvalPrompt], harm: Harm) -> Spoken:
    """Which prompts each constraint speaks of.

    Args:
        harm: what the rows of a text tell, by text.

    Raises:
        PoiseError: a constraint speaks of no prompt that is trained on.
    """
    constraints, counts = [], {}
    for each in plan.constraints:
        told = {
            prompt.id: each.part.whole or any_known(each.part.holds(label) for label in harm.get(prompt.text, ()))
            for prompt in (*train, *held_out)
        }
        members = frozenset(name for name, answer in told.items() if answer)
        count = {"train": sum(p.id in members for p in train), "held_out": sum(p.id in members for p in held_out)}
        counts[each.name] = {**count, "unknown": sum(answer is None for answer in told.values())}
        if not count["train"]:
            what = f"speaks of none of {len(train):,} prompts ({each.part.words}; {_unknown(counts[each.name], told)})"
            do = "give prompts whose rows carry it, or leave the constraint out"
            raise PoiseError(what, where=f"constraints.{each.name}", do=do)
        constraints.append(Constraint(each.name, each.role, None if each.part.whole else members))
    return Spoken(constraints, counts)


def _unknown(count: Mapping[str, int], told: Mapping[str, object]) -> str:
    return f"{count['unknown']:,} of {len(told):,} do not tell"


def told_of(plan: Plan, counts: Mapping[str, Mapping[str, int]], history: Sequence[dict[str, float]]) -> dict[str, Any]:
    """What the report says of each constraint: whose prompts, limit, first and last cost that was measured, lambda."""
    out = {}
    for each in plan.constraints:
        costs = [row[f"cost_{each.name}"] for row in history if f"cost_{each.name}" in row]
        taught = plan.further[each.role].template.get("speaks_of") if each.role in plan.further else None
        out[each.name] = {
            "prompts_of": "all" if each.part.whole else each.part.words,
            "prompts": dict(counts[each.name]),
            "cost_model": each.role,
            **({"cost_model_speaks_of": taught} if taught else {}),
            "threshold": each.threshold,
            "first_cost": costs[0] if costs else None,
            "last_cost": costs[-1] if costs else None,
            "first_multiplier": history[0][f"multiplier_{each.name}"],
            "last_multiplier": history[-1][f"multiplier_{each.name}"],
        }
    return out
