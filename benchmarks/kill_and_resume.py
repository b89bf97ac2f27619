"""Kill a run with SIGKILL at random moments, let it finish, and compare every stage's bytes with another run.

    python benchmarks/kill_and_resume.py recipes/quickstart.yaml runs/killed --like runs/quickstart

The comparison is by `outputs_sha256` of each stage's manifest, so it shows two things at once: that a killed run loses
nothing, and that the same seed gives the same bytes. The report is left out: it shows times.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import time
from pathlib import Path


def outputs(run: Path) -> dict[str, str]:
    """Stage -> digest of its output files."""
    manifests = [json.loads(path.read_text()) for path in sorted(run.glob("*/manifest.json"))]
    return {m["stage"]: m["outputs_sha256"] for m in manifests if m["stage"] != "report"}


def main() -> int:
    """Kill, resume, compare; exit code 1 when a stage differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("recipe")
    parser.add_argument("out", type=Path)
    parser.add_argument("--like", type=Path, required=True, help="finished run to compare with")
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--within", type=float, default=240, help="seconds: each kill comes somewhere in this time")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    chance = random.Random(args.seed)
    command = [sys.executable, "-m", "poise", "run", args.recipe, "--out", str(args.out)]
    started = time.monotonic()
    for _ in range(args.kills):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            process.wait(moment := chance.uniform(15, args.within))
            print(f"finished before the kill, exit code {process.returncode}", flush=True)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            print(f"killed after {moment:.0f} s; finished stages: {', '.join(outputs(args.out)) or 'none'}", flush=True)
    code = subprocess.run(command, check=False).returncode
    killed, whole = outputs(args.out), outputs(args.like)
    for stage in whole:
        print(f"{stage:12s} {'same bytes' if killed.get(stage) == whole[stage] else 'DIFFERENT'}")
    print(f"exit code {code}, {time.monotonic() - started:.0f} s in all")
    return int(code != 0 or killed != whole)


if __name__ == "__main__":
    sys.exit(main())
