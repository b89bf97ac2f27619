"""What can't be run is refused before a model is asked anything."""

from __future__ import annotations

from collections.abc import Sequence

from poise.align.algorithms.grpo_lagrangian import GRPOLagrangian
from poise.align.algorithms.ppo import PPO
from poise.align.algorithms.rloo_lagrangian import RLOOLagrangian
from poise.align.engine.constraints import Constraint
from poise.align.engine.methods import Algorithm, online_roles
from poise.align.engine.processes import world
from poise.align.engine.settings import LoopSettings
from poise.errors import PoiseError
from poise.models.trunk import Trunk


def check(
    prompts: Sequence[tuple[str, list[int]]],
    trunk: Trunk,
    algorithm: Algorithm,
    constraints: Sequence[Constraint],
    settings: LoopSettings,
    free: bool,
) -> None:
    """Refuse what can't be run. Args: free, no multiplier was given.

    Raises:
        PoiseError: no prompts, too few a step for the processes, a role that the trunk lacks, settings that don't fit
            the method.
    """
    where = "align"
    if not prompts:
        raise PoiseError("no prompts to train on", where=where, do="check the train split of the prompts")
    if settings.prompts_per_step < world().size:
        what = f"{settings.prompts_per_step} prompts a step for {world().size} processes"
        raise PoiseError(what, where=where, do="raise prompts_per_step")
    if free and not isinstance(algorithm, PPO):
        raise PoiseError(f"{type(algorithm).__name__} has no multiplier", where=where, do="give one")
    roles = online_roles(algorithm, constraints)
    if lacking := [role for role in roles if role not in trunk.roles]:
        raise PoiseError(
            f"{type(algorithm).__name__} needs the roles {', '.join(lacking)}, the trunk has {', '.join(trunk.roles)}",
            where=where,
            do="build the trunk with the roles of online_roles",
        )
    if isinstance(algorithm, GRPOLagrangian | RLOOLagrangian):
        if settings.responses_per_prompt < 2:
            what = f"responses_per_prompt is {settings.responses_per_prompt}"
            raise PoiseError(what, where=where, do="give at least 2: a response is compared with its siblings")
        if settings.center_advantages:
            raise PoiseError("center_advantages is set, but these advantages are centred", where=where, do="unset it")
    if settings.center_advantages and settings.responses_per_prompt < 2:
        what = "center_advantages is set, and responses_per_prompt is 1: all advantages would be zero"
        raise PoiseError(what, where=where, do="unset it, or give at least 2")
