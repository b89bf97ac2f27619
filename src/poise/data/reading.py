"""Files in any known format -> tables, row by row.

A row that cannot be read is never fatal and never silent: it goes to `quarantine.jsonl` with the rule that it breaks
(mode "quarantine", the default), stops the reading ("raise"), or is mended first ("repair"). A file that is in another
format than said stops the reading at its first row, because quarantining all of it would hide the mistake.

Where rows are annotations without a name, each is by a rater of its own, since nobody tells which ones are by the same
person: `<name>-<8 hex digits of the file's SHA-256>-<number within file and item>`. So two files about the same items,
read together or apart and merged, have different raters, and a file that comes twice is no second vote.

Parquet files whose columns are ours (all PKU-SafeRLHF releases) are copied by column, without a Python object
a row. Left out: decisions between rows; `poise.data.validate` makes those.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import ValidationError

from poise.data.adapters.base import BadRowError, Format
from poise.data.columns import SCHEMAS, TABLES
from poise.data.containers import BadLine, Line, find_files, read_lines
from poise.data.records import JudgementRecord, PartialLabel, QARecord, Record
from poise.data.repair import LONE_SURROGATE, repair_source_row
from poise.data.tables import Table, Tables, TableWriter, open_tables
from poise.errors import PoiseError
from poise.harm.taxonomy import PKU

ReadMode = Literal["raise", "quarantine", "repair"]
Progress = Callable[[int, str], None]
"""Called with (rows done since the last call, what is being done)."""

COLUMNAR = {
    "pku-safe-rlhf": "default",
    "pku-single-dimension": "single-dimension",
    "pku-qa": "qa",
    "pku-prompt": "prompt",
}
"""Formats whose columns are ours, and their unit."""


@dataclass
class _Votes:
    """What the annotators of one item say: votes for safe, for unsafe, and for each category."""

    safe: int = 0
    unsafe: int = 0
    categories: Counter[str] = field(default_factory=Counter)
    taxonomy: str = PKU

    def add(self, label: PartialLabel) -> None:
        self.safe += label.safe is True
        self.unsafe += label.safe is False
        self.categories.update(label.categories or ())
        self.taxonomy = label.taxonomy

    def label(self) -> PartialLabel:
        """What more than half say; a tie is unjudged. Of an unsafe item no category may have a majority: unknown."""
        if self.safe == self.unsafe:
            return PartialLabel(taxonomy=self.taxonomy)
        if self.safe > self.unsafe:
            return PartialLabel(safe=True, categories=(), taxonomy=self.taxonomy)
        half = (self.safe + self.unsafe) / 2
        agreed = tuple(name for name, votes in self.categories.items() if votes > half)
        return PartialLabel(safe=False, categories=agreed or None, taxonomy=self.taxonomy)


@dataclass(frozen=True)
class Reader:
    """Reads files of one format.

    Args:
        format: how a row is read.
        mode: what happens to a row that can't be read.
        dataset, licence, split: given to records that name none; without a split, a file name that begins with "train"
            or "test" tells it.
    """

    format: Format
    mode: ReadMode = "quarantine"
    dataset: str | None = None
    licence: str | None = None
    split: Literal["train", "test"] | None = None

    def read(
        self, paths: Sequence[Path], out: Path, *, replace: bool = False, progress: Progress | None = None
    ) -> Tables:
        """Read files and folders into the tables folder `out`.

        Raises:
            PoiseError: no such file, a file in another format, no usable row at all, or in mode "raise" the first row
                that can't be read.
        """
        step = {"name": "read", "format": self.format.name, "mode": self.mode, "paths": [path.name for path in paths]}
        with TableWriter(out, step, replace=replace, sources=paths) as writer:
            self.read_into(writer, paths, progress)
            if not writer.rows.total():
                rules = ", ".join(f"{rule} ({n})" for rule, n in writer.left_out.items()) or "the files are empty"
                raise PoiseError(
                    f"no usable row: {rules}", where=", ".join(str(path) for path in paths), do="is the format right?"
                )
        return open_tables(out)

    def read_into(self, writer: TableWriter, paths: Sequence[Path], progress: Progress | None = None) -> None:
        """Read files and folders into tables that are being written, beside what is in them.

        Raises:
            PoiseError: no such file, a file in another format, or in mode "raise" the first row that can't be read.
        """
        files = [file for path in paths for file in find_files(path)]
        if self.format.repeats:
            once: dict[str, Path] = {}
            for file in files:
                once.setdefault(_digest(file), file)
            votes = self._count_votes(once.values())
            for digest, file in once.items():
                records = self.records([file], writer.quarantine, writer.repaired)
                _write(_annotations(records, digest[:8], votes), file, writer, progress)
            return
        for file in files:
            if (batches := self._columnar(file)) is None:
                _write(self.records([file], writer.quarantine, writer.repaired), file, writer, progress)
                continue
            for batch in batches:
                writer.write(COLUMNAR[self.format.name], batch)
                _tell(progress, batch.num_rows, file)

    def records(
        self,
        paths: Sequence[Path],
        bad: Callable[[str, str, str, object], None],
        repaired: Callable[[str, list[str]], None] = lambda where, done: None,
    ) -> Iterator[Record]:
        """All records of files and folders in order.

        Args:
            bad: gets (rule, reason, where, row) of each row left out.
            repaired: gets (where, what was done) of each row that was mended, in mode "repair".

        Raises:
            PoiseError: as `read`.
        """
        for file in (file for path in paths for file in find_files(path)):
            for number, line in enumerate(read_lines(file)):
                if isinstance(line, BadLine):
                    self._left_out(bad, line.rule, line.reason, f"{line.file}:{line.number}", line.raw)
                    continue
                if number == 0:
                    self._right_format(line.row, file)
                yield from self._decode(line, bad, repaired)

    def _decode(
        self,
        line: Line,
        bad: Callable[[str, str, str, object], None],
        repaired: Callable[[str, list[str]], None],
    ) -> list[Record]:
        where = f"{line.file}:{line.number}"
        if self.mode == "repair":
            row, done = repair_source_row(line.row)
            line = Line(row, line.file, line.number)
            if done:
                repaired(where, done)
        if (column := _lone_surrogate(line.row)) is not None:
            self._left_out(bad, "encoding", f"lone surrogate in {column}", where, line.row)
            return []
        try:
            records = [self._carry(record, line.file) for record in self.format.decode(line)]
            for record in records if _holds_no_number(line.row) else ():
                record.columns()  # NaN has no JSON: it is found here, where the row can be named
            return records
        except BadRowError as error:
            self._left_out(bad, error.rule, error.reason, where, line.row)
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            name = ".".join(str(part) for part in first["loc"])
            self._left_out(bad, "field-type", f"{name}: {first['msg']}", where, line.row)
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            self._left_out(bad, "unusable", f"no row of this format ({type(error).__name__})", where, line.row)
        return []

    def _left_out(
        self, bad: Callable[[str, str, str, object], None], rule: str, reason: str, where: str, row: object
    ) -> None:
        if self.mode == "raise":
            raise PoiseError(f"{rule}: {reason}", where=where, do="mend the row, or read with mode quarantine")
        bad(rule, reason, where, row)

    def _right_format(self, row: dict[str, Any], file: Path) -> None:
        missing = [column for column in self.format.columns if column not in row]
        if missing:
            raise PoiseError(
                f"no column {missing[0]!r}; it has {', '.join(map(repr, list(row)[:12])) or 'none'}",
                where=str(file),
                do=f"format {self.format.name!r} needs it; see `poise data formats`, or write a mapping file",
            )

    def _given(self, file: Path) -> dict[str, str | None]:
        named = next((split for split in ("train", "test") if file.name.startswith(split)), None)
        return {"dataset": self.dataset, "licence": self.licence or self.format.licence, "split": self.split or named}

    def _carry(self, record: Record, file: Path) -> Record:
        given = self._given(file)
        missing = {k: v for k, v in given.items() if v is not None and getattr(record, k) is None}
        return record.model_copy(update=missing) if missing else record

    def _count_votes(self, files: Iterable[Path]) -> dict[str, _Votes]:
        """First pass over a source in which rows are annotations: what is said of each item."""
        votes: dict[str, _Votes] = {}
        for record in self.records(list(files), lambda *_: None):
            if isinstance(record, QARecord):
                votes.setdefault(record.item, _Votes()).add(record.label)
        return votes

    def _columnar(self, file: Path) -> Iterator[pa.RecordBatch] | None:
        """Batches of a file whose columns have our names and types, None where rows must be looked at."""
        unit = COLUMNAR.get(self.format.name)
        if unit is None or file.suffix != ".parquet" or self.mode == "repair":
            return None
        schema = pq.read_schema(file)
        fits = all(
            name in schema.names and _same_type(schema.field(name).type, SCHEMAS[unit].field(name).type)
            for name in SCHEMAS[unit].names
            if unit != "prompt" or name in ("prompt", "prompt_source")
        )
        return self._batches(unit, file) if fits else None

    def _batches(self, unit: str, file: Path) -> Iterator[pa.RecordBatch]:
        stored = pq.read_schema(file).names
        for batch in Table(unit, (file,)).batches():
            columns = dict(zip(batch.schema.names, batch.columns, strict=True))
            for name, value in self._given(file).items():
                if name not in stored:
                    columns[name] = pa.nulls(batch.num_rows, pa.string())
                if value is not None:
                    columns[name] = pc.fill_null(columns[name], value)
            yield pa.RecordBatch.from_arrays(list(columns.values()), schema=TABLES[unit])


def _write(records: Iterable[Record], file: Path, writer: TableWriter, progress: Progress | None) -> None:
    for done, record in enumerate(records, 1):
        writer.add(record)
        if done % 1000 == 0:
            _tell(progress, 1000, file)


def _digest(file: Path) -> str:
    """What tells a file from others, wherever it lies."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _annotations(records: Iterable[Record], mark: str, votes: dict[str, _Votes]) -> Iterator[Record]:
    """Each item once, with what most say, and its judgements by the raters of a file; items are taken from `votes`."""
    said: Counter[tuple[str, str, str]] = Counter()
    for record in records:
        if isinstance(record, QARecord):
            if (standing := votes.pop(record.item, None)) is None:
                continue  # the item has been written
            yield record.model_copy(update={"label": standing.label()})
        elif isinstance(record, JudgementRecord):
            key = (record.item, record.question, record.rater)
            said[key] += 1
            yield record.model_copy(update={"rater": f"{record.rater}-{mark}-{said[key]}"})
        else:
            yield record


