"""What card and Croissant say in numbers, counted from the Parquet files of a release alone."""

from __future__ import annotations

import tempfile
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from poise.data.columns import HARM_CATEGORY
from poise.data.tables import Tables, open_tables

_MEMORY = "800MB"  # of the database; what needs more goes to disk


class SplitSize(NamedTuple):
    """Rows of a split, and its bytes without and with compression."""

    rows: int = 0
    uncompressed: int = 0
    compressed: int = 0


class ConfigFiles(NamedTuple):
    """The files of a config: its columns, and split -> size, train first."""

    schema: pa.Schema
    splits: dict[str, SplitSize]

    @property
    def rows(self) -> int:
        """Rows of all splits."""
        return sum(size.rows for size in self.splits.values())


class Question(NamedTuple):
    """How often one question was answered, a rater's last answer counted.

    Args:
        items: what has at least one answer.
        mean, fewest, most: raters an item.
        shared: items with several raters.
        agreed: of these, items to which all gave the same answer.
    """

    name: str
    items: int
    mean: float
    fewest: int
    most: int
    shared: int
    agreed: int

    @property
    def raters_text(self) -> str:
        """Raters an item in words: "2" or "1.5 (1 to 3)"."""
        if self.fewest == self.most:
            return str(self.most)
        return f"{self.mean:.2f} ({self.fewest} to {self.most})"


@dataclass
class ReleaseCounts:
    """Counts of a release.

    Args:
        configs: config -> its files, those that are there.
        severities: severity -> responses of `qa`.
        categories: public category name -> responses of `qa`.
        pairs: number of safe responses -> pairs of `default`.
        raters: kind -> raters.
        models: names and versions of the raters that are models.
        questions: each question of `judgements`.
        languages, datasets: values of these columns in any config, sorted.
    """

    configs: dict[str, ConfigFiles]
    severities: dict[int, int] = field(default_factory=dict)
    categories: dict[str, int] = field(default_factory=dict)
    pairs: dict[int, int] = field(default_factory=dict)
    raters: dict[str, int] = field(default_factory=dict)
    models: list[str] = field(default_factory=list)
    questions: list[Question] = field(default_factory=list)
    languages: list[str] = field(default_factory=list)
    datasets: list[str] = field(default_factory=list)


def count_release(folder: Path) -> ReleaseCounts:
    """Count what lies below `<folder>/data/`.

    Raises:
        PoiseError: there is no config in it.
    """
    tables = open_tables(folder)
    counts = ReleaseCounts({unit: _files(tables, unit) for unit in tables})
    with (
        tempfile.TemporaryDirectory(dir=folder, prefix=".count-") as spill,
        duckdb.connect(config={"memory_limit": _MEMORY, "temp_directory": spill, "threads": 2}) as con,
    ):
        for unit, table in tables.items():
            con.read_parquet([str(file) for file in table.files]).create_view(unit)
        if "qa" in tables:
            counts.severities = dict(con.sql("SELECT severity_level, count(*) FROM qa GROUP BY ALL").fetchall())
            sums = ", ".join(f"count_if(harm_category['{flag.name}'])" for flag in HARM_CATEGORY)
            found = con.sql(f"SELECT {sums} FROM qa").fetchall()[0]
            counts.categories = dict(zip((flag.name for flag in HARM_CATEGORY), found, strict=True))
        if "default" in tables:
            safe = "is_response_0_safe::INT + is_response_1_safe::INT"
            counts.pairs = dict(con.sql(f'SELECT {safe}, count(*) FROM "default" GROUP BY ALL').fetchall())
        if "judgements" in tables:
            _count_judgements(con, counts)
        counts.languages, counts.datasets = (_values(con, counts, name) for name in ("language", "dataset"))
    return counts


def _files(tables: Tables, unit: str) -> ConfigFiles:
    sizes: dict[str, list[SplitSize]] = defaultdict(list)
    for file in tables[unit].files:
        footer = pq.read_metadata(file)
        uncompressed = sum(footer.row_group(group).total_byte_size for group in range(footer.num_row_groups))
        sizes[file.name.split("-")[0]].append(SplitSize(footer.num_rows, uncompressed, file.stat().st_size))
    splits = {split: SplitSize(*map(sum, zip(*sizes[split], strict=True))) for split in sorted(sizes, reverse=True)}
    return ConfigFiles(pq.read_schema(tables[unit].files[0]), splits)


def _count_judgements(con: duckdb.DuckDBPyConnection, counts: ReleaseCounts) -> None:
    kinds = "SELECT rater_kind, count(DISTINCT rater) FROM judgements GROUP BY ALL ORDER BY ALL"
    counts.raters = dict(con.sql(kinds).fetchall())
    models = "SELECT DISTINCT rater, rater_version FROM judgements WHERE rater_kind = 'model' ORDER BY ALL"
    counts.models = [" ".join(part for part in row if part) for row in con.sql(models).fetchall()]
    # hashes, because groups of them take a tenth of the memory that the texts would
    questions = """
        WITH answers AS (
            SELECT question, hash(item) AS item, rater, arg_max(hash(value), round) AS value
            FROM judgements WHERE value IS NOT NULL GROUP BY ALL
        ), items AS (
            SELECT question, item, count(*) AS raters, count(DISTINCT value) AS answers FROM answers GROUP BY ALL
        )
        SELECT question, count(*), avg(raters), min(raters), max(raters),
            count_if(raters > 1), count_if(raters > 1 AND answers = 1)
        FROM items GROUP BY question ORDER BY question
    """
    counts.questions = [Question(*row) for row in con.sql(questions).fetchall()]


def _values(con: duckdb.DuckDBPyConnection, counts: ReleaseCounts, column: str) -> list[str]:
    found: set[Any] = set()
    for unit, files in counts.configs.items():
        if column in files.schema.names:
            found |= {row[0] for row in con.sql(f'SELECT DISTINCT {column} FROM "{unit}"').fetchall()}
    return sorted(found - {None})
