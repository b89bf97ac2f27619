"""Label Studio tasks: every annotation is a person's judgement, every prediction a model's, and all of them survive.

Expected are `data.prompt` with `data.response`, or with `data.response_0` and `data.response_1`, and results of these
controls (`CONFIG` is a labelling configuration that makes them):

    from_name     type       becomes the judgement
    categories    choices    "label" (with `severity`)
    severity      rating or choices 0..3
    safe          choices    "safe" ("safe" or "unsafe")
    better, safer, single    pairwise or choices (left / right, 0 / 1)

A result of any other control becomes a judgement of the control's name with its value. The raw results, with everything
else that an annotation or a prediction holds, are kept in the judgement's provenance and written back as they were.
Lost on writing: labels of the row itself that nobody is named for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from poise.data.adapters.base import BadRowError, Format, SourceRow
from poise.data.containers import Line
from poise.data.records import DualRecord, JudgementRecord, QARecord, Record
from poise.harm import CATEGORIES, Category, Severity

CONFIG = (
    '<View><Text name="prompt" value="$prompt"/><Text name="response" value="$response"/>'
    '<Choices name="safe" toName="response" choice="single"><Choice value="safe"/><Choice value="unsafe"/></Choices>'
    '<Choices name="categories" toName="response" choice="multiple">'
    + "".join(f'<Choice value="{category.value}"/>' for category in CATEGORIES)
    + '</Choices><Rating name="severity" toName="response" maxRating="3"/></View>'
)
"""A labelling configuration for QA rows."""

_SIDES = {"left": 0, "right": 1, "0": 0, "1": 1, "response_0": 0, "response_1": 1}
_SAFE = {"safe": True, "unsafe": False}


def _decode(line: Line) -> Iterator[Record]:
    data = line.row["data"]
    if not isinstance(data, dict) or not isinstance(data.get("prompt"), str):
        raise BadRowError("missing-column", "data holds no prompt")
    about: dict[str, Any] = {"source_id": None if line.row.get("id") is None else str(line.row["id"])}
    rest = {name: value for name, value in data.items() if not name.startswith(("prompt", "response"))}
    about["provenance"] = rest or None
    if isinstance(data.get("response"), str):
        record: QARecord | DualRecord = QARecord(prompt=data["prompt"], response=data["response"], **about)
        items: tuple[str, ...] = (record.item,) if isinstance(record, QARecord) else ()
    else:
        pair = data.get("response_0"), data.get("response_1")
        record = DualRecord(prompt=data["prompt"], responses=pair, **about)
        items = record.items
    yield record
    rounds: dict[tuple[str, str], int] = {}
    for kind, entry in _entries(line.row):
        rater = f"label-studio:{_rater(kind, entry)}"
        for question, value in _answers(entry):
            number = rounds.setdefault((question, rater), 0)
            rounds[question, rater] += 1
            score = entry.get("score")
            yield JudgementRecord(
                item=":".join(items),
                question=question,
                value=value,
                rater=rater,
                rater_kind="person" if kind == "annotations" else "model",
                rater_version=str(entry.get("model_version") or ""),
                probability=score if isinstance(score, int | float) and 0 <= score <= 1 else None,
                round=number,
                responses=items,
                provenance={"label-studio": kind, "entry": entry},
            )


def _entries(row: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for kind in ("annotations", "predictions"):
        for entry in row.get(kind) or []:
            if isinstance(entry, dict):  # a plain export names predictions by id alone: there is nothing to keep
                yield kind, entry


def _rater(kind: str, entry: Mapping[str, Any]) -> str:
    if kind == "predictions":
        return str(entry.get("model_version") or "model")
    by = entry.get("completed_by")
    return str(by.get("id") if isinstance(by, dict) else by)


def _answers(entry: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """(question, value) of the results of one annotation; cancelled ones and those without results are unjudged."""
    found = {r.get("from_name"): _value(r) for r in entry.get("result") or [] if isinstance(r, dict)}
    if entry.get("was_cancelled") or not found:
        yield "label", None
        return
    if "categories" in found or "severity" in found:
        names = found.pop("categories", None) or []
        severity = found.pop("severity", None)
        try:
            label: dict[str, Any] = {"categories": [Category.parse(name).code for name in names]}
            if severity is not None:
                label["severity"] = int(Severity.parse(int(severity) if str(severity).isdigit() else severity))
        except ValueError as error:
            raise BadRowError("unknown-category", "a choice is no harm category or no severity") from error
        yield "label", label
    for question, value in found.items():
        only = value[0] if isinstance(value, list) and len(value) == 1 else value
        if question == "safe":
            yield "safe", _SAFE.get(str(only).casefold())
        elif question in ("better", "safer", "single"):
            yield question, _SIDES.get(str(only).casefold())
        else:
            yield str(question), value


def _value(result: Mapping[str, Any]) -> Any:
    value = result.get("value") or {}
    for name in ("choices", "rating", "selected", "text", "number"):
        if name in value:
            return value[name]
    return value


def _encode(record: Record, judgements: Sequence[JudgementRecord]) -> Iterator[SourceRow]:
    assert isinstance(record, QARecord | DualRecord)
    data: dict[str, Any] = {"prompt": record.prompt}
    if isinstance(record, QARecord):
        data["response"] = record.response
    else:
        data |= {f"response_{i}": record.responses[i] for i in (0, 1)}
    task: dict[str, Any] = {"data": data | (record.provenance or {}), "annotations": [], "predictions": []}
    if record.source_id is not None:
        task["id"] = int(record.source_id) if record.source_id.isdigit() else record.source_id
    written: list[Any] = []
    for judgement in judgements:
        kept = judgement.provenance or {}
        if kept.get("label-studio") in ("annotations", "predictions"):
            if kept["entry"] not in written:  # one entry answers several questions
                written.append(kept["entry"])
                task[kept["label-studio"]].append(kept["entry"])
        elif judgement.rater_kind == "person":
            task["annotations"].append({"completed_by": judgement.rater, "result": _results(judgement)})
        else:
            entry = {"model_version": judgement.rater_version or judgement.rater, "result": _results(judgement)}
            task["predictions"].append(entry | {"score": judgement.probability})
    yield task


def _results(judgement: JudgementRecord) -> list[dict[str, Any]]:
    value, target = judgement.value, {"to_name": "response"}
    if value is None:
        return []
    if judgement.question == "label":
        names = [Category.parse(code).value for code in value.get("categories", [])]
        chosen = {"from_name": "categories", "type": "choices", "value": {"choices": names}} | target
        rated = {"from_name": "severity", "type": "rating", "value": {"rating": value.get("severity")}} | target
        return [chosen, rated] if value.get("severity") is not None else [chosen]
    if judgement.question == "safe":
        return [
            {"from_name": "safe", "type": "choices", "value": {"choices": ["safe" if value else "unsafe"]}} | target
        ]
    if judgement.question in ("better", "safer", "single"):
        side = {"selected": "right" if value else "left"}
        return [{"from_name": judgement.question, "type": "pairwise", "value": side} | target]
    return [{"from_name": judgement.question, "type": "choices", "value": {"choices": value}} | target]


LABEL_STUDIO = Format(
    "label-studio",
    "Label Studio tasks with annotations and predictions (JSON)",
    ("data",),
    _decode,
    _encode,
    ("qa", "default"),
    ".json",
)
