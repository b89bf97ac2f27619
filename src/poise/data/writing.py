"""Tables -> a file of a public format.

Each row goes to the format's `encode` together with the judgements about it, which are looked up a batch at a time, so
the file can be larger than memory. What a format has no place for is lost; its module says what.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb

from poise.data.adapters.base import Format
from poise.data.columns import TABLES, hash_column
from poise.data.containers import write_lines
from poise.data.from_columns import record_of
from poise.data.records import JudgementRecord
from poise.data.tables import Table, Tables
from poise.errors import PoiseError


def write_format(tables: Tables, format: Format, path: Path) -> int:
    """Write all rows that the format has a place for; returns the number of rows in the file.

    Raises:
        PoiseError: the format is only read, or the tables hold no unit that it can hold.
    """
    if format.encode is None:
        raise PoiseError(
            f"format {format.name!r} is only read", do="see `poise data formats` for those that are written"
        )
    units = [unit for unit in format.units if unit in tables]
    if not units:
        raise PoiseError(
            f"no {' or '.join(format.units)} rows for format {format.name!r}",
            where=str(tables.folder),
            do="choose another",
        )
    return write_lines(path, _encoded(tables, format, units))


def _encoded(tables: Tables, format: Format, units: Sequence[str]) -> Iterator[Mapping[str, Any]]:
    encode = format.encode
    assert encode is not None
    for unit in units:
        for batch in tables[unit].batches():
            rows = batch.to_pylist()
            judged = _judgements(tables.get("judgements"), unit, rows)
            for row in rows:
                yield from encode(record_of(unit, row), judged.get(_key(unit, row), ()))


def _key(unit: str, row: Mapping[str, Any]) -> tuple[str, ...]:
    """The response hashes that judgements name a row by; a prompt has none."""
    responses = {"qa": ("response",), "default": ("response_0", "response_1")}
    responses["single-dimension"] = responses["default"]
    return tuple(row[hash_column(unit, response)] for response in responses.get(unit, ()))


def _judgements(
    table: Table | None, unit: str, rows: Sequence[Mapping[str, Any]]
) -> dict[tuple[str, ...], list[JudgementRecord]]:
    """The judgements about these rows, by response hashes, in the order of the log."""
    found: dict[tuple[str, ...], list[JudgementRecord]] = defaultdict(list)
    keys = sorted({key for row in rows if (key := _key(unit, row))})
    if table is None or not keys:
        return found
    with duckdb.connect() as db:
        db.execute("create table wanted (key varchar)")
        db.executemany("insert into wanted values (?)", [[":".join(key)] for key in keys])
        columns = ", ".join(f'"{name}"' for name in TABLES["judgements"].names)
        relation = db.sql(
            f"select {columns} from read_parquet($files, union_by_name = true) "
            "where concat_ws(':', response_0_sha256, response_1_sha256) in (select key from wanted)",
            params={"files": [str(file) for file in table.files]},
        )
        for row in relation.to_arrow_table().to_pylist():
            record = record_of("judgements", row)
            assert isinstance(record, JudgementRecord)
            found[record.responses].append(record)
    return found
