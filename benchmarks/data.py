"""The whole way through the data room at the size of PKU-SafeRLHF, and the same job with `datasets` and with pandas.

    python benchmarks/data.py                      # 44.6k prompts, 265k QA, 83.4k dual, 81.1k single; with peers
    python benchmarks/data.py --scale 10 --no-peers

Ours: read -> validate -> audit -> dedup (near-duplicates among all answers) -> split (by near-duplicate cluster of the
prompt) -> release (Parquet, card, Croissant, manifest, validated again from the files). The peers: the same rows read,
the same rules checked by row, the same counts, exact duplicates dropped, split by exact prompt, Parquet written. They
have no near-duplicates, no card, no manifest: they do less. Every run is a process of its own; memory is its peak
resident size.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PUBLIC = {
    "default": "pku-safe-rlhf",
    "single-dimension": "pku-single-dimension",
    "qa": "pku-qa",
    "prompt": "pku-prompt",
}
STEPS: dict[str, float] = {}
NEAR_DUPLICATES = 0.02
"""Share of the answers outside pairs that are edited copies of another."""


@contextmanager
def timed(name: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    STEPS[name] = time.perf_counter() - start


def ours(source: Path, work: Path) -> dict[str, Any]:
    """Every step reads a folder and writes a folder, as the commands do."""
    from poise.data.adapters.registry import format_of
    from poise.data.audit import audit, write_audit
    from poise.data.dedup import dedup_tables
    from poise.data.reading import Reader
    from poise.data.release import write_release
    from poise.data.split import split_tables
    from poise.data.tables import TableWriter, open_tables
    from poise.data.validate import validate

    with timed("read"), TableWriter(work / "read", {"name": "read"}) as writer:
        for unit, form in PUBLIC.items():
            Reader(format_of(form), dataset="synthetic").read_into(writer, [source / "data" / unit])
    with timed("validate"):
        checked = validate(open_tables(work / "read"), "quarantine", work / "valid")
    with timed("audit"):
        write_audit(audit(open_tables(work / "valid")), work / "audit", title="Benchmark")
    with timed("dedup"):
        tables, found = dedup_tables(open_tables(work / "valid"), work / "dedup", on="answer")
    with timed("split"):
        tables = split_tables(tables, work / "split", 0.1, seed=0)
    with timed("release"):
        release = write_release(tables, work / "release", name="Benchmark", licence="apache-2.0", seed=0)
    return {"rows": release.validation.rows, "broken": sum(checked.counts.values()), "near_duplicates": found.repeats}


def with_pandas(source: Path, work: Path) -> dict[str, Any]:
    """The same rules in pandas, a frame a config."""
    import pandas as pd

    frames = {}
    with timed("read"):
        for unit in PUBLIC:
            frames[unit] = pd.concat(
                pd.read_parquet(file) for file in sorted((source / "data" / unit).glob("*.parquet"))
            )
    with timed("validate"):
        for unit, frame in frames.items():
            ok = [row_ok(unit, row) for row in frame.to_dict("records")]
            frames[unit] = frame[ok]
    with timed("audit"):
        counts = answer_counts(
            row for row in frames["qa"][["is_safe", "harm_category", "severity_level"]].to_dict("records")
        )
    with timed("dedup"):
        for unit, columns in KEYS.items():
            frames[unit] = frames[unit].drop_duplicates(columns)
    with timed("split and write"):
        for unit, frame in frames.items():
            test = frame["prompt"].map(in_test)
            for name, part in (("train", frame[~test]), ("test", frame[test])):
                (work / unit).mkdir(parents=True, exist_ok=True)
                part.to_parquet(work / unit / f"{name}.parquet", compression="zstd", index=False)
    return {"rows": {unit: len(frame) for unit, frame in frames.items()}, "answers": counts}


def with_datasets(source: Path, work: Path) -> dict[str, Any]:
    """The same rules with `datasets.filter` and `map`, single process, default batches."""
    import datasets

    datasets.disable_progress_bars()
    sets = {}
    with timed("read"):
        for unit in PUBLIC:
            files = [str(file) for file in sorted((source / "data" / unit).glob("*.parquet"))]
            sets[unit] = datasets.load_dataset(
                "parquet", data_files=files, split="train", cache_dir=str(work / "cache")
            )
    with timed("validate"):
        for unit, rows in sets.items():
            sets[unit] = rows.filter(lambda row, unit=unit: row_ok(unit, row))
    with timed("audit"):
        counts = answer_counts(iter(sets["qa"].select_columns(["is_safe", "harm_category", "severity_level"])))
    with timed("dedup"):
        for unit, columns in KEYS.items():
            seen: set[tuple[str, ...]] = set()
            sets[unit] = sets[unit].filter(lambda row, c=columns, seen=seen: first_time(seen, tuple(row[k] for k in c)))
    with timed("split and write"):
        for unit, rows in sets.items():
            marked = rows.map(lambda row: {"test": in_test(row["prompt"])})
            for name, wanted in (("train", False), ("test", True)):
                part = marked.filter(lambda row, wanted=wanted: row["test"] is wanted).remove_columns("test")
                (work / unit).mkdir(parents=True, exist_ok=True)
                part.to_parquet(work / unit / f"{name}.parquet")
    return {"rows": {unit: rows.num_rows for unit, rows in sets.items()}, "answers": counts}


KEYS = {
    "default": ["response_0_sha256", "response_1_sha256"],
    "single-dimension": ["response_0_sha256", "response_1_sha256"],
    "qa": ["sha256"],
    "prompt": ["prompt"],
}


def row_ok(unit: str, row: dict[str, Any]) -> bool:  # noqa: PLR0911
    """The rules of a row as somebody would write them by hand."""
    if not row["prompt"] or row["prompt"].isspace():
        return False
    answers = {"qa": [("response", "sha256", "is_safe", "harm_category", "severity_level")]}
    pair = [(f"response_{i}", f"response_{i}_sha256") for i in (0, 1)]
    labelled = [
        (*names, f"is_{names[0]}_safe", f"{names[0]}_harm_category", f"{names[0]}_severity_level") for names in pair
    ]
    for text, digest, *label in {"default": labelled, "single-dimension": pair, **answers}.get(unit, []):
        if not row[text] or row[text].isspace():
            return False
        if hashlib.sha256((row["prompt"] + row[text]).encode()).hexdigest() != row[digest]:
            return False
        if label:
            safe, flags, severity = (row[name] for name in label)
            if severity not in (0, 1, 2, 3) or not safe == (severity == 0) == (not any(flags.values())):
                return False
    if unit in ("default", "single-dimension") and row["better_response_id"] not in (0, 1):
        return False
    if unit == "default" and row["is_response_0_safe"] != row["is_response_1_safe"]:
        return bool(row["safer_response_id"] == (0 if row["is_response_0_safe"] else 1))
    return True


def answer_counts(rows: Iterator[dict[str, Any]]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for row in rows:
        for name in [
            f"severity {row['severity_level']}",
            *(name for name, true in row["harm_category"].items() if true),
        ]:
            counts[name] = counts.get(name, 0) + 1
    return counts


def in_test(prompt: str) -> bool:
    return hashlib.sha256(prompt.encode()).digest()[0] < 26


def first_time(seen: set[tuple[str, ...]], key: tuple[str, ...]) -> bool:
    new = key not in seen
    seen.add(key)
    return new


def run_alone(job: str, source: Path, *more: str) -> dict[str, Any]:
    """One job in a process of its own."""
    command = [sys.executable, __file__, "--job", job, "--source", str(source), *more]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=1.0, help="1 is the size of the public release")
    parser.add_argument("--repeat", type=int, default=1, help="runs of each job, alternating; medians are printed")
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument("--job", choices=("synth", "ours", "pandas", "datasets"), help=argparse.SUPPRESS)
    parser.add_argument("--source", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.job:
        one_job(arguments.job, arguments.source, arguments.scale)
        return
    with tempfile.TemporaryDirectory(prefix="poise-bench-") as temporary:
        source = Path(temporary) / "source"
        start = time.perf_counter()
        made = run_alone("synth", source, "--scale", str(arguments.scale))
        print(f"synthetic corpus at scale {arguments.scale:g}: {time.perf_counter() - start:.0f} s")
        planted = f"{made['planted']:,} answers are edited copies of others, {made['above']:,} with a similarity >= 0.7"
        print(f"          {planted}", flush=True)
        jobs = ["ours"] if arguments.no_peers else ["ours", "datasets", "pandas"]
        results: dict[str, list[dict[str, Any]]] = {job: [] for job in jobs}
        for _ in range(arguments.repeat):
            for job in jobs:
                results[job].append(run_alone(job, source))
                show(job, results[job][-1])
    middle = {job: sorted(runs, key=lambda run: run["seconds"])[len(runs) // 2] for job, runs in results.items()}
    for job in jobs[1:]:
        slower = middle[job]["seconds"] / middle["ours"]["seconds"]
        more = middle[job]["peak_mb"] / middle["ours"]["peak_mb"]
        print(f"{job} / ours: {slower:.2f} x the time, {more:.2f} x the memory")


def one_job(job: str, source: Path, scale: float) -> None:
    """Runs in the child; the last line on standard output is the result."""
    start = time.perf_counter()
    result: dict[str, Any] = {}
    if job == "synth":
        from poise.data.synth import Plant, synthesize

        truth = synthesize(source, scale, seed=0, plant=Plant(answers=NEAR_DUPLICATES))
        above = sum(similarity >= 0.7 for *_, similarity in truth.near_duplicates)
        result = {"planted": len(truth.near_duplicates), "above": above}
    else:
        work = Path(tempfile.mkdtemp(prefix="poise-bench-work-", dir=source.parent))
        result = {"ours": ours, "pandas": with_pandas, "datasets": with_datasets}[job](source, work)
        shutil.rmtree(work)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": seconds, "peak_mb": peak, "steps": STEPS, **result}))


def show(job: str, result: dict[str, Any]) -> None:
    steps = ", ".join(f"{name} {seconds:.1f}" for name, seconds in result["steps"].items())
    print(f"{job:9s} {result['seconds']:6.1f} s  peak {result['peak_mb']:5.0f} MB   ({steps})")
    print(
        f"          {json.dumps({k: v for k, v in result.items() if k in ('rows', 'broken', 'near_duplicates')})}",
        flush=True,
    )


if __name__ == "__main__":
    main()
