"""Argilla 2 records: every response of every user and every suggestion of every model survives.

* `argilla`: a record is {"id", "fields": {...}, "metadata", "responses": {question: [{"value", "user_id", "status"}]},
  "suggestions": {question: {"value", "score", "agent"}}}, as `records.to_json()` and `to_list()` give it. Argilla holds
  one suggestion for a question; where there are several, they are read from and written as a list.
* `argilla-datasets`: the columns of `records.to_datasets()` ("safer.responses", "safer.responses.users",
  "safer.suggestion.agent", ...), only read. It writes a suggested label as the number of a class whose name is not in
  the rows; such an answer is unjudged, `to_json` has the name.

Fields and questions are those of `poise.data.adapters.items`. The raw answers are kept in the provenance of their
judgement, what else the record holds in the record's, and are written back as they were. Lost on writing: labels of
the row itself that nobody is named for, sources, versions of raters, rounds. Raters of other origin are read back with
"argilla:" before their name.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import Any

from poise.data.adapters.base import BadRowError, Fields, Format, SourceRow
from poise.data.adapters.items import (
    FIELDS,
    PAIR_QUESTIONS,
    answers_of,
    fields_of,
    hashes_of,
    item_of,
    question_of,
    value_of,
)
from poise.data.containers import Line
from poise.data.records import DualRecord, JudgementRecord, QARecord, Record

_KINDS = ("responses", "suggestions")
_Entries = dict[str, dict[str, Any]]


def _decode(line: Line) -> Iterator[Record]:
    yield from _records(Fields(line.row))


def _records(row: Fields) -> Iterator[Record]:
    fields, metadata = row["fields"], row.get("metadata") or {}
    if not isinstance(fields, dict) or not isinstance(metadata, dict):
        raise BadRowError("field-type", "fields or metadata are no object")
    kept = {
        "fields": {name: value for name, value in fields.items() if name not in FIELDS},
        "metadata": metadata,
        "record": {n: v for n, v in row.items() if n not in ("id", "fields", "metadata", *_KINDS)},
    }
    record = item_of(fields, row.id, {name: rest for name, rest in kept.items() if rest})
    yield record
    items = hashes_of(record)
    for kind in _KINDS:
        for (rater, question, number), entries in _by_rater(row.get(kind) or {}, kind).items():
            score = next((e["score"] for e in entries.values() if isinstance(e.get("score"), int | float)), None)
            yield JudgementRecord(
                item=":".join(items),
                question=question,
                value=_value(question, entries),
                rater=rater,
                rater_kind="person" if kind == "responses" else "model",
                probability=score if score is not None and 0 <= score <= 1 else None,
                round=number,
                responses=items,
                provenance={"argilla": kind, "entries": entries},
            )


def _by_rater(answers: Mapping[str, Any], kind: str) -> dict[tuple[str, str, int], _Entries]:
    """(rater, our question, round) -> Argilla's question -> entry."""
    grouped: dict[tuple[str, str, int], _Entries] = defaultdict(dict)
    for name, entries in answers.items():
        rounds: Counter[str] = Counter()
        for entry in entries if isinstance(entries, list) else [entries]:
            if not isinstance(entry, dict):
                raise BadRowError("field-type", f"an entry of {kind} is no object")
            rater = f"argilla:{entry.get('user_id' if kind == 'responses' else 'agent')}"
            grouped[rater, question_of(name), rounds[rater]][name] = entry
            rounds[rater] += 1
    return grouped


def _value(question: str, entries: _Entries) -> Any:
    """What the entries say; a discarded or drafted answer is unjudged."""
    if any(entry.get("status") in ("discarded", "draft") for entry in entries.values()):
        return None
    return value_of(question, {name: None if e.get("class") else e.get("value") for name, e in entries.items()})


def _encode(record: Record, judgements: Sequence[JudgementRecord]) -> Iterator[SourceRow]:
    assert isinstance(record, QARecord | DualRecord)
    kept = record.provenance or {}
    answers: dict[str, dict[str, list[Any]]] = {kind: {} for kind in _KINDS}
    for judgement in judgements:
        origin = judgement.provenance or {}
        kind = "responses" if judgement.rater_kind == "person" else "suggestions"
        entries = origin["entries"] if origin.get("argilla") == kind else _entries(judgement, kind)
        for question, entry in entries.items():
            answers[kind].setdefault(question, []).append(entry)
    yield {
        "id": record.source_id,
        "fields": kept.get("fields", {}) | fields_of(record),
        "metadata": kept.get("metadata", {}),
        "responses": answers["responses"],
        "suggestions": {name: made if len(made) > 1 else made[0] for name, made in answers["suggestions"].items()},
        **kept.get("record", {}),
    }


def _entries(judgement: JudgementRecord, kind: str) -> _Entries:
    who: dict[str, Any] = {"user_id": judgement.rater}
    if kind == "suggestions":
        who = {"score": judgement.probability, "agent": judgement.rater}
    answers = answers_of(judgement) or {judgement.question: None}
    return {name: {"value": value, **who} for name, value in answers.items()}


def _decode_datasets(line: Line) -> Iterator[Record]:
    row = Fields(line.row)
    nested: dict[str, Any] = {"id": row.get("id"), "fields": {}, "metadata": {}, "responses": {}, "suggestions": {}}
    for column, value in row.items():
        question, _, rest = column.rpartition(".")
        if rest == "responses":
            columns = (value, row.get(f"{column}.users"), row.get(f"{column}.status"))
            told = zip_longest(*(part or [] for part in columns))
            nested["responses"][question] = [{"value": v, "user_id": by, "status": status} for v, by, status in told]
        elif rest == "suggestion":
            if value is not None:
                made = {"value": value, "score": row.get(f"{column}.score"), "agent": row.get(f"{column}.agent")}
                named = question in ("severity", "safe", *PAIR_QUESTIONS) and isinstance(value, int)
                nested["suggestions"][question] = made | {"class": True} if named else made
        elif column.endswith((".responses.users", ".responses.status", ".suggestion.score", ".suggestion.agent")):
            continue
        elif column in ("status", "_server_id"):
            nested[column] = value
        elif column != "id" and value is not None:
            nested["fields" if column in FIELDS else "metadata"][column] = value
    yield from _records(Fields(nested))


ARGILLA = Format(
    "argilla",
    "Argilla 2 records with responses and suggestions (JSON)",
    ("fields",),
    _decode,
    _encode,
    ("qa", "default"),
    ".json",
)
ARGILLA_DATASETS = Format(
    "argilla-datasets",
    "Argilla 2 records as columns, of `to_datasets`",
    ("prompt", "_server_id"),
    _decode_datasets,
)
