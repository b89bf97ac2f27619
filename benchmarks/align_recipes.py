"""Every recipe of `recipes/align/` on the pairs that come with Poise: what to expect, and how far seeds stand apart.

    python benchmarks/align_recipes.py --out DIR
    python benchmarks/align_recipes.py --out DIR --only dpo,ipo --seeds 5 --rows 400

Nothing but Poise and its bundled model is needed: `poise data seeds` writes the pairs, `poise align preference` trains
reward and cost on all of them (and for `two_constraints` a cost model of moderate and severe harm alone), then each
recipe runs once a seed, which decides its adapters, the order of rows, the held-out prompts and the samples. Recipes
are shortened to `--rows` and `--steps`. Numbers are means over seeds, in brackets the least and the most: for methods
on pairs what they minimise on held-out pairs, before and after; for methods that sample the cost and the reward of
answers to held-out prompts, before and after, in spreads of their models. Every run is a `poise` command with its own
folder: a stopped run of this goes on. Seconds are of the command, and peak memory of its process.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from align_methods import command

from poise.data.folders import write_json
from poise.errors import in_one_line

RECIPES = Path(__file__).parents[1] / "recipes"
SET = "pku-safe-rlhf"
ONLINE = (
    "ppo", "ppo_lagrangian", "two_constraints", "reward_shaping", "grpo_lagrangian", "rloo_lagrangian", "repo"
)  # fmt: skip
OFFLINE = ("dpo", "ipo", "safe_dpo", "bfpo", "sacpo", "mocan", "pecan", "derta")


def words_of(changes: dict[str, Any]) -> list[str]:
    """As `--set` options."""
    return [word for key, value in changes.items() for word in ("--set", f"{key}={value}")]


def prepare(out: Path, rows: int) -> None:
    """Pairs, instructions and the scores that recipes need."""
    pairs, answers, log = out / "data" / SET / "seeds.jsonl", out / "answers.jsonl", out / "log.txt"
    if not pairs.exists():
        pairs.parent.mkdir(parents=True, exist_ok=True)
        command(["data", "seeds", "--out", str(pairs)], log)
    if not answers.exists():
        kept = map(json.loads, pairs.read_text(encoding="utf-8").splitlines())
        best = [(row["prompt"], row[f"response_{row['safer_response_id']}"]) for row in kept]
        lines = (json.dumps({"prompt": prompt, "response": text}) for prompt, text in [*dict(best).items()][:rows])
        answers.write_text("\n".join(lines) + "\n", encoding="utf-8")
    for name, changes in {"scores": {}, "moderate": {"cost.severity_at_least": "moderate"}}.items():
        if not (out / name).exists():
            sets = {"reward.sets": f"[{SET}]", "cost.sets": f"[{SET}]", "data.rows": 0} | changes
            plan = str(RECIPES / "preference.yaml")
            command(
                ["align", "preference", plan, "--data", str(out / "data"), "--out", str(out / name), *words_of(sets)],
                log,
            )


def changes_of(name: str, out: Path, seed: int, rows: int, steps: int) -> dict[str, Any]:
    """What a run of a recipe sets."""
    if name == "sft":
        return {"data.files": out / "answers.jsonl", "seed": seed, "sft.eval_share": 0.25}
    said: dict[str, Any] = {"data.files": out / "data" / SET / "seeds.jsonl", "data.format": SET, "seed": seed}
    if name in ONLINE:
        said |= {"scores": out / "scores", "rollout.steps": steps, "data.held_out": 0.25, "data.rows": 0}
        said |= {"evaluation.every": steps, "evaluation.prompts": 24, "evaluation.benign": 16}
        return said | ({"constraints.severe.scores": out / "moderate"} if name == "two_constraints" else {})
    said |= {"data.rows": rows, "data.held_out": 0.25, "training.evaluate_every": 10**6}
    if name == "pecan":  # after so few pairs its models tell costs apart by less than the recipe asks for
        said["pecan.threshold"] = 0.0
    return said | ({"scores": out / "scores"} if name == "mocan" else {})


def spread(values: Sequence[float], form: str = ".3f") -> str:
    """Mean [least, most]."""
    return f"{statistics.fmean(values):{form}} [{min(values):{form}}, {max(values):{form}}]"


def looks(reports: Iterable[dict[str, Any]], key: str, last: bool) -> list[float]:
    """A number of the first or the last evaluation of each seed."""
    return [report["evaluations"][-1 if last else 0][key] for report in reports]


def line_of(name: str, reports: Sequence[dict[str, Any]], costs: Sequence[dict[str, float]]) -> str:
    """A row of the table."""
    shown = "; ".join(
        f"{key} {spread(looks(reports, key, False))} to {spread(looks(reports, key, True))}"
        for key in (("cost", "reward") if name in ONLINE else ("loss",))
    )
    seconds, memory = (statistics.fmean(cost[key] for cost in costs) for key in ("seconds", "memory"))
    return f"| `{name}.yaml` | {shown} | {seconds:,.0f} | {memory:,.0f} |"


def main() -> None:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", help="names of recipes, with commas")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=128, help="pairs, or answers in `sft`, of a run")
    parser.add_argument("--steps", type=int, default=3, help="rollouts of a run that samples")
    told = parser.parse_args()
    names = told.only.split(",") if told.only else ["sft", *OFFLINE, *ONLINE]
    if wrong := sorted({*names} - {"sft", *OFFLINE, *ONLINE}):
        parser.error(f"no recipe {', '.join(wrong)}")
    size, file = {"rows": told.rows, "steps": told.steps}, told.out / "size.json"
    if file.exists() and json.loads(file.read_text(encoding="utf-8")) != size:
        parser.error(f"{told.out} holds runs of another --rows or --steps; choose another --out")
    told.out.mkdir(parents=True, exist_ok=True)
    write_json(file, size)
    prepare(told.out, told.rows)
    print("| recipe | held out, before and after | seconds | peak MB |\n|---|---|---|---|")
    for name in names:
        reports, costs = [], []
        for seed in range(told.seeds):
            run, file = told.out / f"{name}-{seed}", told.out / f"{name}-{seed}.json"
            if not (run.exists() and file.exists()):
                plan = str(RECIPES / "align" / f"{name}.yaml")
                sets = words_of(changes_of(name, told.out, seed, told.rows, told.steps))
                seconds, memory = command(["align", "train", plan, "--out", str(run), *sets], told.out / "log.txt")
                write_json(file, {"seconds": seconds, "memory": memory})
            costs.append(json.loads(file.read_text(encoding="utf-8")))
            reports.append(
                json.loads((run / ("sft.json" if name == "sft" else "report.json")).read_text(encoding="utf-8"))
            )
        print(line_of(name, reports, costs), flush=True)


if __name__ == "__main__":
    with in_one_line():
        main()
