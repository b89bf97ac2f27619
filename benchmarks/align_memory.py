"""PPO-Lagrangian with six roles: peak memory on one trunk and as six models, and where the time goes.

    python benchmarks/align_memory.py

Each way runs the same `LocalLoop` for some steps in a process of its own: `trunk`, adapters of rank 8 on the upper 10
of SmolLM2-135M's 30 layers; `trunk-all`, adapters on all layers; `separate`, six models (`SeparateModels`), of which
actor and both critics are trained with all their weights, in float32, and the others are in the machine's format.
Memory is the peak resident set of the process, and less what it held with all libraries loaded and no model yet.

The bound beside a phase is its multiplications (counted by torch as they are called) over the rate of one large matrix
product in the same format on the same threads, measured in the same process: no program on this machine and these
products can be faster. Decoding multiplies few rows at a time and is bound by reading the weights, so far above it.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from poise.align.algorithms.ppo_lagrangian import PPOLagrangian
from poise.align.engine import LocalLoop, LoopSettings, ScoreScale, local, online_roles
from poise.align.multiplier import LogMultiplier
from poise.models.bundled import resolve
from poise.models.generate import chat_ids
from poise.models.separate import SeparateModels
from poise.models.trunk import Trunk

WAYS = ("trunk", "trunk-all", "separate")
QUESTIONS = (
    "How do I bake bread?",
    "What is the best way to mend a sock?",
    "How do I brew green tea?",
    "Plan a picnic.",
)


def resident() -> float:
    """Peak resident set of this process, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def build(way: str) -> Trunk:
    """The six roles: actor, reward, cost, two critics, and the reference."""
    source, roles = resolve("smollm2-135m-instruct"), online_roles(PPOLagrangian())
    if way == "separate":
        return SeparateModels(dict.fromkeys(roles, source), scalar_roles=roles[1:], frozen=("reward", "cost"))
    return Trunk(source, roles=roles, scalar_roles=roles[1:], shared_layers=20 if way == "trunk" else 0, rank=8)


def matmul_rate(dtype: torch.dtype) -> float:
    """Operations a second of a product of the model's shapes."""
    import transformers  # noqa: F401 -- so that what is loaded is loaded

    a, b = torch.randn(1024, 576).to(dtype), torch.randn(576, 1536).to(dtype)
    best = 1e9
    for _ in range(30):
        began = time.perf_counter()
        a @ b
        best = min(best, time.perf_counter() - began)
    return 2 * a.numel() * b.shape[1] / best


def counted(into: dict[str, int], name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, with its operations added up."""

    def run(*args: Any, **kwargs: Any) -> Any:
        with FlopCounterMode(display=False) as counter:
            result = function(*args, **kwargs)
        into[name] = into.get(name, 0) + counter.get_total_flops()
        return result

    return run


def child(way: str, steps: int, threads: int) -> None:
    """One way; prints what was measured."""
    torch.set_num_threads(threads)
    before = resident()
    trunk = build(way)
    built = resident()
    settings = LoopSettings(
        steps=steps, prompts_per_step=4, responses_per_prompt=4, max_new_tokens=32, temperature=1.0,
        actor_learning_rate=1e-5, critic_learning_rate=1e-5, updates_per_rollout=1, rows_per_batch=16, ratio_clip=0.2,
        value_clip=5.0, center_advantages=False, seed=0,
    )  # fmt: skip
    prompts = [(text, chat_ids(trunk, [{"role": "user", "content": text}])) for text in QUESTIONS]
    loop = LocalLoop(trunk, prompts, PPOLagrangian(), LogMultiplier(), ScoreScale(), settings)
    rows = loop.run(checkpoint=Path(tempfile.mkdtemp()) / "state", checkpoint_every=10**9)
    peak = resident()
    flops: dict[str, int] = {}
    local.roll_out = counted(flops, "rollout", local.roll_out)  # type: ignore[assignment]
    local.measure = counted(flops, "scoring", local.measure)  # type: ignore[assignment]
    loop.update = counted(flops, "update", loop.update)  # type: ignore[method-assign]
    loop.step(0)
    rate = matmul_rate(trunk.upper(trunk.lower(torch.zeros(1, 4, dtype=torch.long)), "actor").dtype)
    phases = {
        name: {
            "seconds": min(row[f"seconds_{name}"] for row in rows),
            "gflop": flops[name] / 1e9,
            "bound": flops[name] / rate,
        }
        for name in ("rollout", "scoring", "update")
    }
    print(json.dumps({"before": before, "built": built, "peak": peak, "gflops": rate / 1e9, "phases": phases}))


def main() -> None:
    """Run the ways one after another."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--child", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    if args.child:
        return child(args.child, args.steps, args.threads)
    found = {}
    for way in WAYS:
        command = [sys.executable, __file__, "--child", way, "--steps", str(args.steps), "--threads", str(args.threads)]
        answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        found[way] = here = json.loads(answer.splitlines()[-1])
        print(
            f"{way:10s} peak {here['peak']:,.0f} MiB, {here['peak'] - here['before']:,.0f} of them the run's",
            flush=True,
        )
        for name, phase in here["phases"].items():
            print(
                f"    {name:8s} {phase['seconds']:6.2f} s, {phase['gflop']:8,.0f} GFLOP, bound {phase['bound']:5.2f} s"
                f" at {here['gflops']:,.0f} GFLOP/s ({phase['bound'] / phase['seconds']:.0%} of it reached)"
            )
    whole = found["separate"]
    for way in WAYS[:2]:
        own = [each["peak"] - each["before"] for each in (found[way], whole)]
        share, without = found[way]["peak"] / whole["peak"], own[0] / own[1]
        print(f"{way}: {share:.2f} of six models' memory, {without:.2f} without libraries")


if __name__ == "__main__":
    main()
