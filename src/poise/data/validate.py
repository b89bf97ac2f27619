"""Named rules checked on tables and on a release's files alone; bad rows kept out, mended or only reported.

A third party can run `validate_release` on a folder without our logs: hashes, order, labels, duplicates and the split
are recomputed from the columns, and the files are held against the manifest. A summary names rows by unit and position,
never by text.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa

from poise.data.columns import SCHEMAS
from poise.data.folders import write_json
from poise.data.mending import mended
from poise.data.release_files import not_as_in_manifest, release_batches, split_leaks, wrong_columns
from poise.data.rules import RULES, Mask, View, broken_rows
from poise.data.seen import LabelBook, RowBook, TargetBook
from poise.data.tables import Table, Tables, TableWriter, open_tables
from poise.errors import PoiseError

Mode = Literal["raise", "quarantine", "repair", "keep"]
Progress = Callable[[int, str], object]

_EXAMPLES = 20


@dataclass
class Validation:
    """What was found.

    Args:
        rows: unit (of a release "config/split") -> number of rows.
        counts: rule -> number of rows (for `split-leak` clusters, for `manifest` files) that break it; all are listed.
        examples: rule -> places "unit/row" (row from 0) of the first 20.
        repaired: rule -> rows that broke it and break no rule after mending, in mode "repair"; `counts` has the rest.
        unread: folders under `data/` that are no unit of ours.
    """

    rows: dict[str, int] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(RULES, 0))
    examples: dict[str, list[str]] = field(default_factory=dict)
    repaired: Counter[str] = field(default_factory=Counter)
    unread: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """True when no rule is broken, warnings aside."""
        return not any(self.errors.values())

    @property
    def errors(self) -> dict[str, int]:
        """Rule -> rows that break it, for the rules that are no mere warning."""
        return {rule: count for rule, count in self.counts.items() if RULES[rule].level == "error"}

    def add(self, rule: str, place: str, count: int = 1) -> None:
        """Count violations, one of which is at `place`."""
        self.counts[rule] += count
        if len(self.examples.setdefault(rule, [])) < _EXAMPLES:
            self.examples[rule].append(place)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        rules = {
            name: {"demands": rule.demands, "level": rule.level, "broken": self.counts[name]}
            for name, rule in RULES.items()
        }
        found = {"ok": self.ok, "rows": self.rows, "rules": rules, "examples": self.examples}
        return found | {"repaired": dict(self.repaired), "unread": self.unread}

    def summary(self) -> str:
        """A few lines for people."""
        lines = [", ".join(f"{unit} {rows:,}" for unit, rows in self.rows.items())]
        for rule, count in self.counts.items():
            if count:
                first = ", ".join(self.examples[rule][:3])
                lines.append(f"{RULES[rule].level:8s} {rule:24s} {count:>9,}  first: {first}")
        lines += [f"mended   {rule:24s} {count:>9,}" for rule, count in self.repaired.items()]
        return "\n".join([*lines, "valid" if self.ok else "not valid"])


def validate(
    tables: Tables,
    mode: Mode = "keep",
    out: Path | None = None,
    *,
    replace: bool = False,
    progress: Progress | None = None,
) -> Validation:
    """Check all rows; with `out`, write what mode makes of them, and `validation.json` beside them.

    Args:
        mode: "raise" stops at the first error; "quarantine" writes the good rows and puts the others into
            `quarantine.jsonl` with rule and place; "repair" mends what can be mended without guessing
            (`poise.data.mending`), lists each mended row in `repairs.jsonl` and quarantines the rest; "keep" writes all
            rows and only reports. Warnings keep nothing out.

    Raises:
        PoiseError: in mode "raise"; or `out` is in use.
    """
    if out is None:
        return _check(tables, mode, None, progress, Validation())
    with TableWriter(out, {"name": "validate", "mode": mode}, [tables], replace=replace) as writer:
        result = _check(tables, mode, writer, progress, Validation())
        write_json(writer.parts / "validation.json", result.to_json())
    return result


def validate_release(folder: Path, progress: Progress | None = None) -> Validation:
    """Check a release from its files alone, held to what a release needs.

    Raises:
        PoiseError: no unit of ours is there, or a file is no Parquet file.
    """
    tables = open_tables(folder)
    result = Validation(unread=sorted({p.name for p in folder.glob("data/*") if p.is_dir()} - set(SCHEMAS)))
    result = _check(tables, "keep", None, progress, result, strict=True)
    for rule, places in (
        ("field-type", wrong_columns(tables)),
        ("manifest", not_as_in_manifest(folder)),
        ("split-leak", split_leaks(tables)),
    ):
        for place in places:
            result.add(rule, place)
    return result


def _check(
    tables: Tables,
    mode: Mode,
    writer: TableWriter | None,
    progress: Progress | None,
    result: Validation,
    *,
    strict: bool = False,
) -> Validation:
    labels, targets = LabelBook(), TargetBook()
    for unit, table in tables.items():
        seen = RowBook()
        number: Counter[str] = Counter()
        for file in table.files:
            name = f"{unit}/{file.name.split('-')[0]}" if strict else unit
            for batch in release_batches(unit, file) if strict else Table(unit, (file,)).batches():
                looked = _look(View(unit, batch, strict), mode, seen, result)
                _note(result, looked.found, name, number[name], mode)
                labels.add(looked.view, name, number[name])
                targets.add(looked.view, name, number[name])
                if writer is not None:
                    _keep(writer, looked, batch, mode, name, number[name])
                number[name] += batch.num_rows
                result.rows[name] = number[name]
                if progress is not None:
                    progress(batch.num_rows, unit)
    across = {"label-conflict": labels.conflicts(_EXAMPLES), "judgement-target": targets.missing(_EXAMPLES)}
    for rule, (count, places) in across.items():
        result.counts[rule] = count
        result.examples |= {rule: places} if places else {}
    return result


class _Looked(NamedTuple):
    """A batch after its check, rule -> rows that break it, and what mode "repair" did: rows mended, copies left out."""

    view: View
    found: dict[str, Mask]
    mended: Mask
    dropped: Mask


def _look(view: View, mode: Mode, seen: RowBook, result: Validation) -> _Looked:
    found, fixed = broken_rows(view), view.nothing
    if mode == "repair" and found:
        batch, fixed = mended(view, found)
        result.repaired.update(
            {rule: int((mask & fixed).sum()) for rule, mask in found.items() if (mask & fixed).any()}
        )
        found = {rule: mask & ~fixed for rule, mask in found.items() if (mask & ~fixed).any()}
        view = View(view.unit, batch, view.strict)
    repeats = seen.repeats(view, ~np.logical_or.reduce([view.nothing, *found.values()]))
    if not repeats.any():
        return _Looked(view, found, fixed, repeats)
    if mode != "repair":
        return _Looked(view, found | {"duplicate-row": repeats}, fixed, view.nothing)
    result.repaired["duplicate-row"] += int(repeats.sum())
    return _Looked(view, found, fixed, repeats)


def _note(result: Validation, found: dict[str, Mask], name: str, before: int, mode: Mode) -> None:
    for rule, mask in found.items():
        rows = np.flatnonzero(mask)
        place = f"{name}/{before + int(rows[0])}"
        if mode == "raise":
            raise PoiseError(f"{rule}: not so: {RULES[rule].demands}", where=place, do="mend it or use mode quarantine")
        for row in rows[:_EXAMPLES]:
            result.add(rule, f"{name}/{before + int(row)}", 0)
        result.counts[rule] += len(rows)


def _keep(writer: TableWriter, looked: _Looked, given: pa.RecordBatch, mode: Mode, name: str, before: int) -> None:
    """Write the good rows, mended where that was done, and quarantine the others as they were given."""
    view = looked.view
    bad = np.logical_or.reduce([view.nothing, *looked.found.values()])
    if mode == "keep":
        writer.write(view.unit, given)
        return
    good = ~(bad | looked.dropped)
    writer.write(view.unit, view.batch if good.all() else view.batch.filter(pa.array(good)))
    for row in np.flatnonzero(bad).tolist():
        rules = [rule for rule, mask in looked.found.items() if mask[row]]
        reason = "; ".join(RULES[rule].demands for rule in rules)
        values = {column: _plain(given.column(column)[row]) for column in given.schema.names}
        writer.quarantine(rules[0], reason, f"{name}/{before + row}", values)
    for row in np.flatnonzero(looked.mended | looked.dropped).tolist():
        done = ["duplicate-row: left out"] if looked.dropped[row] else _changes(given, view.batch, row)
        writer.repaired(f"{name}/{before + row}", done)


def _changes(given: pa.RecordBatch, mended: pa.RecordBatch, row: int) -> list[str]:
    """ "column: before -> after" of each column that mending changed; it changes no text."""
    done = []
    for column in given.schema.names:
        before, after = _told(given.column(column)[row].as_py()), _told(mended.column(column)[row].as_py())
        if before != after:
            done.append(f"{column}: {before} -> {after}")
    return done


def _told(value: Any) -> str:
    """Flags of categories as the names of those that hold."""
    if isinstance(value, dict):
        return ", ".join(name for name, flag in value.items() if flag) or "none"
    return str(value)


def _plain(value: Any) -> Any:
    """A value as JSON can hold it: bad bytes replaced, "nan" and "inf" as text."""
    if not value.is_valid:
        return None
    if isinstance(value, pa.StringScalar):
        return value.as_buffer().to_pybytes().decode("utf-8", "replace")
    if isinstance(value, pa.ListScalar):
        return [_plain(inner) for inner in value.values]
    if isinstance(value, pa.StructScalar):
        return {name: _plain(inner) for name, inner in value.items()}
    plain = value.as_py()
    return str(plain) if isinstance(plain, float) and not math.isfinite(plain) else plain
