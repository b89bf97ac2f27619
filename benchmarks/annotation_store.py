"""The annotation store at the size of PKU-SafeRLHF: 265,000 answers with three label judgements each.

    python benchmarks/annotation_store.py [--items 265000] [--postgres [URL]] [--keep DIR]

Synthetic answers (`poise data synth`) are judged by 60 made-up raters, 57 people and three models, whose errors are
known; texts and judgements are imported into a fresh store. Then each line is a process of its own, so that nothing is
warm but the disk's cache: open the store and take the first task, count its status, measure agreement with Dawid-Skene
and intervals, export everything, walk the chain of hashes. `--postgres` does the same on a server that is started
for it (or on the one named; its database must be empty). All of it takes some minutes.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from postgres import server

PEOPLE, MODELS, EACH = 57, 3, 3
LIMITS = {"open and first task": 1.0, "status": 1.0, "agreement and Dawid-Skene": 5.0, "export": 60.0}
"""Seconds that each may take."""


def tables(folder: Path, items: int, seed: int = 0) -> None:
    """Answers, each with the labels of three raters drawn from all."""
    from poise.data.columns import TABLES
    from poise.data.synth import Size, synthesize
    from poise.data.tables import TableWriter, open_tables

    share = items / 265_000
    synthesize(folder / "made", Size(max(10, round(44_600 * share)), items, 10, 10), seed)
    rng, made = np.random.default_rng(seed), open_tables(folder / "made")["qa"]
    miss, shift = rng.uniform(0.02, 0.2, PEOPLE + MODELS), rng.uniform(0.02, 0.2, PEOPLE + MODELS)
    schema = TABLES["judgements"]
    with TableWriter(folder / "tables", {"name": "benchmark"}) as writer:
        for batch in made.batches():
            writer.write("qa", batch)
            columns = {f.name: [] for f in schema}
            for row, values in zip(*_judged(batch, rng, miss, shift), strict=True):
                for rater, value in zip(row, values[1], strict=True):
                    named = {
                        "item": values[0],
                        "question": "label",
                        "value": value,
                        "rater": f"rater-{rater:02d}",
                        "rater_kind": "person" if rater < PEOPLE else "model",
                        "rater_version": "" if rater < PEOPLE else "prompt-1",
                        "round": 0,
                        "response_0_sha256": values[0],
                    }
                    for name, column in columns.items():
                        column.append(named.get(name))
            arrays = [pa.array(columns[f.name], f.type) for f in schema]
            writer.write("judgements", pa.RecordBatch.from_arrays(arrays, schema=schema))


def _judged(batch: pa.RecordBatch, rng: Any, miss: Any, shift: Any) -> tuple[list[list[int]], list[tuple[str, Any]]]:
    """The raters of each answer, and its hash with the label that each of them gives."""
    truth = zip(
        batch.column("sha256").to_pylist(),
        batch.column("harm_category").to_pylist(),
        batch.column("severity_level").to_pylist(),
        strict=True,
    )
    who = np.argsort(rng.random((batch.num_rows, PEOPLE + MODELS)), axis=1)[:, :EACH]
    draws = rng.random((batch.num_rows, EACH, 2))
    told = []
    for (name, flags, severity), raters, draw in zip(truth, who, draws, strict=True):
        named = [category for category, flag in flags.items() if flag]
        said = []
        for rater, (first, second) in zip(raters, draw, strict=True):
            categories, level = list(named), severity
            if first < miss[rater]:
                categories = categories[1:] if categories else ["Mental Manipulation"]
                level = level if severity else 1
            if second < shift[rater]:
                level = level + 1 if level in (1, 2) else level
            level = level if categories else 0
            said.append(json.dumps({"categories": categories, "safe": level == 0, "severity": level}))
        told.append((name, said))
    return who.tolist(), told


def build(where: str, folder: Path) -> None:
    """A fresh store of the tables."""
    from poise.annotate.store import AnnotationStore, OverlapPolicy, import_tables
    from poise.data.tables import open_tables

    with AnnotationStore.create(where, OverlapPolicy(people=3, more=3)) as store:
        print(import_tables(store, open_tables(folder / "tables")))


def first_task(where: str, folder: Path) -> None:
    """Open, and give a new person the first task."""
    from poise.annotate.store import AnnotationStore
    from poise.data.rows import Rater

    with AnnotationStore.open(where) as store:
        task = store.next_task(store.rater(Rater(id="new", kind="person")), ["qa"])
    print(task.prompt[:40] if task else "nothing to do")


def counted(where: str, folder: Path) -> None:
    """The status."""
    from poise.annotate.store import AnnotationStore, status

    with AnnotationStore.open(where) as store:
        print(status(store).tasks)


def agreement(where: str, folder: Path) -> None:
    """The report of `poise annotate agreement`."""
    from poise.annotate.agreement.from_store import read_store
    from poise.annotate.agreement.report import report
    from poise.annotate.agreement.terminal import render
    from poise.annotate.store import AnnotationStore

    with AnnotationStore.open(where) as store:
        print(render(report(read_store(store))))


def export(where: str, folder: Path) -> None:
    """All tables."""
    from poise.annotate.store import AnnotationStore, export_tables

    with AnnotationStore.open(where) as store:
        print(export_tables(store, folder / "out", replace=True).rows)


def verified(where: str, folder: Path) -> None:
    """The chain and the texts."""
    from poise.annotate.store import AnnotationStore

    with AnnotationStore.open(where) as store:
        checked = store.verify()
    assert checked.fault is None, checked.fault
    print(f"{checked.events:,} events, whole")


STEPS = {
    "import": build,
    "open and first task": first_task,
    "status": counted,
    "agreement and Dawid-Skene": agreement,
    "export": export,
    "verify": verified,
}
_IMPORTS = (
    "poise.annotate.store",
    "poise.annotate.agreement.report",
    "poise.data.tables",
    "poise.annotate.agreement.from_store",
)


def step(name: str, where: str, folder: Path) -> None:
    """One step in this process: its seconds after the modules are loaded, and its peak memory."""
    for module in _IMPORTS:
        __import__(module)
    start, cpu = time.perf_counter(), time.process_time()
    STEPS[name](where, folder)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": seconds, "cpu": cpu, "mb": peak}))


def measured(where: str, folder: Path) -> Iterator[tuple[str, dict[str, float], str]]:
    """(step, its seconds, of them on the processor, and peak memory in MiB; what it said) of each step."""
    for name in STEPS:
        command = [sys.executable, __file__, "--step", name, "--where", where, "--keep", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"{name} failed:\n{done.stderr}")
        *said, last = done.stdout.strip().splitlines()
        found = json.loads(last)
        yield name, found, next((line for line in said if line), "")


def size(where: str) -> float:
    """Megabytes that the store takes."""
    if "://" not in where:
        return sum(path.stat().st_size for path in Path(where).parent.glob(f"{Path(where).name}*")) / 1e6
    import sqlalchemy as sa

    from poise.annotate.store import AnnotationStore

    with AnnotationStore.open(where) as store, store.database.read() as db:
        return float(db.execute(sa.text("select pg_database_size(current_database())")).scalar() or 0) / 1e6


def show(where: str, folder: Path, items: int) -> None:
    """Measure and print the table."""
    print(f"\n{'PostgreSQL' if '://' in where else 'SQLite'}, {items:,} answers, {EACH * items:,} judgements")
    print(f"  {'':28s} {'elapsed':>10s} {'processor':>10s} {'limit':>7s} {'memory':>10s}")
    for name, found, said in measured(where, folder):
        limit = f"{LIMITS[name]:.0f} s" if name in LIMITS else ""
        times = f"{found['seconds']:8.2f} s {found['cpu']:8.2f} s {limit:>7s}"
        print(f"  {name:28s} {times} {found['mb']:6.0f} MiB  {said[:60]}", flush=True)
    print(f"  {'size of the database':28s} {size(where):7.0f} MB")


def main() -> None:
    """Make, import, measure."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--items", type=int, default=265_000)
    options.add_argument("--postgres", nargs="?", const="start", metavar="URL", help="also on PostgreSQL")
    options.add_argument("--keep", type=Path, metavar="DIR", help="make the tables here and leave them")
    options.add_argument("--step", help=argparse.SUPPRESS)
    options.add_argument("--where", help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.step:
        step(chosen.step, chosen.where, chosen.keep)
        return
    with ExitStack() as stack:
        folder = chosen.keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="poise-")))
        if not (folder / "tables").exists():
            start = time.perf_counter()
            tables(folder, chosen.items)
            print(f"tables made in {time.perf_counter() - start:.1f} s")
        store = folder / "store.db"
        for old in folder.glob("store.db*"):
            old.unlink()
        show(str(store), folder, chosen.items)
        if chosen.postgres:
            url = stack.enter_context(server()) if chosen.postgres == "start" else chosen.postgres
            show(url, folder, chosen.items)


if __name__ == "__main__":
    main()
