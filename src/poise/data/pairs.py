"""Pairs from labelled responses: two responses to one prompt, and the safer one where the labels decide it.

A pair is mixed (exactly one response is safe, so the logical order makes it the safer one: `safer_derived`), both safe
or both unsafe (nobody has ranked it: better and safer stay empty). Which pairs are made, and which response stands
first, is a hash of (seed, responses), so neither the order of rows nor a label tells anything.

Source: PKU-SafeRLHF, where 15 % of the pairs are mixed, 41 % both safe and 44 % both unsafe.
"""

from __future__ import annotations

import math
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from poise.data.columns import TABLES
from poise.data.folders import disk_error
from poise.data.keys import hash_keys
from poise.data.shuffle import Shuffle, bucket_count, row_keys
from poise.data.tables import BATCH, Table, Tables, TableWriter, open_tables
from poise.data.validate import Progress
from poise.errors import PoiseError

STATES = {1: "mixed", 2: "both_safe", 0: "both_unsafe"}
"""Number of safe responses -> state of the pair."""

_SPARE = 16  # responses looked at beyond the cap, so that a prompt with thousands does not give millions of pairs
_MEMORY = "800MB"  # of the database; what needs more goes to disk


@dataclass(frozen=True)
class PairStrategy:
    """Which pairs to make.

    Args:
        mixed, both_safe, both_unsafe: wanted shares, each 0..1, together 1; all None takes them as they fall. Where
            the cap forces a choice within a prompt, pairs that the logical order has not decided come first as they
            fall, and the states take turns by their shares otherwise.
        per_prompt: most pairs of one prompt.

    Raises:
        PoiseError: shares that are no shares, or a cap below 1.
    """

    mixed: float | None = None
    both_safe: float | None = None
    both_unsafe: float | None = None
    per_prompt: int = 4

    def __post_init__(self) -> None:
        given = [share for share in self.shares().values() if share is not None]
        good = all(0 <= share <= 1 for share in given) and len(given) == 3 and math.isclose(sum(given), 1, abs_tol=1e-6)
        if given and not good:
            shares = ", ".join(f"{state} {share}" for state, share in self.shares().items())
            raise PoiseError(f"shares {shares}", where="pairs", do="give three shares from 0 to 1 that add up to 1")
        if self.per_prompt < 1:
            raise PoiseError(f"{self.per_prompt} pairs a prompt", where="pairs", do="give at least 1")

    def shares(self) -> dict[str, float | None]:
        """State -> wanted share."""
        return {state: getattr(self, state) for state in STATES.values()}


@dataclass(frozen=True)
class MadePairs:
    """What `make_pairs` made.

    Args:
        pairs: state -> pairs made.
        possible: state -> pairs that the cap allows, before the shares are met.
    """

    pairs: dict[str, int]
    possible: dict[str, int]

    def shares(self) -> dict[str, float]:
        """State -> share of the pairs made; 0 where there are none."""
        return {state: count / max(sum(self.pairs.values()), 1) for state, count in self.pairs.items()}


def make_pairs(
    tables: Tables,
    strategy: PairStrategy,
    out: Path,
    seed: int,
    *,
    replace: bool = False,
    progress: Progress | None = None,
) -> tuple[Tables, MadePairs]:
    """Tables with the pairs that `qa` labels give added to `pairs-extended`; all other rows are carried over.

    Two responses make a pair when prompt, turns, image and split are the same and both are known to be safe or
    unsafe. Pairs that are in `default` or `pairs-extended` already are not made again. Shares are met by leaving out
    pairs of the states that there are too many of; a state without any pair is not waited for.

    Raises:
        PoiseError: no `qa` rows, `out` is in use, or the disk is full (exit code 3).
    """
    if "qa" not in tables:
        raise PoiseError("no qa rows to make pairs of", where=str(tables.folder), do="read labelled responses first")
    made: dict[str, Any] = {}  # filled before the writer puts it into the manifest
    step = {"name": "pairs", "seed": seed, "strategy": asdict(strategy), "made": made}
    try:
        with TableWriter(out, step, [tables], replace=replace) as writer:
            found = _write_pairs(writer, tables, strategy, seed, progress)
            made |= asdict(found)
    except (OSError, duckdb.IOException) as error:
        fault = error if isinstance(error, OSError) else OSError(str(error).splitlines()[0])
        raise disk_error(fault, out) from error
    return open_tables(out), found