def _same_type(there: pa.DataType, ours: pa.DataType) -> bool:
    """Whether a column can be cast without looking at its values."""
    if pa.types.is_struct(ours):
        names = {inner.name: inner.type for inner in there} if pa.types.is_struct(there) else {}
        return all(_same_type(names.get(inner.name, pa.null()), inner.type) for inner in ours)
    if pa.types.is_string(ours):
        return bool(pa.types.is_string(there) or pa.types.is_large_string(there))
    if pa.types.is_integer(ours):
        return bool(pa.types.is_integer(there))
    same: bool = there.equals(ours)
    return same


def _lone_surrogate(row: Mapping[str, Any]) -> str | None:
    """The first column with half of a UTF-16 pair in it, which JSON can escape and no file can hold."""
    return next((name for name, value in row.items() if _unencodable(value)), None)


def _holds_no_number(value: object) -> bool:
    """Whether NaN or an infinity stands anywhere in a row."""
    if isinstance(value, float):
        return not math.isfinite(value)
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    return any(map(_holds_no_number, inner))


def _unencodable(value: object) -> bool:
    if isinstance(value, str):
        return not value.isascii() and LONE_SURROGATE.search(value) is not None
    if isinstance(value, Mapping):
        return any(map(_unencodable, value.values()))
    return isinstance(value, list) and any(map(_unencodable, value))


def _tell(progress: Progress | None, rows: int, file: Path) -> None:
    if progress is not None:
        progress(rows, file.name)
