"""Labels of tables carried from one taxonomy to another, with what was lost on the way.

To "pku-19": the 19 flags are filled from the source's own categories, true, false or undecided (null), so that a guard
learns only what is known; the source's categories stay beside them. From "pku-19": the categories of the target are
filled, and what a third taxonomy said of the row goes. What a label means in the other taxonomy is decided in
`poise.harm.crosswalk`; severity is never derived, except that a safe answer has severity 0.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from poise.data.columns import FOREIGN, RESPONSES, TABLES, label_columns
from poise.data.folders import write_json
from poise.data.tables import Tables, TableWriter, open_tables
from poise.errors import PoiseError
from poise.harm import CATEGORIES, Category
from poise.harm.crosswalk import Translation, load_crosswalk, translate
from poise.harm.taxonomy import PKU, load_taxonomy

Row = dict[str, Any]


class Losses(NamedTuple):
    """What a mapping lost, counted in answers (or prompts).

    Args:
        labels: labels translated.
        lossy: "source sign target" of each cell used that is no near-equivalence -> labels that used it.
        unmapped: source category without a counterpart -> labels that have it.
        unknown: unsafe labels for which no category of the target could be named.
    """

    labels: int
    lossy: dict[str, int]
    unmapped: dict[str, int]
    unknown: int


def map_tables(tables: Tables, target: str, out: Path, *, replace: bool = False) -> tuple[Tables, Losses]:
    """Tables whose labels are also in the taxonomy `target`, and `crosswalk.json` with the losses beside them.

    Raises:
        PoiseError: an unknown taxonomy, a category that its taxonomy does not have, or two foreign taxonomies at once.
    """
    target = load_taxonomy(target).name
    seen: Counter[str] = Counter()
    lossy: Counter[str] = Counter()
    unmapped: Counter[str] = Counter()

    def note(found: Translation) -> Translation:
        seen["labels"] += 1
        seen["unknown"] += found.unsafe is True and found.categories is None
        lossy.update(f"{cell.source} {cell.relation} {cell.target}" for cell in found.lossy)
        unmapped.update(found.unmapped)
        return found

    with TableWriter(out, {"name": "map", "target": target}, [tables], replace=replace) as writer:
        for unit, table in tables.items():
            for batch in table.batches():
                rows = batch.to_pylist() if unit in FOREIGN else []
                for row in rows:
                    try:
                        _map_row(unit, row, target, note)
                    except PoiseError as error:
                        raise PoiseError(f"{error.what} of {error.where}", where=f"{unit} row", do=error.do) from error
                writer.write(unit, pa.RecordBatch.from_pylist(rows, schema=TABLES[unit]) if rows else batch)
        losses = Losses(seen["labels"], dict(lossy.most_common()), dict(unmapped.most_common()), seen["unknown"])
        write_json(writer.parts / "crosswalk.json", {"target": target, **losses._asdict()})
    return open_tables(out), losses


def _map_row(unit: str, row: Row, target: str, note: Callable[[Translation], Translation]) -> None:
    if unit == "prompt":
        _map_prompt(row, target, note)
        return
    for response in RESPONSES[unit]:
        names = label_columns(unit, response)
        foreign = "categories" if unit == "qa" else f"{response}_categories"
        if names is None:
            continue
        safe, flags, severity = names
        if target == PKU:
            found = _translated(row[safe], row[foreign], row["taxonomy"], PKU, note)
            if found is not None and row[flags] is None:
                row[flags] = _flags(found)
                row[severity] = 0 if found.unsafe is False and row[severity] is None else row[severity]
        elif row[flags] is not None and None not in row[flags].values():
            if row["taxonomy"] != target:
                _clear(unit, row)
            ours = [name for name, true in row[flags].items() if true]
            found = _translated(row[safe], ours, PKU, target, note)
            row[foreign] = None if found is None or found.categories is None else sorted(found.categories)
            row["taxonomy"] = target


def _clear(unit: str, row: Row) -> None:
    """Drop the categories of a third taxonomy from all responses: a row has one taxonomy beside ours."""
    for name, _ in FOREIGN[unit]:
        row[name] = None


def _map_prompt(row: Row, target: str, note: Callable[[Translation], Translation]) -> None:
    """A prompt holds one list of categories; where it names one of ours and had none to be written for, that is it."""
    if row["taxonomy"] in (None, target):
        return
    if PKU not in (target, row["taxonomy"]):
        raise PoiseError(f"labels in {row['taxonomy']!r}", where=target, do="map to pku-19 first")
    found = _translated(row["is_safe"], row["categories"], row["taxonomy"], target, note)
    if found is None or found.categories is None:
        row["taxonomy"] = row["categories"] = None
        return
    row["taxonomy"], row["categories"] = target, sorted(found.categories)
    if target == PKU and len(found.categories) == 1 and row["category"] is None:
        row["category"] = Category.parse(next(iter(found.categories))).code


def _translated(
    safe: bool | None,
    categories: Sequence[str] | None,
    source: str | None,
    target: str,
    note: Callable[[Translation], Translation],
) -> Translation | None:
    """What a label is in the target, None when it has no categories; unsafe without categories stays unsafe."""
    if categories is None or source is None or source == target:
        return None
    named = None if safe is False and not categories else categories
    return note(translate(named, load_crosswalk(source, target)))


def _flags(found: Translation) -> dict[str, bool | None] | None:
    if found.categories is None and not found.absent:
        return None
    decided = dict.fromkeys(found.absent, False) | dict.fromkeys(found.categories or (), True)
    return {category.value: decided.get(category.value) for category in CATEGORIES}
