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

A value is read as `{column: NAME}` (or just NAME; "a.b" is entry b of column a), with

    values    source value -> ours; a value that is not there is unknown, or with `strict: true` quarantines the row
    bins      numbers: ours is the number of limits that the value reaches (severity from a scale)
    then      that number -> ours, where it is not the number itself
    else      another value, read where this one is unknown
    join      further columns, put behind the first with a blank line between, where they hold text
    const     one value for all rows, in place of a column
    vote      of a list: "majority" (more than half) or "unopposed" (at least half, and nobody for another); a tie
              is unknown

`label` goes with the units prompt and qa; `labels: [first, second]` with dual. Of a row that is called safe no category
applies, whatever `categories` holds, because most sets name the category of the question there. Categories of which
some are null tell neither a full set nor that the row is safe; a judgement of that column keeps what they do tell.

For `dual` and `single`, `columns` names `response_0` and `response_1`, or `chosen` and `rejected`. These are put in the
order of their hashes, and what the mapping says of 0 (chosen) and 1 (rejected) follows them: sources, labels, `better`,
`safer`, and judgements of "better", "safer", "single".

`messages: {column: c, completion: d}` takes turns and prompt from chat messages. `drop: [{column: c, values: [..],
reason: why}]` leaves rows out, counted. Yes, no, on and off are words, as in YAML 1.2. A mapping is only read, never
written.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from poise.data.adapters.base import BadRowError, Format
from poise.data.adapters.mapping_parts import (
    DropPart,
    JudgementPart,
    LabelPart,
    MessagesPart,
    Part,
    Value,
    cell,
    named,
)
from poise.data.adapters.transcripts import ordered
from poise.data.adapters.trl import turns_of
from poise.data.columns import response_hash
from poise.data.containers import Line
from poise.data.records import (
    UNKNOWN,
    CorrectionRecord,
    DualRecord,
    JudgementRecord,
    PromptRecord,
    QARecord,
    Record,
    SingleRecord,
)
from poise.errors import PoiseError

Unit = Literal["prompt", "qa", "dual", "single", "correction"]

_PAIR = ("prompt_source", "response_0_source", "response_1_source")
_COLUMNS: dict[str, tuple[tuple[tuple[str, ...], ...], tuple[str, ...]]] = {
    "prompt": ((("prompt",),), ("source", "kind", "category", "severity")),
    "qa": ((("prompt", "response"),), ("prompt_source", "response_source")),
    "dual": ((("prompt", "response_0", "response_1"), ("prompt", "chosen", "rejected")), _PAIR),
    "single": ((("prompt", "response_0", "response_1"), ("prompt", "chosen", "rejected")), _PAIR),
    "correction": (
        (("question", "answer", "correction"),),
        ("question_source", "answer_source", "correction_source"),
    ),
}
"""Unit -> (our text columns, one of the sets must be there; columns that may be there)."""

_CARRIED = ("source_id", "language", "image")
_TEXTS = tuple(dict.fromkeys(name for texts, _ in _COLUMNS.values() for group in texts for name in group))
_GOES_WITH = {
    "label": ("prompt", "qa"),
    "labels": ("dual",),
    "better": ("dual", "single"),
    "safer": ("dual",),
    "messages": ("qa",),
}


