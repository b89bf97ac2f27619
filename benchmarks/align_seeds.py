"""How much of what a run's alignment shows is chance: its last stages again, with other seeds of `align` alone.

    python benchmarks/align_seeds.py runs/quickstart --out work/seeds --seeds 6
    python benchmarks/align_seeds.py runs/quickstart --out work/seeds --seeds 6 --set align.prompts_per_step=24

The finished stages before `align` are taken over as they are, so every run has the same prompts, judges and random
numbers at its evaluation. They are hard links where they can be: Poise never writes into a finished stage, it puts
another in its place. What is done stays in --out and is not done again; `table.md` holds all that is there.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

from poise.errors import PoiseError, in_one_line
from poise.pipeline.recipe import load_recipe
from poise.pipeline.stages import STAGES

AGAIN = ("align", "evaluate", "report")


def begin(run: Path, folder: Path) -> None:
    """A run folder with the finished stages before `align`."""
    if folder.exists():
        return
    begun = folder.with_name(f".{folder.name}")
    shutil.rmtree(begun, ignore_errors=True)
    for stage in sorted(run.glob("[0-9]*")):
        if stage.name.partition("-")[2] not in AGAIN:
            shutil.copytree(stage, begun / stage.name, copy_function=link)
    begun.rename(folder)


def link(file: str, to: str) -> None:
    """A hard link; a copy where the file system has none, or `to` is on another."""
    try:
        os.link(file, to)
    except OSError:
        shutil.copy2(file, to)


def changes(out: Path) -> dict[tuple[str, str, str], dict[str, float]]:
    """(settings, judge, metric) -> seed -> mean change, after minus before."""
    found: dict[tuple[str, str, str], dict[str, float]] = defaultdict(dict)
    for path in sorted(out.glob("*/seed-*/*-evaluate/metrics.json")):
        seed, settings = path.parts[-3].removeprefix("seed-"), path.parts[-4]
        for row in json.loads(path.read_text(encoding="utf-8")):
            if (change := row["difference"]["mean"]) is not None:  # a judge may have no score for any response
                found[settings, row["judge"], row["metric"]][seed] = change
    return found


def table(out: Path) -> str:
    """One line for each settings, judge and metric: mean and standard deviation over seeds."""
    lines = ["| settings | judge | metric | seeds | change | s. d. over seeds |", "|---|---|---|---|---|---|"]
    for (settings, judge, metric), by_seed in changes(out).items():
        values = list(by_seed.values())
        spread = f"{statistics.stdev(values):.3f}" if len(values) > 1 else "-"
        lines.append(f"| {settings} | {judge} | {metric} | {len(values)} | {statistics.mean(values):+.3f} | {spread} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run what is not there yet, then write the table.

    Raises:
        PoiseError: a setting is none, or the run is not finished.
        SystemExit: a run failed; those before it stay.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("run", type=Path, help="finished run, with a stage `evaluate`")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as in `poise run`")
    args = parser.parse_args()
    recipe = args.run / "recipe.yaml"
    if not any(args.run.glob("*-evaluate/manifest.json")):
        raise PoiseError("no finished run that evaluates", where=str(args.run), do="give the folder of one")
    by_key = sorted(args.set, key=lambda told: told.partition("=")[0])  # stable: of one key the last counts
    settings = ",".join(by_key).replace("/", "_") or "as in the recipe"
    for seed in range(args.seeds):
        told = [*args.set, f"align.seed={seed}"]
        load_recipe(recipe, STAGES, told)
        folder = args.out / settings / f"seed-{seed}"
        folder.parent.mkdir(parents=True, exist_ok=True)
        begin(args.run, folder)
        command = [sys.executable, "-m", "poise", "run", str(recipe), "--out", str(folder)]
        if code := subprocess.run([*command, *(f"--set={each}" for each in told)], check=False).returncode:
            sys.exit(code)
    found = table(args.out)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "table.md").write_text(found, encoding="utf-8")
    print(found)


if __name__ == "__main__":
    with in_one_line():
        main()
