"""Label Studio tasks: every annotation is a person's judgement, every prediction a model's, and all of them survive.

Fields (in `data`) and questions (the controls' names) are those of `poise.data.adapters.items`; `CONFIG` and
`PAIR_CONFIG` are labelling configurations that make them. An annotation answers several questions and becomes as many
judgements; a cancelled one, or one without results, is an unjudged label. The raw entry is kept in the provenance of
its judgements, and what else the task and its data hold in the record's, so that they are written back as they were.

Lost on writing: labels of the row itself that nobody is named for, sources, rounds, and of an unjudged answer made
elsewhere the question. Raters of other origin are read back with "label-studio:" before their name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
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
from poise.harm import CATEGORIES

CONFIG = (
    '<View><Text name="prompt" value="$prompt"/><Text name="response" value="$response"/>'
    '<Choices name="safe" toName="response" choice="single"><Choice value="safe"/><Choice value="unsafe"/></Choices>'
    '<Choices name="categories" toName="response" choice="multiple">'
    + "".join(f'<Choice value="{category.value}"/>' for category in CATEGORIES)
    + '</Choices><Choices name="severity" toName="response" choice="single">'
    + "".join(f'<Choice value="{level}"/>' for level in range(4))
    + '</Choices><TextArea name="reason" toName="response" maxSubmissions="1"/></View>'
)
"""A labelling configuration for QA rows; severity as choices, since a rating has no 0, and a reason in free text."""


def pair_config(questions: Sequence[str]) -> str:
    """A labelling configuration for pairs that asks these questions, and for a reason in free text."""
    return (
        '<View><Text name="prompt" value="$prompt"/><Text name="response_0" value="$response_0"/>'
        '<Text name="response_1" value="$response_1"/>'
        + "".join(
            f'<Choices name="{question}" toName="prompt" choice="single"><Choice value="response_0"/>'
            '<Choice value="response_1"/></Choices>'
            for question in questions
        )
        + '<TextArea name="reason" toName="prompt" maxSubmissions="1"/></View>'
    )


PAIR_CONFIG = pair_config(PAIR_QUESTIONS)
"""A labelling configuration for pairs that asks everything."""

_KINDS = ("annotations", "predictions")


def _decode(line: Line) -> Iterator[Record]:
    row = Fields(line.row)
    data = row["data"]
    if not isinstance(data, dict):
        raise BadRowError("field-type", "data is no object")
    kept = {
        "data": {name: value for name, value in data.items() if name not in FIELDS},
        "task": {name: value for name, value in row.items() if name not in ("id", "data", *_KINDS)},
    }
    record = item_of(data, row.id, {name: rest for name, rest in kept.items() if rest})
    yield record
    items = hashes_of(record)
    rounds: Counter[tuple[str, str]] = Counter()
    for kind, number, entry in _entries(row):
        rater = f"label-studio:{_rater(kind, entry)}"
        score = entry.get("score")
        for question, value in _answers(entry):
            yield JudgementRecord(
                item=":".join(items),
                question=question,
                value=value,
                rater=rater,
                rater_kind="person" if kind == "annotations" else "model",
                rater_version=str(entry.get("model_version") or ""),
                probability=score if isinstance(score, int | float) and 0 <= score <= 1 else None,
                round=rounds[question, rater],
                responses=items,
                provenance={"label-studio": kind, "number": number, "entry": entry},
            )
            rounds[question, rater] += 1


def _entries(row: Mapping[str, Any]) -> Iterator[tuple[str, int, dict[str, Any]]]:
    for kind in _KINDS:
        for number, entry in enumerate(row.get(kind) or []):
            if isinstance(entry, dict):  # a plain export names predictions by id alone: there is nothing to keep
                yield kind, number, entry


def _rater(kind: str, entry: Mapping[str, Any]) -> str:
    if kind == "predictions":
        return str(entry.get("model_version") or "model")
    by = entry.get("completed_by")
    return str(by.get("id") if isinstance(by, dict) else by)


def _answers(entry: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """(question, value) of the results of one annotation, in the order in which they are there."""
    found = {str(r.get("from_name")): _value(r) for r in entry.get("result") or [] if isinstance(r, dict)}
    if entry.get("was_cancelled") or not found:
        yield "label", None
        return
    for question in dict.fromkeys(question_of(name) for name in found):
        yield question, value_of(question, found)


def _value(result: Mapping[str, Any]) -> Any:
    value = result.get("value") or {}
    for name in ("choices", "rating", "selected", "text", "number"):
        if name in value:
            return value[name]
    return value


def _encode(record: Record, judgements: Sequence[JudgementRecord]) -> Iterator[SourceRow]:
    assert isinstance(record, QARecord | DualRecord)
    kept = record.provenance or {}
    task: dict[str, Any] = {"data": kept.get("data", {}) | fields_of(record), "annotations": [], "predictions": []}
    task |= kept.get("task", {})
    if record.source_id is not None:
        task["id"] = int(record.source_id) if record.source_id.isdigit() else record.source_id
    written: list[Any] = []
    for judgement in judgements:
        origin = judgement.provenance or {}
        if origin.get("label-studio") in _KINDS:
            if origin not in written:  # one entry answers several questions
                written.append(origin)
                task[origin["label-studio"]].append(origin["entry"])
        elif judgement.rater_kind == "person":
            task["annotations"].append({"completed_by": judgement.rater, "result": _results(judgement)})
        else:
            entry = {"model_version": judgement.rater_version or judgement.rater, "result": _results(judgement)}
            task["predictions"].append(entry | {"score": judgement.probability})
    yield task


def _results(judgement: JudgementRecord) -> list[dict[str, Any]]:
    about = "response" if len(judgement.responses) == 1 else "prompt"
    return [
        {"from_name": name, "to_name": about} | _result(name, answer) for name, answer in answers_of(judgement).items()
    ]


def _result(name: str, answer: Any) -> dict[str, Any]:
    if name in ("safe", "severity", *PAIR_QUESTIONS):
        return {"type": "choices", "value": {"choices": [str(answer)]}}
    if isinstance(answer, list):
        return {"type": "choices", "value": {"choices": answer}}
    if isinstance(answer, str):
        return {"type": "textarea", "value": {"text": answer}}
    return {"type": "number", "value": {"number": answer}}


LABEL_STUDIO = Format(
    "label-studio",
    "Label Studio tasks with annotations and predictions (JSON)",
    ("data",),
    _decode,
    _encode,
    ("qa", "default"),
    ".json",
)