def _write_pairs(
    writer: TableWriter, tables: Tables, strategy: PairStrategy, seed: int, progress: Progress | None
) -> MadePairs:
    for unit, table in tables.items():
        for batch in table.batches():
            writer.write(unit, batch)
    spill = writer.parts / "spill"
    responses = _by_conversation(tables["qa"], spill, progress)
    with duckdb.connect(config={"memory_limit": _MEMORY, "temp_directory": str(spill / "sql"), "threads": 2}) as con:
        starts = _read_responses(con, responses)
        _read_known(con, tables)
        possible = _find_candidates(con, strategy, seed)
        chosen = _choose(con, strategy, possible)
    rows = np.concatenate(list(chosen.values()))
    rows = rows[np.argsort(rows[:, 0], kind="stable")]
    for bucket, start, end in starts:
        inside = rows[np.searchsorted(rows[:, 0], start) : np.searchsorted(rows[:, 0], end)] - start
        for batch in _pair_rows(responses.bucket(bucket), inside) if len(inside) else ():
            writer.write("pairs-extended", batch, part="derived")
    shutil.rmtree(spill)
    return MadePairs({state: len(pairs) for state, pairs in chosen.items()}, possible)


def _by_conversation(table: Table, spill: Path, progress: Progress | None) -> Shuffle:
    """The responses in the order of a hash of their conversation, so that those to one prompt lie together."""
    responses = Shuffle(spill / "qa.arrow", bucket_count(table.rows, sum(file.stat().st_size for file in table.files)))
    for batch in table.batches():
        responses.add(batch, row_keys(batch, ["split", "turns", "image", "prompt"], "conversation"))
        if progress is not None:
            progress(batch.num_rows, "qa")
    return responses


def _read_responses(con: duckdb.DuckDBPyConnection, responses: Shuffle) -> list[tuple[int, int, int]]:
    """Table `response` (row, conversation, hash, safe) without texts; returns (bucket, first row, end) of buckets."""
    con.execute("CREATE TABLE response (row BIGINT, asked UBIGINT, sha UBIGINT, safe BOOLEAN)")
    starts, start = [], 0
    for bucket in responses.finish():
        rows = responses.bucket(bucket)
        facts = pa.table(
            {
                "row": np.arange(start, start + len(rows)),
                "asked": rows["key"],
                "sha": hash_keys(rows["sha256"].combine_chunks()),
                "safe": rows["is_safe"],
            }
        )
        con.register("facts", facts)
        con.execute("INSERT INTO response SELECT * FROM facts WHERE safe IS NOT NULL AND sha <> 0")
        con.unregister("facts")
        starts.append((bucket, start, start + len(rows)))
        start += len(rows)
    return starts


def _read_known(con: duckdb.DuckDBPyConnection, tables: Tables) -> None:
    """Table `known` (smaller hash, larger hash) of the pairs that there are."""
    con.execute("CREATE TABLE known (low UBIGINT, high UBIGINT)")
    for unit in ("default", "pairs-extended"):
        columns = ["response_0_sha256", "response_1_sha256"]
        for batch in tables[unit].batches(columns) if unit in tables else ():
            sides = np.stack([hash_keys(batch.column(name)) for name in columns])
            con.register("facts", pa.table({"low": sides.min(axis=0), "high": sides.max(axis=0)}))
            con.execute("INSERT INTO known SELECT * FROM facts")
            con.unregister("facts")


