"""The parts of a mapping file: where a value, a label, a judgement comes from, and which rows are left out.

`poise.data.adapters.mapping` says what the keys mean. Left out: expressions; a set that needs one needs an adapter.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from poise.data.adapters.base import BadRowError
from poise.data.records import PartialLabel
from poise.errors import PoiseError
from poise.harm.taxonomy import PKU, load_taxonomy


class Part(BaseModel):
    """Base of all parts: frozen, and a key that is none of its fields is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Value(Part):
    """Where a value comes from."""

    column: str | None = None
    values: dict[Any, Any] | None = None
    strict: bool = False
    bins: list[float] | None = None
    then: dict[int, Any] | None = None
    otherwise: Value | None = Field(default=None, alias="else")
    join: list[str] = Field(default_factory=list)
    const: Any = None
    vote: Literal["majority", "unopposed"] | None = None

    def of(self, row: Mapping[str, Any]) -> Any:
        """The value in a row.

        Raises:
            BadRowError: the column is missing, there are no votes, or a strict value is unknown.
        """
        if self.column is None:
            return self.const
        value = cell(row, self.column)
        if self.vote is not None:
            return self._winner(value)
        parts = [value, *(cell(row, name) for name in self.join)]
        if self.join and isinstance(value, str) and value.strip() and all(isinstance(p, str | None) for p in parts):
            value = "\n\n".join(part for part in parts if part)
        found = self.translated(value)
        return self.otherwise.of(row) if found is None and self.otherwise is not None else found

    def translated(self, value: Any) -> Any:
        """Ours for a source value."""
        if self.bins is not None:
            if value is None or math.isnan(float(value)):  # no number is not a low one
                return None
            reached = sum(float(value) >= limit for limit in self.bins)
            return reached if self.then is None else self.then.get(reached)
        if self.values is None:
            return value
        if not named(self.values, value):
            if self.strict:
                raise BadRowError("unusable", f"{self.column} has a value that the mapping does not name")
            return None
        return self.values[value]

    def _winner(self, votes: Any) -> Any:
        """What the votes say, None where nothing wins."""
        if not isinstance(votes, list) or not votes:
            raise BadRowError("no-vote", f"{self.column} holds no votes")
        counted = Counter(self.translated(vote) for vote in votes)
        voted = {value: n for value, n in counted.items() if value is not None}
        winner = max(voted, key=lambda value: voted[value], default=None)
        if winner is None or counted[None] * 2 > len(votes) or (self.vote == "unopposed" and len(voted) > 1):
            return None
        return None if self.vote == "majority" and voted[winner] * 2 <= len(votes) else winner


def cell(row: Mapping[str, Any], column: str) -> Any:
    """A cell of a row; "a.b" is the entry b of column a, where there is no column of the whole name.

    Raises:
        BadRowError: there is no such column.
    """
    if column in row:
        return row[column]
    outer, _, inner = column.partition(".")
    if inner and isinstance(row.get(outer), dict) and inner in row[outer]:
        return row[outer][inner]
    raise BadRowError("missing-column", f"no column {column!r}")


def named(values: Mapping[Any, Any] | list[Any], value: Any) -> bool:
    """Whether a value is among others, where True is not 1."""
    return any(key == value and isinstance(key, bool) == isinstance(value, bool) for key in values)


class LabelPart(Part):
    """What the set says of harm."""

    safe: Value | None = None
    categories: Value | None = None
    severity: Value | None = None
    taxonomy: str = PKU

    @field_validator("taxonomy")
    @classmethod
    def _known(cls, value: str) -> str:
        try:
            return load_taxonomy(value).name
        except PoiseError as error:
            raise ValueError(f"{error.what} ({error.do})") from error

    def of(self, row: Mapping[str, Any]) -> PartialLabel:
        """The label of a row."""
        safe, severity = (None if part is None else part.of(row) for part in (self.safe, self.severity))
        told = None if self.categories is None else self.categories.of(row)
        if isinstance(told, dict) and None in told.values():  # some were not asked about: no full set, no all-clear
            told, safe = None, safe if safe is False else None
        names = None if told is None else self._names(told)
        if safe is True or (safe is None and severity == 0):
            names = ()
        return PartialLabel(safe=safe, categories=names, severity=severity, taxonomy=self.taxonomy)

    def _names(self, told: Any) -> tuple[str, ...]:
        listed = [told] if isinstance(told, str) else [n for n in told if not isinstance(told, dict) or told[n]]
        try:
            return tuple(load_taxonomy(self.taxonomy).parse(name) for name in listed)
        except PoiseError as error:
            raise BadRowError("unknown-category", f"a category is none of {self.taxonomy}") from error


class JudgementPart(Part):
    """One rater's answer, or one for each entry of a list."""

    question: str
    column: str
    each: bool = False
    values: dict[Any, Any] | None = None
    rater: str = "annotator"
    rater_column: str | None = None
    kind: Literal["person", "model", "rule", "import"] = "person"

    def of(self, row: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
        """(rater, value) of a row."""
        value = cell(row, self.column)
        base = str(cell(row, self.rater_column)) if self.rater_column else self.rater
        entries = value if self.each and isinstance(value, list) else [value]
        for number, entry in enumerate(entries):
            rater = f"{base}-{number + 1}" if self.each else base
            if self.values is None:
                yield rater, entry
            else:
                yield rater, self.values[entry] if named(self.values, entry) else None


class DropPart(Part):
    """Rows that are left out."""

    column: str
    values: list[Any]
    reason: str


class MessagesPart(Part):
    """Chat messages in place of prompt and response columns."""

    column: str
    completion: str
