"""Write tables as a public release: Parquet shards, card, Croissant, manifest and the validation of what was written.

    data/<config>/<split>-00000-of-000NN.parquet    zstd, page index, content-defined chunks
    README.md, croissant.json, manifest.json, validation.json

The same tables and seed give the same bytes: no time stamps, and rows in an order that is a hash of (seed, row), so
that the order in which they arrived tells nothing. Everything streams. The folder appears only when everything is
written and every rule holds. People appear as person-1, person-2, ... in the order of their first judgement.
"""

from __future__ import annotations

import math
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from poise.data.card import check_facts, render_card
from poise.data.columns import RESPONSES, SCHEMAS, UNITS, hash_column
from poise.data.croissant import render_croissant
from poise.data.folders import disk_error, manifest_of, partial_folder, write_json
from poise.data.release_configs import release_schema, sort_out
from poise.data.release_rows import Final, corpus_tables
from poise.data.rules import RULES
from poise.data.shuffle import Shuffle, bucket_count, row_keys
from poise.data.tables import Tables
from poise.data.validate import Progress, Validation, validate_release
from poise.errors import PoiseError

__all__ = ["Final", "Release", "corpus_tables", "write_release"]

SHARD_BYTES = 600_000_000
"""At most so much of a spill file goes into one shard, which takes about half as much: shards have 100 to 400 MB."""

ROW_GROUP = 10_000
"""Least rows of a row group but for the last."""

_BATCH = 16_384
_SPLITS = ("train", "test")


class Release(NamedTuple):
    """A written release: its folder, the content of `manifest.json`, the content of `validation.json`."""

    folder: Path
    manifest: dict[str, Any]
    validation: Validation


