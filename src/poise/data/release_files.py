"""What validation asks of the files of a release, beside their rows: types of columns, the manifest, the split."""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from poise.data.columns import SCHEMAS, TABLES, prompt_column
from poise.data.keys import conversation_columns, conversations
from poise.data.neardup import clusters
from poise.data.rules import unreadable
from poise.data.tables import Table, Tables
from poise.errors import PoiseError


def release_batches(unit: str, file: Path, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
    """All rows of a file with columns of `TABLES[unit]` (default: all).

    A column of another kind reads as null, like one that is not there.

    Raises:
        PoiseError: no Parquet file.
    """
    there = _schema(file)
    wanted = [TABLES[unit].field(name) for name in columns or TABLES[unit].names]
    fits = [f.name for f in wanted if f.name not in there.names or _fits(there.field(f.name).type, f.type)]
    for batch in Table(unit, (file,)).batches(fits):
        found = [batch.column(f.name) if f.name in fits else pa.nulls(batch.num_rows, f.type) for f in wanted]
        yield pa.RecordBatch.from_arrays(found, schema=pa.schema(wanted))


def wrong_columns(tables: Tables) -> Iterator[str]:
    """Files in which a public column is missing or has another type."""
    for unit, table in tables.items():
        for file in table.files:
            there = _schema(file)
            if not all(f.name in there.names and there.field(f.name).type == f.type for f in SCHEMAS[unit]):
                yield f"{unit}/{file.name}"


def _schema(file: Path) -> pa.Schema:
    try:
        return pq.read_schema(file)
    except (pa.ArrowException, OSError) as error:
        raise PoiseError(
            f"no readable Parquet file ({error})", where=str(file), do="write or fetch it again"
        ) from error


def _fits(there: pa.DataType, ours: pa.DataType) -> bool:
    """Whether a column is of the same kind, so that it can be cast without looking at its values."""
    kind = pa.types
    if kind.is_null(there) or there.equals(ours):
        return True
    if kind.is_struct(ours):
        inner = {field.name: field.type for field in there} if kind.is_struct(there) else None
        return inner is not None and all(_fits(inner.get(field.name, pa.null()), field.type) for field in ours)
    if kind.is_list(ours):
        return bool(kind.is_list(there) or kind.is_large_list(there)) and _fits(there.value_type, ours.value_type)
    if kind.is_string(ours):
        return bool(kind.is_large_string(there) or (kind.is_dictionary(there) and kind.is_string(there.value_type)))
    return bool(kind.is_integer(ours) and kind.is_integer(there)) or bool(
        kind.is_floating(ours) and (kind.is_floating(there) or kind.is_integer(there))
    )


def not_as_in_manifest(folder: Path) -> Iterator[str]:
    """Files that differ from the manifest, are missing, or are not in it; nothing where there is no manifest."""
    path = folder / "manifest.json"
    if not path.is_file():
        return
    try:
        named = {str(entry["path"]): entry for entry in json.loads(path.read_text(encoding="utf-8"))["files"]}
    except (ValueError, KeyError, TypeError):
        yield path.name  # no manifest of ours
        return
    yield from sorted({file.relative_to(folder).as_posix() for file in folder.rglob("*.parquet")} - set(named))
    for name, entry in named.items():
        if not _is_as_named(folder, name, entry):
            yield name


def _is_as_named(folder: Path, name: str, entry: dict[str, Any]) -> bool:
    file = folder / name
    if not file.resolve().is_relative_to(folder.resolve()) or not file.is_file():
        return False
    with file.open("rb") as content:
        if hashlib.file_digest(content, "sha256").hexdigest() != entry.get("sha256"):
            return False
    return "rows" not in entry or bool(pq.read_metadata(file).num_rows == entry["rows"])


def split_leaks(tables: Tables) -> Iterator[str]:
    """One place for each near-duplicate cluster of conversations that lies in more than one split."""
    first: dict[str, dict[str, str]] = {}
    for unit, table in tables.items():
        if prompt_column(unit) is not None:
            before: Counter[str] = Counter()
            for file in table.files:
                _note_conversations(first, unit, file, before)
    by_cluster: dict[int, dict[str, str]] = defaultdict(dict)
    for cluster, places in zip(clusters(list(first)).tolist(), first.values(), strict=True):
        for split, place in places.items():
            by_cluster[cluster].setdefault(split, place)
    for splits in by_cluster.values():
        if len(splits) > 1:
            yield splits.get("test", max(splits.values()))


def _note_conversations(first: dict[str, dict[str, str]], unit: str, file: Path, before: Counter[str]) -> None:
    """The first place of each conversation in each split; what cannot be read is left to the other rules."""
    name = f"{unit}/{file.name.split('-')[0]}"
    for batch in release_batches(unit, file, [*conversation_columns(unit), "split"]):
        asked = batch.column(0).is_valid().to_numpy(zero_copy_only=False) & ~unreadable(batch)
        rows = np.flatnonzero(asked)
        told = batch if asked.all() else batch.take(pa.array(rows))
        texts, splits = conversations(told, unit), told.column("split").to_pylist()
        for row, text, split in zip(rows.tolist(), texts, splits, strict=True):
            if split is not None and split not in (places := first.setdefault(text, {})):
                places[split] = f"{name}/{before[name] + row}"
        before[name] += batch.num_rows
