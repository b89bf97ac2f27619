"""One online run, from a trunk with trained reward and cost models to an actor within its constraint."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from poise.align.engine.constraints import ONE, Constraint
from poise.align.engine.evaluation import Evaluation
from poise.align.engine.local import LocalLoop
from poise.align.engine.methods import Algorithm
from poise.align.engine.processes import by_first
from poise.align.engine.ptx import PTX
from poise.align.engine.rollout import ScoreScale
from poise.align.engine.settings import LoopSettings
from poise.align.multiplier import Multiplier, Multipliers
from poise.models.checkpoint import save_state
from poise.models.trunk import Trunk


class OnlineResult(NamedTuple):
    """Args: history, a row of measurements a step; evaluations, a row a look."""

    history: list[dict[str, float]]
    evaluations: list[dict[str, float]]


def train_online(
    trunk: Trunk,
    prompts: Sequence[tuple[str, list[int]]],
    method: Algorithm,
    multiplier: Multiplier | Multipliers | None,
    scale: ScoreScale,
    settings: LoopSettings,
    *,
    checkpoint: Path,
    checkpoint_every: int = 5,
    on_step: Callable[[dict[str, float]], object] = lambda row: None,
    constraints: Sequence[Constraint] = ONE,
    evaluation: Evaluation | None = None,
    ptx: PTX | None = None,
) -> OnlineResult:
    """Train the actor of `trunk` in place; continues from `checkpoint` where it is there.

    Args:
        trunk: a `Trunk`, or `SeparateModels`, with the roles of `online_roles(method, constraints)`.
        prompts: (id, token ids with template and generation prompt).
        method: the constants of an algorithm in `ONLINE`.
        multiplier: a rule of `align.multiplier`, `Multipliers` for several constraints, None for PPO alone.
        scale: of the reward and the cost model.
        settings: of the loop.
        checkpoint: file that holds all of the run's state, written every `checkpoint_every` steps and at the end.
        on_step: called with each new row of the history.
        constraints: what the multipliers speak of.
        evaluation, ptx: see their classes.

    Raises:
        PoiseError: wrong input; exit code 4 where a number is none, 3 where the disk is full. The last checkpoint
            stays as it was.
    """
    loop = LocalLoop(
        trunk,
        prompts,
        method,
        multiplier,
        scale,
        settings,
        constraints=constraints,
        evaluation=evaluation,
        ptx=ptx,
        pack=settings.responses_per_prompt > 1,
    )
    history = loop.run(checkpoint=checkpoint, checkpoint_every=checkpoint_every, on_step=on_step)
    by_first(lambda: save_state(checkpoint, loop.state_dict()))
    return OnlineResult(history, [] if loop.evaluator is None else loop.evaluator.rows)
