"""A tiny online run of any method, for tests and, as a script, for a process that is killed.

python online_case.py MODEL METHOD CHECKPOINT FOLDER STEPS KILLED_AT
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from poise.align.algorithms.ppo_lagrangian import PPOLagrangian
from poise.align.algorithms.repo import RePO
from poise.align.engine import (
    ONLINE,
    PTX,
    Algorithm,
    Constraint,
    EvalPrompt,
    Evaluation,
    LocalLoop,
    LoopSettings,
    ScoreScale,
    online_roles,
)
from poise.align.engine.constraints import ONE
from poise.align.engine.processes import joined
from poise.align.multiplier import FixedMultiplier, LogMultiplier, Multiplier, Multipliers, RectifiedMultiplier
from poise.errors import PoiseError
from poise.models.trunk import Trunk

PROMPTS = [(f"p-{i}", [1, 20 + i, 30, *range(40, 40 + i)]) for i in range(5)]
SETTINGS = LoopSettings(
    steps=4,
    prompts_per_step=3,
    responses_per_prompt=2,
    max_new_tokens=6,
    temperature=1.0,
    actor_learning_rate=1e-2,
    critic_learning_rate=1e-2,
    updates_per_rollout=2,
    rows_per_batch=4,
    ratio_clip=0.2,
    value_clip=5.0,
    center_advantages=False,
    seed=3,
)
SCALE = ScoreScale(0.1, 2.0, 0.5)


def constants(name: str) -> Algorithm:
    """Those of a method, so that each meets something: with the default 0 no prompt of the tiny world violates."""
    if name == "repo":
        return RePO(PPOLagrangian(), threshold=-1.1)
    return ONLINE[name]()


def rule(name: str) -> Multiplier | None:
    """The multiplier that goes with a method."""
    rules: Mapping[str, Callable[[], Multiplier | None]] = {
        "ppo": lambda: None,
        "reward_shaping": lambda: FixedMultiplier(0.5),
        "repo": lambda: RectifiedMultiplier(threshold=-1.1, initial=0.5, maximum=5.0),
    }
    return rules.get(name, lambda: LogMultiplier(threshold=-1.1, window=8))()


def fill(trunk: Trunk, costs: Sequence[str] = ("cost",)) -> Trunk:
    """Random weights in the reward and the cost models, the same in every trunk."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for role in ("reward", *costs):
            for tensor in trunk.state_of(role).values():
                tensor.add_(torch.randn(tensor.shape, generator=generator) * 0.1)
    return trunk


def make(
    model: Path,
    name: str,
    *,
    constraints: Sequence[Constraint] = ONE,
    multiplier: Multiplier | Multipliers | None = None,
    algorithm: Algorithm | None = None,
    evaluation: Evaluation | None = None,
    ptx: PTX | None = None,
    pack: bool = False,
    **changes: Any,
) -> LocalLoop:
    """A fresh loop on a fresh trunk."""
    algorithm = algorithm or constants(name)
    roles = online_roles(algorithm, constraints)
    trunk = Trunk(model, roles=roles, scalar_roles=roles[1:], shared_layers=2, rank=4)
    fill(trunk, tuple(dict.fromkeys(each.role for each in constraints)))
    return LocalLoop(
        trunk,
        PROMPTS,
        algorithm,
        multiplier or rule(name),
        SCALE,
        SETTINGS._replace(**changes),
        constraints=constraints,
        evaluation=evaluation,
        ptx=ptx,
        pack=pack,
    )


def looks(folder: Path, **changes: Any) -> Evaluation:
    """Three held-out prompts and two benign ones, looked at every second step."""
    prompts = [EvalPrompt(f"e-{i}", f"question {i}", [1, 90 + i, *range(50, 50 + i)]) for i in range(3)]
    benign = [EvalPrompt(f"b-{i}", f"harmless {i}", [1, 120 + i]) for i in range(2)]
    return Evaluation(prompts, benign, 2, folder, max_new_tokens=6)._replace(**changes)


def timeless(history: list[dict[str, float]]) -> list[dict[str, float]]:
    """History without the stopwatch."""
    return [{k: v for k, v in row.items() if not k.startswith("seconds")} for row in history]


def exact() -> None:
    """Float32 on the CPU, whatever this machine would choose."""
    import poise.models.trunk as module

    vars(module)["frozen_dtype"] = lambda device: torch.float32
    vars(module)["default_device"] = lambda: torch.device("cpu")


def be_killed(source: str, folder: str, steps: str, killed_at: str, methods: Sequence[str]) -> None:
    """A run of each method in a process of its own, which ends by SIGKILL in a step."""

    def die(row: dict[str, float]) -> None:
        """No goodbye: nothing is flushed, closed or cleaned."""
        if row["step"] == float(killed_at):
            os.kill(os.getpid(), signal.SIGKILL)

    for method in methods:
        if (child := os.fork()) == 0:  # one import for all
            loop = make(Path(source), method, evaluation=looks(Path(folder) / method), steps=int(steps))
            loop.run(checkpoint=Path(folder) / f"{method}.safetensors", checkpoint_every=2, on_step=die)
            os._exit(1)
        print(method, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def together(name: str) -> dict[str, Any]:
    """Two steps of seven askings of the five prompts, whose groups matter to the method."""
    return {"steps": 2, "prompts_per_step": 7, "center_advantages": name == "ppo_lagrangian"}


def take_part(source: str, folder: str, methods: Sequence[str]) -> None:
    """A run of each method on this process's share of the prompts; the first one's actor fails at last."""
    with joined() as here:
        for method in methods:
            loop = make(Path(source), method, pack=True, **together(method))
            history = loop.run(checkpoint=Path(folder) / f"{method}.safetensors", checkpoint_every=2)
            (Path(folder) / f"{method} {here.rank}.json").write_text(json.dumps(history))
        if here.rank == 0:
            vars(loop.method)["actor_loss"] = lambda log_prob, *rest: log_prob.sum() * float("nan")
        try:
            loop.step(2)
        except PoiseError as error:
            (Path(folder) / f"error {here.rank}").write_text(str(error))


if __name__ == "__main__":
    exact()
    torch.set_num_threads(1)
    if sys.argv[3] == "together":
        take_part(*sys.argv[1:3], sys.argv[4:])
    else:
        be_killed(*sys.argv[1:5], sys.argv[5:])