def _find_candidates(con: duckdb.DuckDBPyConnection, strategy: PairStrategy, seed: int) -> dict[str, int]:
    """Table `candidate` (row_0, row_1, state, drawn) of the pairs that the cap allows; returns how many of a state.

    The pairs of a state in a prompt have their turns at the events of a Poisson process whose rate is the share, drawn
    by hash: the next pair is of a state with the probability of its share, however small the cap is.
    """
    shares = {state: strategy.shares()[name] for state, name in STATES.items()}
    weights = " ".join(f"WHEN {state} THEN {1 if share is None else share}::DOUBLE" for state, share in shares.items())
    undecided_first = "state = 1," if strategy.mixed is None else ""
    con.execute(
        f"""
        CREATE TABLE candidate AS
        WITH distinct_response AS (
            SELECT asked, sha, min(row) AS row, arg_min(safe, row) AS safe FROM response GROUP BY asked, sha
        ), looked_at AS (
            SELECT * FROM distinct_response
            QUALIFY row_number() OVER (
                PARTITION BY asked, safe ORDER BY md5_number_lower(concat_ws(' ', $seed, sha)), sha
            ) <= $most + {_SPARE}
        ), possible AS (
            SELECT a.asked, a.row AS row_a, b.row AS row_b, a.safe::INT + b.safe::INT AS state,
                CASE a.safe::INT + b.safe::INT {weights} END AS share,
                md5_number_lower(concat_ws(' ', $seed, a.sha, b.sha)) AS drawn,
                -ln((md5_number_upper(concat_ws(' ', $seed, a.sha, b.sha)) + 1.0) / 18446744073709551616.0) AS wait
            FROM looked_at a JOIN looked_at b ON a.asked = b.asked AND a.sha < b.sha
            ANTI JOIN known ON known.low = a.sha AND known.high = b.sha
        ), turns AS (
            SELECT *, sum(wait) OVER (
                PARTITION BY asked, state ORDER BY drawn, row_a, row_b ROWS UNBOUNDED PRECEDING
            ) / share AS turn
            FROM possible WHERE share > 0
        )
        SELECT CASE WHEN drawn % 2 = 0 THEN row_a ELSE row_b END AS row_0,
            CASE WHEN drawn % 2 = 0 THEN row_b ELSE row_a END AS row_1, state, drawn
        FROM turns
        QUALIFY row_number() OVER (PARTITION BY asked ORDER BY {undecided_first} turn, state = 1, drawn, row_a, row_b)
            <= $most
        """,
        {"seed": seed, "most": strategy.per_prompt},
    )
    found = dict(con.sql("SELECT state, count(*) FROM candidate GROUP BY state").fetchall())
    return {name: found.get(state, 0) for state, name in STATES.items()}


def _choose(
    con: duckdb.DuckDBPyConnection, strategy: PairStrategy, possible: dict[str, int]
) -> dict[str, NDArray[np.int64]]:
    """State -> the rows of the two responses of each pair, shape (P, 2)."""
    wanted = {state: share for state, share in strategy.shares().items() if share and possible[state]}
    total = min((possible[state] / share for state, share in wanted.items()), default=0.0)
    chosen = {}
    for state, name in STATES.items():
        most = possible[name] if strategy.mixed is None else int(total * wanted.get(name, 0.0) + 1e-6)
        rows = con.sql(
            f"SELECT row_0, row_1 FROM candidate WHERE state = {state} ORDER BY drawn, row_0, row_1 LIMIT {most}"
        ).fetchnumpy()
        chosen[name] = np.stack([rows["row_0"], rows["row_1"]], axis=1).astype(np.int64).reshape(-1, 2)
    return chosen


def _pair_rows(responses: pa.Table, rows: NDArray[np.int64]) -> list[pa.RecordBatch]:
    """The rows of `pairs-extended` for pairs of responses, given by their places in the table, shape (P, 2)."""
    sides = [responses.take(pa.array(rows[:, i])) for i in (0, 1)]
    columns: dict[str, Any] = {}
    for i, side in enumerate(sides):
        columns |= {
            f"response_{i}": side["response"],
            f"response_{i}_source": side["response_source"],
            f"response_{i}_sha256": side["sha256"],
            f"is_response_{i}_safe": side["is_safe"],
            f"response_{i}_harm_category": side["harm_category"],
            f"response_{i}_severity_level": side["severity_level"],
            f"response_{i}_categories": side["categories"],
        }
    first, second = sides
    for name in ("prompt", "prompt_source", "taxonomy", "split", "turns", "image", "language", "dataset"):
        columns[name] = pc.if_else(first[name].is_valid(), first[name], second[name])
    columns["licence"] = _both(first["licence"], second["licence"])
    one_safe = pc.not_equal(first["is_safe"], second["is_safe"])
    columns["safer_derived"] = pc.if_else(one_safe, True, pa.scalar(None, pa.bool_()))
    columns["safer_response_id"] = pc.if_else(one_safe, pc.if_else(first["is_safe"], 0, 1), pa.scalar(None, pa.int64()))
    schema = TABLES["pairs-extended"]
    table = pa.table([columns.get(f.name, pa.nulls(len(rows), f.type)) for f in schema], schema=schema)
    batches: list[pa.RecordBatch] = table.to_batches(max_chunksize=BATCH)
    return batches


def _both(first: pa.ChunkedArray, second: pa.ChunkedArray) -> pa.ChunkedArray:
    """The licence of a pair: that of its responses, or both licences as one SPDX expression."""
    joined = pc.binary_join_element_wise(first, second, " AND ")
    return pc.if_else(pc.fill_null(pc.equal(first, second), False), first, pc.coalesce(joined, first, second))
