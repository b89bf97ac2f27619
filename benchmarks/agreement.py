"""How fast agreement and Dawid-Skene are: 265,000 answers with three label judgements each, from tables to report.

    python benchmarks/agreement.py [--items 265000] [--raters 3] [--models 0]

The judgements are made up: raters with known errors on a published mix of categories, written as tables, then read and
measured as `poise annotate agreement` does. Where they can be imported, the packages `krippendorff` and `crowdkit` do
their part of it on the same arrays.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from poise.annotate.aggregation import dawid_skene
from poise.annotate.agreement.alpha import alpha
from poise.annotate.agreement.ratings import Ratings
from poise.annotate.agreement.reading import read_questions
from poise.annotate.agreement.report import report
from poise.annotate.agreement.terminal import render
from poise.annotate.agreement.variables import variables
from poise.data.columns import TABLES
from poise.data.tables import TableWriter, open_tables
from poise.harm import CATEGORIES

SHARES = np.array([5, 1, 0.5, 7, 5, 1, 1.5, 5, 4, 2, 5, 3, 5, 2, 2, 0.7, 0.8, 0.7, 0.3]) / 100
"""Roughly how often each category occurs among answers of public safety data."""


def synthetic(folder: Path, items: int, raters: int, models: int, seed: int = 0) -> None:
    """Tables with three label judgements for each item by raters drawn from `raters`."""
    rng = np.random.default_rng(seed)
    truth = rng.random((items, 19)) < SHARES
    level = np.where(truth.any(1), rng.integers(1, 4, items), 0)
    miss, invent = rng.uniform(0.05, 0.25, raters), rng.uniform(0.002, 0.02, raters)
    hashes = np.array([f"{i:064x}" for i in rng.permutation(items)])
    schema = TABLES["judgements"]
    with TableWriter(folder, {"name": "benchmark"}) as writer:
        for start in range(0, items, 20_000):
            part = slice(start, min(start + 20_000, items))
            size = part.stop - part.start
            who = (
                np.argsort(rng.random((size, raters)), axis=1)[:, :3]
                if raters < 100
                else rng.integers(0, raters, (size, 3))
            )
            for place in range(3):
                rater = who[:, place]
                draw = rng.random((size, 19))
                seen = np.where(truth[part], draw > miss[rater][:, None], draw < invent[rater][:, None])
                severity = np.where(seen.any(1), np.clip(level[part] + rng.integers(-1, 2, size), 1, 3), 0)
                values = [_label(flags, int(s)) for flags, s in zip(seen, severity, strict=True)]
                columns = {
                    "item": hashes[part].tolist(),
                    "question": ["label"] * size,
                    "value": values,
                    "rater": [f"rater-{r}" for r in rater],
                    "rater_kind": ["model" if r < models else "person" for r in rater],
                    "rater_version": [""] * size,
                    "round": [0] * size,
                    "response_0_sha256": hashes[part].tolist(),
                }
                arrays = [pa.array(columns.get(f.name, [None] * size), f.type) for f in schema]
                writer.write("judgements", pa.RecordBatch.from_arrays(arrays, schema=schema))


def _label(flags: np.ndarray, severity: int) -> str:
    names = [CATEGORIES[i].value for i in np.flatnonzero(flags)]
    return json.dumps({"categories": names, "safe": severity == 0, "severity": severity})


def timed(name: str, seconds: float, note: str = "") -> None:
    """Print one line."""
    print(f"{name:48s} {seconds:8.2f} s  {note}")


def others(ratings: Ratings) -> None:
    """The same two numbers by other packages, where they are there."""
    start = time.perf_counter()
    ours = alpha(ratings, "ordinal", replicates=0).value
    timed("alpha, ordinal severity: ours", time.perf_counter() - start, f"{ours:.6f}")
    try:
        import krippendorff
    except ImportError:
        print("krippendorff is not installed")
    else:
        start = time.perf_counter()
        theirs = krippendorff.alpha(value_counts=ratings.counts, level_of_measurement="ordinal")
        timed("alpha, ordinal severity: krippendorff", time.perf_counter() - start, f"{theirs:.6f}")
    start = time.perf_counter()
    choice = dawid_skene(ratings).choice()
    timed("Dawid-Skene, severity: ours", time.perf_counter() - start)
    try:
        import pandas
        from crowdkit.aggregation import DawidSkene
    except ImportError:
        print("crowdkit is not installed")
    else:
        frame = pandas.DataFrame({"task": ratings.item, "worker": ratings.rater, "label": ratings.value})
        start = time.perf_counter()
        theirs = DawidSkene(n_iter=20).fit_predict(frame)
        same = float((theirs.sort_index().to_numpy() == choice).mean())
        timed("Dawid-Skene, severity, 20 iterations: crowd-kit", time.perf_counter() - start, f"same on {same:.4f}")


def main() -> None:
    """Make, read, measure."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--items", type=int, default=265_000)
    options.add_argument("--raters", type=int, default=3)
    options.add_argument("--models", type=int, default=0)
    options.add_argument("--show", action="store_true", help="print the report")
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="poise-") as temporary:
        folder = Path(temporary) / "tables"
        synthetic(folder, chosen.items, chosen.raters, chosen.models)
        start = time.perf_counter()
        questions = read_questions(open_tables(folder))
        read = time.perf_counter()
        found = report(questions)
        done = time.perf_counter()
    timed("reading judgements", read - start, f"{3 * chosen.items:,} of {chosen.raters} raters")
    timed("report with Dawid-Skene and intervals", done - read)
    timed("together", done - start)
    if chosen.show:
        print(render(found))
    others(next(v for v in variables(questions["label"]) if v.name == "severity").ratings)


if __name__ == "__main__":
    main()
