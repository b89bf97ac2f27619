"""Named rules checked on tables and on a release's files alone; bad rows kept out, mended or only reported.

A third party can run `validate_release` on a folder without our logs: hashes, order, labels, duplicates and the split
are recomputed from the columns, and the files are held against the manifest. A summary names rows by unit and position,
never by text.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from poise.data.columns import RESPONSES, SCHEMAS, hash_column, prompt_column
from poise.data.keys import Keys, conversation_columns, conversations, hash_keys
from poise.data.mending import mended
from poise.data.neardup import clusters
from poise.data.rules import RULES, Mask, View, broken_rows
from poise.data.tables import Tables, TableWriter, open_tables, write_json
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
        repaired: rule -> rows mended, in mode "repair".
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
            (`poise.data.mending`) and quarantines the rest; "keep" writes all rows and only reports. Warnings keep
            nothing out.

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
    for config, path in _wrong_columns(tables):
        result.add("field-type", f"{config}/{path}")
    for path in _not_as_in_manifest(tables):
        result.add("manifest", path)
    for place in _split_leaks(tables):
        result.add("split-leak", place)
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
    labels = _LabelBook()
    for unit, table in tables.items():
        seen: set[int] = set()
        number: Counter[str] = Counter()
        for file, batch in _placed(table.files, table.batches()):
            name = f"{unit}/{file.name.split('-')[0]}" if strict else unit
            view, found = _looked_at(View(unit, batch, strict), mode, seen, result)
            _note(result, found, name, number[name], mode)
            labels.add(view, name, number[name])
            if writer is not None:
                _keep(writer, view, found, mode, name, number[name])
            number[name] += batch.num_rows
            result.rows[name] = number[name]
            if progress is not None:
                progress(batch.num_rows, unit)
    result.counts["label-conflict"], places = labels.conflicts()
    result.examples |= {"label-conflict": places} if places else {}
    return result


def _looked_at(view: View, mode: Mode, seen: set[int], result: Validation) -> tuple[View, dict[str, Mask]]:
    """A batch and the rules that its rows break; in mode "repair" after mending, and without later copies of rows."""
    found = broken_rows(view)
    if mode == "repair" and found:
        batch, fixed = mended(view, found)
        result.repaired.update(fixed)
        view = View(view.unit, batch, view.strict)
        found = broken_rows(view)
    if "encoding" in found:
        return view, found
    repeats = _repeats(view, seen)
    if repeats.any() and mode == "repair":
        result.repaired["duplicate-row"] += int(repeats.sum())
        view = View(view.unit, view.batch.filter(pa.array(~repeats)), view.strict)
        found = {rule: mask[~repeats] for rule, mask in found.items() if mask[~repeats].any()}
    elif repeats.any():
        found["duplicate-row"] = repeats
    return view, found


def _placed(files: tuple[Path, ...], batches: Iterator[pa.RecordBatch]) -> Iterator[tuple[Path, pa.RecordBatch]]:
    """Each batch with the file that it comes from; a file without rows has no batch."""
    left = [(file, pq.read_metadata(file).num_rows) for file in files]
    place, rest = 0, left[0][1] if left else 0
    for batch in batches:
        while rest == 0:
            place += 1
            rest = left[place][1]
        yield left[place][0], batch
        rest -= batch.num_rows


def _note(result: Validation, found: dict[str, Mask], name: str, before: int, mode: Mode) -> None:
    for rule, mask in found.items():
        rows = np.flatnonzero(mask)
        place = f"{name}/{before + int(rows[0])}"
        if mode == "raise":
            raise PoiseError(f"{rule}: not so: {RULES[rule].demands}", where=place, do="mend it or use mode quarantine")
        for row in rows[:_EXAMPLES]:
            result.add(rule, f"{name}/{before + int(row)}", 0)
        result.counts[rule] += len(rows)


def _keep(writer: TableWriter, view: View, found: dict[str, Mask], mode: Mode, name: str, before: int) -> None:
    bad = np.logical_or.reduce([view.nothing, *found.values()])
    if mode == "keep" or not bad.any():
        writer.write(view.unit, view.batch)
        return
    writer.write(view.unit, view.batch.filter(pa.array(~bad)))
    for row in np.flatnonzero(bad):
        rules = [rule for rule, mask in found.items() if mask[row]]
        values = _as_python(view.batch, int(row))
        writer.quarantine(
            rules[0], "; ".join(RULES[rule].demands for rule in rules), f"{name}/{before + int(row)}", values
        )


def _as_python(batch: pa.RecordBatch, row: int) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        try:
            values[name] = column[row].as_py()
        except UnicodeDecodeError:
            values[name] = column[row].as_buffer().to_pybytes().decode("utf-8", "replace")
    return values


def _repeats(view: View, seen: set[int]) -> Mask:
    """Rows that came before, by 128-bit keys: the chance that two of ten million different rows meet is 10^-25."""
    if view.unit == "judgements":
        columns = [view.column(name).to_pylist() for name in ("item", "question", "rater", "round")]
        texts = ["\x1f".join(map(str, row)) for row in zip(*columns, strict=True)]
    elif not RESPONSES[view.unit]:
        texts = [
            f"{image}\x1f{asked}"
            for image, asked in zip(view.column("image").to_pylist(), conversations(view.batch, view.unit), strict=True)
        ]
    else:
        sides = [view.hashes[response] for response in RESPONSES[view.unit]]
        pair = view.unit != "corrections"
        texts = ["".join(sorted(row) if pair else row) for row in zip(*sides, strict=True)]
    keys = [int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest()) for text in texts]
    repeated = view.nothing.copy()
    for row, key in enumerate(keys):
        if key in seen:
            repeated[row] = True
        seen.add(key)
    return repeated


class _LabelBook:
    """The severity of every labelled response, to find those that have two; 17 bytes a response."""

    def __init__(self) -> None:
        self._keys: list[Keys] = []
        self._levels: list[NDArray[np.int8]] = []
        self._rows: list[NDArray[np.int64]] = []
        self._names: list[str] = []

    def add(self, view: View, name: str, before: int) -> None:
        """Note the labels of a batch; `before` rows of `name` came before it."""
        for response, label in zip(RESPONSES[view.unit], view.labels, strict=False):
            known = np.flatnonzero(label.safe_known & label.severity_known)
            if len(known):
                self._keys.append(hash_keys(view.column(hash_column(view.unit, response)))[known])
                self._levels.append(label.severity[known].astype(np.int8))
                self._rows.append(known + before)
                self._names += [name]

    def conflicts(self) -> tuple[int, list[str]]:
        """(rows whose response has another severity where it stands first, places of the first ones)."""
        if not self._keys:
            return 0, []
        keys, levels = np.concatenate(self._keys), np.concatenate(self._levels)
        order = np.argsort(keys, kind="stable")
        starts = np.concatenate([[True], keys[order][1:] != keys[order][:-1]])
        first = levels[order][np.flatnonzero(starts)][np.cumsum(starts) - 1]
        wrong = np.sort(order[(first != levels[order]) & (keys[order] != 0)])
        ends = np.cumsum([len(part) for part in self._keys])
        rows = np.concatenate(self._rows)
        parts = np.searchsorted(ends, wrong[:_EXAMPLES], side="right")
        return len(wrong), [f"{self._names[part]}/{rows[row]}" for part, row in zip(parts, wrong, strict=False)]


def _wrong_columns(tables: Tables) -> Iterator[tuple[str, str]]:
    for unit, table in tables.items():
        for file in table.files:
            there = pq.read_schema(file)
            if not all(
                name in there.names and there.field(name).type == SCHEMAS[unit].field(name).type
                for name in SCHEMAS[unit].names
            ):
                yield unit, file.name


def _not_as_in_manifest(tables: Tables) -> Iterator[str]:
    """Files that differ from the manifest, are missing, or are not in it; nothing where there is no manifest."""
    named = {entry["path"]: entry for entry in tables.manifest().get("files", [])}
    if not named:
        return
    there = {path.relative_to(tables.folder).as_posix() for path in tables.folder.glob("data/**/*.parquet")}
    yield from sorted(there - set(named))
    for path, entry in named.items():
        file = tables.folder / path
        if not file.is_file():
            yield path
            continue
        with file.open("rb") as content:
            if hashlib.file_digest(content, "sha256").hexdigest() != entry["sha256"]:
                yield path


def _split_leaks(tables: Tables) -> Iterator[str]:
    """One place for each near-duplicate cluster of conversations that lies in more than one split."""
    first: dict[str, dict[str, str]] = {}
    for unit, table in tables.items():
        if prompt_column(unit) is None:
            continue
        number: Counter[str] = Counter()
        for batch in table.batches([*conversation_columns(unit), "split"]):
            for text, split in zip(conversations(batch, unit), batch.column("split").to_pylist(), strict=True):
                if split is not None and text is not None:
                    first.setdefault(text, {}).setdefault(split, f"{unit}/{split}/{number[split]}")
                number[split] += 1
    by_cluster: dict[int, dict[str, str]] = defaultdict(dict)
    for cluster, (_, places) in zip(clusters(list(first)).tolist(), first.items(), strict=True):
        for split, place in places.items():
            by_cluster[cluster].setdefault(split, place)
    for splits in by_cluster.values():
        if len(splits) > 1:
            yield splits.get("test", max(splits.values()))