def write_release(
    tables: Tables,
    folder: Path,
    *,
    name: str,
    licence: str,
    seed: int,
    facts: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> Release:
    """Write every unit that holds rows as a config with train and test; a row without a split goes to train.

    A config has its public columns, and after them turns, image, language, data set, licence and labels in another
    taxonomy where any of its rows holds one (for the licence: another one than the release's). Rows that lack a
    column's value are left out and counted with the reason; dual pairs that are judged in part go to `pairs-extended`.

    Args:
        tables: the data; what the step that wrote them left out is counted too.
        folder: must not exist or be empty.
        name: title of the card.
        licence: of the data as a whole, SPDX id.
        seed: decides the order of rows.
        facts: key of `poise.data.card.FACTS` -> text for card and Croissant; what is missing reads "not recorded".
        progress: called with (rows done since the last call, unit).

    Raises:
        PoiseError: the folder is in use, no row is complete, a rule of `poise.data.rules` is broken, or the disk is
            full (exit code 3); then nothing is left behind.
    """
    facts = dict(facts or {})
    check_facts(facts)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise PoiseError("already exists and is not empty", where=str(folder), do="choose another folder or remove it")
    temporary = partial_folder(folder)
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        left_out, dropped = _left_out_before(tables)
        raters = _write_configs(tables, temporary, licence, seed, left_out, progress)
        validation = validate_release(temporary)
        _refuse_violations(validation, folder)
        counts = {config: dict(sorted(left_out[config].items())) for config in SCHEMAS}
        write_json(temporary / "validation.json", validation.to_json())
        card = render_card(temporary, name=name, licence=licence, left_out=counts, facts=facts)
        (temporary / "README.md").write_text(card, encoding="utf-8", newline="\n")
        write_json(temporary / "croissant.json", render_croissant(temporary, name=name, licence=licence, facts=facts))
        about = {"name": name, "licence": licence, "seed": seed, "raters": raters, "source_rows_dropped": dropped}
        manifest = about | {"left_out": counts}
        manifest |= manifest_of(temporary, {"name": "release", "seed": seed}, [tables.digest()])
        write_json(temporary / "manifest.json", manifest)
        if folder.exists():
            folder.rmdir()
        temporary.rename(folder)
    except OSError as error:
        raise disk_error(error, folder) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return Release(folder, manifest, validation)


def _left_out_before(tables: Tables) -> tuple[dict[str, Counter[str]], dict[str, int]]:
    """What the step that wrote the tables left out: unit -> reason -> rows, and what no unit is named for."""
    left_out: dict[str, Counter[str]] = {unit: Counter() for unit in UNITS}
    dropped: dict[str, int] = {}
    for key, count in sorted(tables.manifest().get("step", {}).get("left_out", {}).items()):
        unit, _, reason = key.partition(": ")
        if count and reason and unit in left_out:
            left_out[unit][reason] += count
        elif count:
            dropped[key] = count
    return left_out, dropped


def _write_configs(
    tables: Tables,
    folder: Path,
    licence: str,
    seed: int,
    left_out: dict[str, Counter[str]],
    progress: Progress | None,
) -> dict[str, int]:
    """Write all Parquet files and count what is left out; returns kind of rater -> raters."""
    spill = folder / "spill"
    people = _Pseudonyms()
    configs = {unit: _Config(unit, spill, tables, seed, licence) for unit in UNITS}
    for unit, config in configs.items():
        for batch in tables[unit].batches(size=_BATCH) if unit in tables else ():
            found = sort_out(unit, people.give(batch) if unit == "judgements" else batch)
            for place, reasons in found.left_out.items():
                left_out[place].update(reasons)
            config.add(found.complete)
            if found.extended is not None:
                configs["pairs-extended"].add(found.extended)
            if progress is not None:
                progress(batch.num_rows, unit)
        config.write(folder / "data" / unit)
    shutil.rmtree(spill, ignore_errors=True)
    if not (folder / "data").is_dir():
        raise PoiseError("the release would be empty: no row is complete", where=str(tables.folder), do=_why(left_out))
    return dict(sorted(people.kinds().items()))


def _why(left_out: Mapping[str, Counter[str]]) -> str:
    reasons = [f"{unit}: {reason} ({n})" for unit, found in left_out.items() for reason, n in found.most_common(1)]
    return "; ".join(reasons) or "read some rows first"


class _Pseudonyms:
    """Names of raters for the public: people are numbered in the order of their first judgement."""

    def __init__(self) -> None:
        self._shown: dict[tuple[str, str], str] = {}
        self._people = 0

    def give(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The judgements with the name that each rater has in public."""
        kinds = pc.fill_null(batch.column("rater_kind"), "import").to_pylist()
        shown = [self._name(*who) for who in zip(batch.column("rater").to_pylist(), kinds, strict=True)]
        place = batch.schema.get_field_index("rater")
        return batch.set_column(place, batch.schema.field(place), pa.array(shown, type=pa.string()))

    def _name(self, rater: str | None, kind: str) -> str | None:
        if rater is not None and (rater, kind) not in self._shown:
            self._people += kind == "person"
            self._shown[rater, kind] = f"person-{self._people}" if kind == "person" else rater
        return None if rater is None else self._shown[rater, kind]

    def kinds(self) -> Counter[str]:
        """Kind -> raters."""
        return Counter(kind for _, kind in self._shown)


class _Config:
    """The rows of one config on their way into its files."""

    def __init__(self, unit: str, spill: Path, tables: Tables, seed: int, licence: str) -> None:
        self.unit, self.seed, self.licence = unit, seed, licence
        sources = [unit, "default"] if unit == "pairs-extended" else [unit]
        files = [file for source in sources if source in tables for file in tables[source].files]
        rows = sum(tables[source].rows for source in sources if source in tables)
        buckets = bucket_count(rows, sum(file.stat().st_size for file in files))
        self._rows = {split: Shuffle(spill / f"{unit}-{split}.arrow", buckets) for split in _SPLITS}
        self._held: set[str] = set()

    def add(self, batch: pa.RecordBatch) -> None:
        """Take in rows with the columns of `release_schema`."""
        for name in set(batch.schema.names) - set(SCHEMAS[self.unit].names) - self._held - {"split"}:
            column = batch.column(name)
            if name == "licence":
                column = pc.if_else(pc.equal(pc.utf8_lower(column), self.licence.lower()), None, column)
            if column.null_count < len(column):
                self._held.add(name)
        keys = row_keys(batch, _identity(self.unit), f"{self.seed} {self.unit}")
        for split in _split_values(batch):
            chosen = pc.equal(batch.column("split"), split)
            self._rows[split].add(batch.filter(chosen), keys[chosen.to_numpy(zero_copy_only=False)])

    def write(self, folder: Path) -> None:
        """Write the shards of both splits, in the order of the keys."""
        names = [n for n in release_schema(self.unit).names if n in SCHEMAS[self.unit].names or n in self._held]
        for split, rows in self._rows.items():
            buckets = rows.finish()
            shards = min(math.ceil(rows.size / SHARD_BYTES), len(buckets))
            for number, part in enumerate(np.array_split(buckets, shards) if buckets else ()):
                path = folder / f"{split}-{number:05d}-of-{shards:05d}.parquet"
                _write_shard(path, (rows.bucket(int(bucket)).select(names) for bucket in part))
            rows.remove()


def _identity(unit: str) -> list[str]:
    """Columns that tell the rows of a unit apart."""
    if unit == "judgements":
        return ["item", "question", "rater", "round"]
    if unit == "prompt":
        return ["prompt", "turns", "image"]
    return [hash_column(unit, response) for response in RESPONSES[unit]]


def _split_values(batch: pa.RecordBatch) -> list[str]:
    found: list[str] = pc.unique(batch.column("split")).to_pylist()
    if odd := sorted(set(found) - set(_SPLITS)):
        raise PoiseError(f"split {odd[0]!r}", where="column split", do="use train and test, or run `poise data split`")
    return found


def _write_shard(path: Path, tables: Iterator[pa.Table]) -> None:
    """Write a Parquet file; tables are put together until they make a row group."""
    writer, group = None, []
    try:
        for table in tables:
            if writer is None:
                path.parent.mkdir(parents=True, exist_ok=True)
                writer = pq.ParquetWriter(
                    path, table.schema, compression="zstd", write_page_index=True, use_content_defined_chunking=True
                )
            group.append(table)
            if sum(len(part) for part in group) >= ROW_GROUP:
                writer.write_table(pa.concat_tables(group), row_group_size=sum(len(part) for part in group))
                group = []
        if writer is not None and group:
            writer.write_table(pa.concat_tables(group))
    finally:
        if writer is not None:
            writer.close()


def _refuse_violations(validation: Validation, folder: Path) -> None:
    broken = {rule: n for rule, n in validation.counts.items() if n and RULES[rule].level == "error"}
    if broken:
        rule = next(iter(broken))
        raise PoiseError(
            f"rows break {', '.join(f'{name} ({count})' for name, count in broken.items())}, "
            f"first {rule} at {validation.examples[rule][0]}",
            where=str(folder),
            do="mend the judgements, texts or split; no release was written",
        )
