"""What an annotation tool shows and asks: a prompt with one response or two as named fields, answers by question.

Label Studio and Argilla share these names. Fields: `prompt` with `response`, or with `response_0` and `response_1`;
`turns` (chat messages before the prompt) and `image` where there are any. Questions:

    categories, severity       public names; 0..3 or a name: together the judgement "label"
    safe                       "safe" or "unsafe"
    better, safer, single      "response_0" or "response_1" (also 0, 1, left, right)
    label                      a label as JSON, where it is not of the 19

An answer that none of these words is becomes unjudged, never a guess. Any other question keeps its name and its value.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from poise.data.adapters.base import BadRowError
from poise.data.adapters.beavertails_v import image_of
from poise.data.adapters.trl import turns_of
from poise.data.records import DualRecord, JudgementRecord, QARecord
from poise.harm import Category, Severity

FIELDS = ("prompt", "response", "response_0", "response_1", "turns", "image")
PAIR_QUESTIONS = ("better", "safer", "single")

_SIDES = {"0": 0, "1": 1, "response_0": 0, "response_1": 1, "left": 0, "right": 1}
_SAFE = {"safe": True, "unsafe": False, "true": True, "false": False}


def item_of(fields: object, source_id: object, provenance: dict[str, Any]) -> QARecord | DualRecord:
    """The record that the fields show.

    Raises:
        BadRowError: there is no prompt, or neither one response nor two.
    """
    if not isinstance(fields, dict) or not isinstance(fields.get("prompt"), str):
        raise BadRowError("missing-column", "there is no prompt")
    about: dict[str, Any] = {
        "prompt": fields["prompt"],
        "turns": tuple(turns_of(fields["turns"])) if fields.get("turns") else (),
        "image": image_of(fields.get("image")),
        "source_id": None if source_id is None else str(source_id),
        "provenance": provenance or None,
    }
    if isinstance(fields.get("response"), str):
        return QARecord(response=fields["response"], **about)
    pair = fields.get("response_0"), fields.get("response_1")
    if not all(isinstance(text, str) for text in pair):
        raise BadRowError("missing-column", "there is neither a response nor two")
    return DualRecord(responses=pair, **about)


def hashes_of(record: QARecord | DualRecord) -> tuple[str] | tuple[str, str]:
    """The hashes that judgements name a record by."""
    return record.items if isinstance(record, DualRecord) else (record.item,)


def fields_of(record: QARecord | DualRecord) -> dict[str, Any]:
    """The fields that show a record, the inverse of `item_of`."""
    fields: dict[str, Any] = {"prompt": record.prompt}
    if isinstance(record, QARecord):
        fields["response"] = record.response
    else:
        fields |= {f"response_{i}": record.responses[i] for i in (0, 1)}
    if record.turns:
        fields["turns"] = [turn.to_json() for turn in record.turns]
    return fields if record.image is None else fields | {"image": record.image}


def question_of(name: str) -> str:
    """Our question that a tool's question belongs to."""
    return "label" if name in ("categories", "severity") else name


def value_of(question: str, answers: Mapping[str, Any]) -> Any:
    """Our value of a question, from what a tool's questions (name -> answer) say.

    Raises:
        BadRowError: a choice is no harm category or no severity.
    """
    if question == "label":
        return answers["label"] if "label" in answers else _label(answers)
    answer = answers[question]
    if question not in ("safe", *PAIR_QUESTIONS):
        return answer
    word = str(answer[0] if isinstance(answer, list) and len(answer) == 1 else answer).casefold()
    return _SAFE.get(word) if question == "safe" else _SIDES.get(word)


def _label(answers: Mapping[str, Any]) -> dict[str, Any] | None:
    names, level = answers.get("categories"), answers.get("severity")
    level = level[0] if isinstance(level, list) and len(level) == 1 else level
    label: dict[str, Any] = {}
    try:
        if names is not None:
            listed = [names] if isinstance(names, str) else names
            label["categories"] = [Category.parse(name).code for name in listed]
        if level is not None:
            label["severity"] = int(Severity.parse(int(level) if str(level).isdigit() else level))
    except ValueError as error:
        raise BadRowError("unknown-category", "a choice is no harm category or no severity") from error
    if label.get("severity") == 0:
        label.setdefault("categories", [])
    return label or None


def answers_of(judgement: JudgementRecord) -> dict[str, Any]:
    """What the tool's questions are answered with, the inverse of `value_of`; {} for an unjudged answer."""
    question, value = judgement.question, judgement.value
    if value is None:
        return {}
    if question == "safe":
        return {"safe": "safe" if value else "unsafe"}
    if question in PAIR_QUESTIONS:
        return {question: f"response_{value}"}
    if question == "label" and isinstance(value, dict) and set(value) <= {"categories", "severity"}:
        if "categories" in value:
            return value | {"categories": [Category.parse(code).value for code in value["categories"]]}
        return dict(value)
    return {question: value}
