"""What every format adapter is: a function from source rows to records, and where it can be, one back.

A format is one small file with a `Format` in it; `poise.data.adapters` lists them. `decode` sees one source row at a
time, so everything streams. A row that cannot become a record raises `BadRowError` with the rule it breaks; wrong
types are found by the records themselves. `encode` gets a record together with the judgements about it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from poise.data.containers import Line
from poise.data.records import JudgementRecord, Record

SourceRow = Mapping[str, Any]


class BadRowError(Exception):
    """A source row that is not taken in: the rule it breaks and a reason that quotes no text."""

    def __init__(self, rule: str, reason: str) -> None:
        self.rule, self.reason = rule, reason
        super().__init__(f"{rule}: {reason}")


class Fields(dict[str, Any]):
    """A source row of which a column that is not there is missed by its name: a `BadRowError` of "missing-column"."""

    def __missing__(self, name: str) -> Any:
        raise BadRowError("missing-column", f"no column {name!r}")

    @property
    def id(self) -> str | None:
        """The row's own id, a number as text."""
        return None if self.get("id") is None else str(self["id"])


@dataclass(frozen=True)
class Format:
    """A public format.

    Args:
        name: what the user types after `--format`.
        about: one line for `poise data formats`.
        columns: source columns without which a file is not in this format.
        sign: columns of which a row has one when `detect` may take it for this format; () where `columns` say enough.
        decode: one source row -> records, in order. A row with several annotators gives a QA or pair record and one
            judgement a rater.
        encode: a record and the judgements about it -> source rows; None where the format is only read.
        units: units that `encode` takes.
        suffix: container that the format is usually kept in, for writing.
        repeats: several rows may be several annotations of one item: each becomes a judgement by a rater of its own
            (the name that `decode` gives, a mark of the file and a number from 1), the item stays one row and its
            label is what most of them say.
        licence: of the public data in this format, None where the format says nothing about it.
    """

    name: str
    about: str
    columns: tuple[str, ...]
    decode: Callable[[Line], Iterable[Record]]
    encode: Callable[[Record, Sequence[JudgementRecord]], Iterable[SourceRow]] | None = None
    units: tuple[str, ...] = ()
    suffix: str = ".jsonl"
    repeats: bool = False
    licence: str | None = None
    sign: tuple[str, ...] = ()
