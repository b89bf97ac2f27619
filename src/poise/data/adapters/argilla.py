"""Argilla 2 records: every response of every user and every suggestion of every model survives.

A record is {"id", "fields": {...}, "metadata", "responses": {question: [{"value", "user_id", "status"}]},
"suggestions": {question: {"value", "score", "agent"} or a list of them}}, as `rg.Dataset.records.to_list()` gives it.
Fields are `prompt` with `response`, or with `response_0` and `response_1`. Questions: `categories` and `severity`
(together a "label"), `safe`, `better`, `safer`, `single`; any other becomes a judgement of its own name. Lost on
writing: labels of the row itself that nobody is named for.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from poise.data.adapters.base import BadRowError, Format, SourceRow
from poise.data.containers import Line
from poise.data.records import DualRecord, JudgementRecord, QARecord, Record
from poise.harm import Category, Severity

_SIDES = {"0": 0, "1": 1, "response_0": 0, "response_1": 1}
_SAFE = {"safe": True, "unsafe": False, "true": True, "false": False}


def _decode(line: Line) -> Iterator[Record]:
    fields = line.row["fields"]
    if not isinstance(fields, dict) or not isinstance(fields.get("prompt"), str):
        raise BadRowError("missing-column", "fields hold no prompt")
    about: dict[str, Any] = {"source_id": None if line.row.get("id") is None else str(line.row["id"])}
    about["provenance"] = line.row.get("metadata") or None
    if isinstance(fields.get("response"), str):
        record: QARecord | DualRecord = QARecord(prompt=fields["prompt"], response=fields["response"], **about)
        items: tuple[str, ...] = (record.item,) if isinstance(record, QARecord) else ()
    else:
        pair = fields.get("response_0"), fields.get("response_1")
        record = DualRecord(prompt=fields["prompt"], responses=pair, **about)
        items = record.items
    yield record
    for kind in ("responses", "suggestions"):
        for (rater, question), (value, entries) in _by_rater(line.row.get(kind) or {}, kind).items():
            score = next((e.get("score") for e in entries.values() if isinstance(e.get("score"), int | float)), None)
            yield JudgementRecord(
                item=":".join(items),
                question=question,
                value=value,
                rater=rater,
                rater_kind="person" if kind == "responses" else "model",
                probability=score if score is not None and 0 <= score <= 1 else None,
                responses=items,
                provenance={"argilla": kind, "entries": entries},
            )


def _by_rater(answers: Mapping[str, Any], kind: str) -> dict[tuple[str, str], tuple[Any, dict[str, dict[str, Any]]]]:
    """(rater, question) -> (value, {Argilla's question: entry}); categories and severity are one question."""
    grouped: dict[tuple[str, str], dict[str, dict[str, Any]]] = defaultdict(dict)
    for question, entries in answers.items():
        for entry in entries if isinstance(entries, list) else [entries]:
            if isinstance(entry, dict):
                who = entry.get("user_id") if kind == "responses" else entry.get("agent")
                ours = "label" if question in ("categories", "severity") else question
                grouped[f"argilla:{who}", ours][question] = entry
    return {key: (_value(key[1], entries), entries) for key, entries in grouped.items()}


def _value(question: str, entries: Mapping[str, Mapping[str, Any]]) -> Any:
    """What the entries say; a discarded or missing answer is unjudged."""
    if any(entry.get("status") in ("discarded", "draft") for entry in entries.values()):
        return None
    given: dict[str, Any] = {name: entry.get("value") for name, entry in entries.items()}
    if question == "label":
        label: dict[str, Any] = {}
        try:
            if given.get("categories") is not None:
                label["categories"] = [Category.parse(name).code for name in given["categories"]]
            if given.get("severity") is not None:
                level = given["severity"]
                label["severity"] = int(Severity.parse(int(level) if str(level).isdigit() else level))
        except ValueError as error:
            raise BadRowError("unknown-category", "a value is no harm category or no severity") from error
        return label or None
    value = given[question]
    if question == "safe":
        return _SAFE.get(str(value).casefold())
    return _SIDES.get(str(value).casefold()) if question in ("better", "safer", "single") else value


def _encode(record: Record, judgements: Sequence[JudgementRecord]) -> Iterator[SourceRow]:
    assert isinstance(record, QARecord | DualRecord)
    fields: dict[str, Any] = {"prompt": record.prompt}
    if isinstance(record, QARecord):
        fields["response"] = record.response
    else:
        fields |= {f"response_{i}": record.responses[i] for i in (0, 1)}
    answers: dict[str, dict[str, list[Any]]] = {"responses": {}, "suggestions": {}}
    for judgement in judgements:
        kept = judgement.provenance or {}
        kind = "responses" if judgement.rater_kind == "person" else "suggestions"
        entries = kept["entries"] if kept.get("argilla") == kind else _entries(judgement, kind)
        for question, entry in entries.items():
            answers[kind].setdefault(question, []).append(entry)
    yield {"id": record.source_id, "fields": fields, "metadata": record.provenance or {}, **answers}


def _entries(judgement: JudgementRecord, kind: str) -> dict[str, dict[str, Any]]:
    who = {"user_id": judgement.rater} if kind == "responses" else {"agent": judgement.rater}
    if kind == "suggestions":
        who["score"] = judgement.probability  # type: ignore[assignment]
    value = judgement.value
    if judgement.question == "label" and isinstance(value, dict):
        names = [Category.parse(code).value for code in value.get("categories", [])]
        found: dict[str, dict[str, Any]] = {"categories": {"value": names, **who}}
        return found | ({"severity": {"value": value["severity"], **who}} if "severity" in value else {})
    if judgement.question == "safe" and value is not None:
        value = "safe" if value else "unsafe"
    return {judgement.question: {"value": value, **who}}


ARGILLA = Format(
    "argilla",
    "Argilla 2 records with responses and suggestions (JSON)",
    ("fields",),
    _decode,
    _encode,
    ("qa", "default"),
    ".json",
)
