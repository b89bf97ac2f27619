"""Which engine is fastest on this processor, by measurement: whole judgements, from text to verdict.

All engines are asked in turn, round after round, so that what else the machine does falls on all of them alike; what is
told are medians, 95th percentiles and minima over the rounds. Left out: several workers at once.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import cycle, islice
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np

from poise.errors import PoiseError
from poise.guard.calibrated import CalibratedGuard
from poise.guard.fast.export import Engine, export_guard
from poise.guard.fast.opening import open_guard
from poise.guard.windows import Text

TOKENS, BATCHES = (128, 512), (1, 32)
Use = tuple[int, int]
"""(tokens of a text with its three marks, texts at once)"""


class Timing(NamedTuple):
    """One engine in one use. Args: p50, p95, least: milliseconds of a call; rows_s: texts a second at the median."""

    engine: str
    tokens: int
    batch: int
    p50: float
    p95: float
    least: float
    rows_s: float


def measure_engines(
    judges: Mapping[str, Callable[[Sequence[Text]], object]],
    texts: Mapping[Use, Sequence[Text]],
    *,
    rounds: int = 20,
    patience: float = 10_000.0,
    on_call: Callable[[], object] = lambda: None,
) -> list[Timing]:
    """Time calls in turn: in each round every engine once in every use, unless it has had its time there.

    Args:
        judges: by name of the engine.
        texts: what one call judges, by use.
        rounds: calls of an engine in a use.
        patience: milliseconds after which an engine in a use has had its time, three calls at least.
    """
    took: dict[tuple[str, Use], list[float]] = {(name, use): [] for name in judges for use in texts}
    for name in judges:
        for use in texts:
            judges[name](texts[use][:1])
    for number in range(rounds):
        for use in texts:
            for name in judges:
                if number < 3 or sum(took[name, use]) < patience:
                    start = time.perf_counter()
                    judges[name](texts[use])
                    took[name, use].append(1000 * (time.perf_counter() - start))
                    on_call()
    table = []
    for (name, (tokens, batch)), found in took.items():
        p50, p95 = (float(np.quantile(found, q)) for q in (0.5, 0.95))
        table.append(Timing(name, tokens, batch, p50, p95, min(found), 1000 * batch / p50))
    return table


def texts_of(tokens: int, count: int, length: Callable[[str], int]) -> list[Text]:
    """Different pairs of exactly so many tokens with three marks, a quarter of them in the prompt, of our seeds' words.

    Args:
        length: tokens of a text without marks.
    """
    from poise.data import load_seeds

    words = [word for row in load_seeds().qa for word in row.response.split() if word.isalpha() and length(word) == 1]
    if not words:
        raise PoiseError("no word of the seeds is one token", do="use a trunk with a tokenizer for English")
    head = tokens // 4
    endless = cycle(words)
    return [(" ".join(islice(endless, head)), " ".join(islice(endless, tokens - 3 - head))) for _ in range(count)]


@contextmanager
def engines_of(folder: Path, work: Path, threads: int) -> Iterator[dict[str, CalibratedGuard]]:
    """The guard of a folder with every engine that passes its check, exported to `work`; torch with so many threads.

    bfloat16 is left out where the processor does not multiply it: there it takes six to eight times as long as float32.
    """
    import torch

    from poise.models.precision import frozen_dtype

    narrow = frozen_dtype(torch.device("cpu")) == torch.bfloat16
    before = torch.get_num_threads()
    opened: dict[str, CalibratedGuard] = {}
    for engine in get_args(Engine):
        if engine == "torch-bf16" and not narrow:
            continue
        try:
            export_guard(folder, work / engine, engine)
        except PoiseError as error:
            if error.exit_code != 4:  # something other than a failed check
                raise
            continue
        opened[engine] = open_guard(work / engine, threads=threads)
    torch.set_num_threads(threads)
    try:
        yield opened
    finally:
        torch.set_num_threads(before)


def bench_guard(
    folder: Path, work: Path, *, threads: int = 1, rounds: int = 20, on_call: Callable[[], object] = lambda: None
) -> list[Timing]:
    """All engines of a trained guard at 128 and 512 tokens, one text and 32 texts at once.

    Args:
        work: an empty folder for the exports.
    """
    with engines_of(folder, work, threads) as guards:
        any_guard = next(iter(guards.values()))

        def length(text: str) -> int:
            return sum(len(part) for part in any_guard.windows((text, None))[0])

        texts = {(tokens, batch): texts_of(tokens, batch, length) for tokens in TOKENS for batch in BATCHES}
        judges = {name: guard.judge for name, guard in guards.items()}
        return measure_engines(judges, texts, rounds=rounds, on_call=on_call)


def best(table: Sequence[Timing]) -> dict[Use, str]:
    """The engine with the least median, by use."""
    uses = dict.fromkeys((row.tokens, row.batch) for row in table)
    return {
        use: min((row for row in table if (row.tokens, row.batch) == use), key=lambda row: row.p50).engine
        for use in uses
    }


def record(table: Sequence[Timing], threads: int) -> dict[str, Any]:
    """What is kept in an exported `guard.json`: processor, threads, timings, the best engine of each use."""
    return {
        "processor": processor(),
        "threads": threads,
        "timings": [row._asdict() for row in table],
        "best": {f"{tokens} tokens, batch {batch}": name for (tokens, batch), name in best(table).items()},
    }


def processor() -> str:
    """Its name, and which of the instructions that matter here it has."""
    try:
        told = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor() or platform.machine()
    fields = dict(line.split(":", 1) for line in told.splitlines() if ":" in line)
    named = {key.strip(): value.strip() for key, value in fields.items()}
    flags = set(named.get("flags", "").split())
    wanted = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "amx_bf16")
    seen = [flag for flag in wanted if flag in flags]
    return f"{named.get('model name', platform.machine())} ({', '.join(seen)})"


def lines(table: Sequence[Timing]) -> list[str]:
    """The table for people, the best of each use marked."""
    first = best(table)
    found = [f"{'engine':24s} {'tokens':>6s} {'batch':>5s} {'p50 ms':>9s} {'p95 ms':>9s} {'least':>9s} {'texts/s':>9s}"]
    for row in sorted(table, key=lambda row: (row.tokens, row.batch, row.p50)):
        mark = "  *" if first[row.tokens, row.batch] == row.engine else ""
        found.append(
            f"{row.engine:24s} {row.tokens:6d} {row.batch:5d} {row.p50:9.2f} {row.p95:9.2f} {row.least:9.2f} "
            f"{row.rows_s:9.1f}{mark}"
        )
    return found