class Mapped(Part):
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
        return {name: {"column": given} if isinstance(given, str) else given for name, given in value.items()}

    @model_validator(mode="after")
    def _of_one_unit(self) -> Self:
        """Every key is one that the unit has, and all texts of the unit have a column."""
        texts, others = _COLUMNS[self.unit]
        if self.messages is not None:
            texts = ((),)
        allowed = {name for group in texts for name in group} | {*others, *_CARRIED}
        if unknown := sorted(set(self.columns) - allowed):
            near = get_close_matches(unknown[0], allowed, n=1, cutoff=0)[0]
            raise ValueError(f"a {self.unit} row has no column {unknown[0]!r}; did you mean {near!r}?")
        given = set(self.columns) & set(_TEXTS)
        if all(given != set(group) for group in texts):
            need = " or ".join(", ".join(group) for group in texts)
            raise ValueError(f"columns of a {self.unit} row must name {need}")
        for key, units in _GOES_WITH.items():
            if getattr(self, key) is not None and self.unit not in units:
                raise ValueError(f"{key!r} goes with unit {' or '.join(units)}, not with {self.unit}")
        return self

    def decode(self, line: Line) -> Iterator[Record]:
        """The records of a source row."""
        row = line.row
        for barred in self.drop:
            if named(barred.values, cell(row, barred.column)):
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
        record, items, side = self._record(row, values, carried)
        yield record
        for part in self.judgements:
            swap = side and part.question in ("better", "safer", "single")
            for rater, value in part.of(row):
                yield JudgementRecord(
                    item=":".join(items),
                    question=part.question,
                    value=1 - value if swap and value in (0, 1) else value,
                    rater=f"{self.name}:{rater}",
                    rater_kind=part.kind,
                    responses=items,
                )

    def _said(self, row: Mapping[str, Any]) -> tuple[tuple[Any, ...], str, str]:
        assert self.messages is not None
        turns = turns_of(cell(row, self.messages.column))
        answer = turns_of(cell(row, self.messages.completion))
        if not turns or turns[-1].role != "user" or len(answer) != 1:
            raise BadRowError("unusable", "the messages do not end with a user and one completion")
        return tuple(turns[:-1]), turns[-1].content, answer[0].content

    def _record(
        self, row: Mapping[str, Any], values: dict[str, Any], carried: dict[str, Any]
    ) -> tuple[Record, Any, int]:
        """(record, hashes that judgements name it by, response id of what stands first in the mapping)."""
        label = UNKNOWN if self.label is None else self.label.of(row)
        if self.unit == "prompt":
            prompt = PromptRecord(**{k: v for k, v in values.items() if v is not None}, label=label, **carried)
            return prompt, (response_hash(prompt.prompt, ""),), 0
        if self.unit == "qa":
            record = QARecord(**values, label=label, **carried)
            return record, (record.item,), 0
        if self.unit == "correction":
            found = CorrectionRecord(**values, **carried)
            return found, (found.columns()["answer_sha256"], found.columns()["correction_sha256"]), 0
        pair, side = self._pair(row, values, carried)
        return pair, pair.items, side

    def _pair(
        self, row: Mapping[str, Any], values: dict[str, Any], carried: dict[str, Any]
    ) -> tuple[SingleRecord, int]:
        sources = values.pop("response_0_source", None), values.pop("response_1_source", None)
        labels = (UNKNOWN, UNKNOWN) if self.labels is None else (self.labels[0].of(row), self.labels[1].of(row))
        votes = {n: part.of(row) for n, part in (("better", self.better), ("safer", self.safer)) if part is not None}
        side = 0
        if "chosen" in values:
            responses, side = ordered(values["prompt"], values.pop("chosen"), values.pop("rejected"), ())
            if side:
                labels, sources = (labels[1], labels[0]), (sources[1], sources[0])
            votes = {name: None if vote is None else abs(vote - side) for name, vote in votes.items()}
        else:
            responses = values.pop("response_0"), values.pop("response_1")
            if responses[0] == responses[1]:
                raise BadRowError("same-responses", "the two responses are equal")
        values |= {"responses": responses, "response_sources": sources, **votes, **carried}
        return (SingleRecord(**values) if self.unit == "single" else DualRecord(**values, labels=labels)), side


def load_mapping(path: Path) -> Format:
    """A mapping file as a format.

    Raises:
        PoiseError: no such file, no YAML, or a key or value that a mapping does not have.
    """
    try:
        raw = parse_yaml(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise PoiseError(f"no readable mapping ({type(error).__name__})", where=str(path), do="write YAML") from error
    return mapping_of(raw, str(path))


class _Loader(yaml.SafeLoader):
    """In YAML 1.1 yes, no, on and off are booleans, so that a value map would miss the words."""


_Loader.yaml_implicit_resolvers = {
    first: [found for found in resolvers if found[0] != "tag:yaml.org,2002:bool"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("true|false", re.IGNORECASE), list("tTfF"))


def parse_yaml(text: str) -> Any:
    """YAML with the booleans of version 1.2.

    Raises:
        yaml.YAMLError: it is none.
    """
    return yaml.load(text, _Loader)


def mapping_of(raw: Any, where: str) -> Format:
    """The content of a mapping file as a format; errors as `load_mapping`."""
    try:
        mapped = Mapped.model_validate(raw)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        path = [str(part) for part in first["loc"]]
        hint = "see the docstring of poise.data.adapters.mapping"
        if first["type"] == "extra_forbidden":
            hint = f"did you mean {_nearest(path)!r}?"
        raise PoiseError(f"{'.'.join(path) or 'mapping'}: {first['msg']}", where=where, do=hint) from error
    columns = [v.column for v in mapped.columns.values()] + [j.column for j in mapped.judgements]
    needed = [column for column in columns if column and "." not in column]
    return Format(mapped.name, mapped.about, tuple(dict.fromkeys(needed)), mapped.decode, licence=mapped.licence)


def _nearest(path: list[str]) -> str:
    """The key that was meant by the last of a path of keys."""
    names = [part for part in path if not part.isdigit()]
    parts: dict[str, type[Part]] = {
        "label": LabelPart,
        "labels": LabelPart,
        "judgements": JudgementPart,
        "drop": DropPart,
        "messages": MessagesPart,
    }
    part = Mapped if len(names) == 1 else parts.get(names[-2], Value)
    keys = [field.alias or name for name, field in part.model_fields.items()]
    return get_close_matches(names[-1], keys, n=1, cutoff=0)[0]
