"""A file that says which columns of a set are ours: for every set that no named format reads.

    name: my-set                        # and licence, about
    unit: qa                            # prompt, qa, dual, single or correction
    columns: {prompt: question, response: answer, source_id: id}
    label:
      safe: {column: verdict, values: {ok: true, bad: false}}
      categories: {column: kinds}       # a name, a list of names, or a mapping name -> bool
      taxonomy: beavertails-14
    judgements:
      - {question: better, column: votes, each: true, values: {1: 0, 2: 1}, rater: annotator}
    better: {column: votes, vote: unopposed, values: {1: 0, 2: 1}}
    keep: [model]                       # columns that go to provenance

A value is read as `{column: NAME}` (or just NAME), with

    values    source value -> ours; a value that is not there is unknown, or with `strict: true` quarantines the row
    bins      numbers: ours is the number of limits that the value reaches (severity from a scale)
    then      that number -> ours, where it is not the number itself
    else      another value, read where this one is unknown
    join      further columns, put behind the first with a blank line between, where they hold text
    const     one value for all rows, in place of a column
    vote      of a list: "majority" (more than half) or "unopposed" (at least half, and nobody for another); a tie
              is unknown

For `dual` and `single`, `columns` names `response_0` and `response_1`, or `chosen` and `rejected`, which are then put
in the order of their hashes. `messages: {column: c, completion: d}` takes turns and prompt from chat messages.
`drop: [{column: c, values: [..], reason: why}]` leaves rows out, counted. A mapping is only read, never written.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from poise.data.adapters.base import BadRowError, Format
from poise.data.adapters.transcripts import ordered
from poise.data.adapters.trl import turns_of
from poise.data.columns import response_hash
from poise.data.containers import Line
from poise.data.records import (
    UNKNOWN,
    CorrectionRecord,
    DualRecord,
    JudgementRecord,
    PartialLabel,
    PromptRecord,
    QARecord,
    Record,
    SingleRecord,
)
from poise.errors import PoiseError
from poise.harm.taxonomy import PKU, load_taxonomy

Unit = Literal["prompt", "qa", "dual", "single", "correction"]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class Value(_Part):
    """Where a value comes from; see the module."""

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
        parts = [value, *(row.get(name) for name in self.join)]
        if self.join and all(isinstance(part, str | None) for part in parts):
            value = "\n\n".join(part for part in parts if part)
        found = self.translated(value)
        return self.otherwise.of(row) if found is None and self.otherwise is not None else found

    def translated(self, value: Any) -> Any:
        """Ours for a source value."""
        if self.bins is not None and value is not None:
            reached = sum(float(value) >= limit for limit in self.bins)
            return reached if self.then is None else self.then.get(reached)
        if self.values is None:
            return value
        if not isinstance(value, str | int | float | bool) or not _has(self.values, value):
            if self.strict:
                raise BadRowError("unusable", f"{self.column} has a value that the mapping does not name")
            return None
        return self.values[value]

    def _winner(self, votes: Any) -> Any:
        """What the votes say, None where nothing wins."""
        if not isinstance(votes, list) or not votes:
            raise BadRowError("no-vote", f"{self.column} holds no votes")
        counted = Counter(self.translated(vote) for vote in votes)
        named = {value: n for value, n in counted.items() if value is not None}
        winner = max(named, key=lambda value: named[value], default=None)
        if winner is None or counted[None] * 2 > len(votes) or (self.vote == "unopposed" and len(named) > 1):
            return None
        return None if self.vote == "majority" and named[winner] * 2 <= len(votes) else winner


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


def _has(values: Mapping[Any, Any], value: Any) -> bool:
    """Whether a value is named, where True is not 1."""
    return any(key == value and isinstance(key, bool) == isinstance(value, bool) for key in values)


class LabelPart(_Part):
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
        names = None if self.categories is None else self._names(self.categories.of(row))
        if safe is True or (safe is None and severity == 0):
            names = ()
        if safe is True and severity is not None:
            severity = 0
        return PartialLabel(safe=safe, categories=names, severity=severity, taxonomy=self.taxonomy)

    def _names(self, named: Any) -> tuple[str, ...] | None:
        if named is None:
            return None
        listed = [named] if isinstance(named, str) else [n for n in named if not isinstance(named, dict) or named[n]]
        try:
            return tuple(load_taxonomy(self.taxonomy).parse(name) for name in listed)
        except PoiseError as error:
            raise BadRowError("unknown-category", f"a category is none of {self.taxonomy}") from error


class JudgementPart(_Part):
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
        base = str(row[self.rater_column]) if self.rater_column else self.rater
        entries = value if self.each and isinstance(value, list) else [value]
        for number, entry in enumerate(entries):
            translated = entry if self.values is None else self.values.get(entry)
            yield (f"{base}-{number + 1}" if self.each else base), translated


class DropPart(_Part):
    """Rows that are left out."""

    column: str
    values: list[Any]
    reason: str


class MessagesPart(_Part):
    """Chat messages in place of prompt and response columns."""

    column: str
    completion: str


class Mapped(_Part):
    """A mapping file."""

    name: str
    licence: str | None = None
    about: str = ""
    unit: Unit
    columns: dict[str, Value]
    messages: MessagesPart | None = None
    label: LabelPart | None = None
    labels: tuple[LabelPart, LabelPart] | None = None
    better: Value | None = None
    safer: Value | None = None
    judgements: list[JudgementPart] = Field(default_factory=list)
    keep: list[str] = Field(default_factory=list)
    drop: list[DropPart] = Field(default_factory=list)

    @field_validator("columns", mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        allowed = {
            "prompt", "response", "response_0", "response_1", "chosen", "rejected", "question", "answer", "correction",
            "prompt_source", "response_source", "response_0_source", "response_1_source", "source", "kind", "category",
            "severity", "source_id", "language", "image",
        }  # fmt: skip
        if unknown := sorted(set(value) - allowed):
            near = get_close_matches(unknown[0], allowed, n=1, cutoff=0)
            raise ValueError(f"unknown column of ours {unknown[0]!r}; did you mean {near[0]!r}?")
        return {name: {"column": given} if isinstance(given, str) else given for name, given in value.items()}

    def decode(self, line: Line) -> Iterator[Record]:
        """The records of a source row."""
        row = line.row
        for barred in self.drop:
            if row.get(barred.column) in barred.values:
                raise BadRowError("unusable", barred.reason)
        values = {name: value.of(row) for name, value in self.columns.items()}
        kept = {name: row[name] for name in self.keep if row.get(name) is not None}
        carried: dict[str, Any] = {"provenance": kept or None, "image": values.pop("image", None)}
        carried["language"] = values.pop("language", None)
        source_id = values.pop("source_id", None)
        carried["source_id"] = None if source_id is None else str(source_id)
        if self.messages is not None:
            carried["turns"], values["prompt"], values["response"] = self._said(row)
        if blank := [n for n in _TEXTS if isinstance(values.get(n), str) and not values[n].strip()]:
            raise BadRowError("empty-text", f"{blank[0]} is blank")
        record, items = self._record(row, values, carried)
        yield record
        for part in self.judgements:
            for rater, value in part.of(row):
                yield JudgementRecord(
                    item=":".join(items),
                    question=part.question,
                    value=value,
                    rater=f"{self.name}:{rater}",
                    rater_kind=part.kind,
                    responses=items,
                )

    def _said(self, row: Mapping[str, Any]) -> tuple[tuple[Any, ...], str, str]:
        assert self.messages is not None
        turns = turns_of(row.get(self.messages.column))
        answer = turns_of(row.get(self.messages.completion))
        if not turns or turns[-1].role != "user" or len(answer) != 1:
            raise BadRowError("unusable", "the messages do not end with a user and one completion")
        return tuple(turns[:-1]), turns[-1].content, answer[0].content

    def _record(self, row: Mapping[str, Any], values: dict[str, Any], carried: dict[str, Any]) -> tuple[Record, Any]:
        label = UNKNOWN if self.label is None else self.label.of(row)
        if self.unit == "prompt":
            prompt = PromptRecord(**{k: v for k, v in values.items() if v is not None}, label=label, **carried)
            return prompt, (response_hash(prompt.prompt, ""),)
        if self.unit == "qa":
            record = QARecord(**values, label=label, **carried)
            return record, (record.item,)
        if self.unit == "correction":
            found = CorrectionRecord(**values, **carried)
            return found, (found.columns()["answer_sha256"], found.columns()["correction_sha256"])
        pair = self._pair(row, values, carried)
        return pair, pair.items

    def _pair(self, row: Mapping[str, Any], values: dict[str, Any], carried: dict[str, Any]) -> SingleRecord:
        sources = values.pop("response_0_source", None), values.pop("response_1_source", None)
        labels = (UNKNOWN, UNKNOWN) if self.labels is None else (self.labels[0].of(row), self.labels[1].of(row))
        votes = {n: part.of(row) for n, part in (("better", self.better), ("safer", self.safer)) if part is not None}
        if "chosen" in values:
            responses, side = ordered(values["prompt"], values.pop("chosen"), values.pop("rejected"), ())
            if side:
                labels, sources = (labels[1], labels[0]), (sources[1], sources[0])
            votes = {name: None if vote is None else abs(vote - side) for name, vote in votes.items()}
        else:
            responses = values.pop("response_0"), values.pop("response_1")
            if responses[0] == responses[1]:
                raise BadRowError("same-responses", "the two responses are equal")
        if self.unit == "single":
            return SingleRecord(**values, responses=responses, response_sources=sources, **votes, **carried)
        return DualRecord(**values, responses=responses, response_sources=sources, labels=labels, **votes, **carried)


_TEXTS = ("prompt", "response", "response_0", "response_1", "chosen", "rejected", "question", "answer", "correction")


def load_mapping(path: Path) -> Format:
    """A mapping file as a format.

    Raises:
        PoiseError: no such file, no YAML, or a key or value that a mapping does not have.
    """
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise PoiseError(f"no readable mapping ({type(error).__name__})", where=str(path), do="write YAML") from error
    return mapping_of(raw, str(path))


def mapping_of(raw: Any, where: str) -> Format:
    """The content of a mapping file as a format; errors as `load_mapping`."""
    try:
        mapped = Mapped.model_validate(raw)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        hint = "see the docstring of poise.data.adapters.mapping"
        if first["type"] == "extra_forbidden" and (near := get_close_matches(key, Mapped.model_fields, n=1, cutoff=0)):
            hint = f"did you mean {near[0]!r}?"
        raise PoiseError(f"{key or 'mapping'}: {first['msg']}", where=where, do=hint) from error
    named = [v.column for v in mapped.columns.values()] + [j.column for j in mapped.judgements]
    needed = [column for column in named if column]
    return Format(mapped.name, mapped.about, tuple(dict.fromkeys(needed)), mapped.decode, licence=mapped.licence)
