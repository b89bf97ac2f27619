"""Records from rows at rest: the inverse of `Record.columns`, one function a unit."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from poise.data.columns import label_columns
from poise.data.records import (
    CorrectionRecord,
    DualRecord,
    JudgementRecord,
    PartialLabel,
    PromptRecord,
    QARecord,
    Record,
    SingleRecord,
    Turn,
)
from poise.harm.taxonomy import PKU


def record_of(unit: str, row: Mapping[str, Any]) -> Record:
    """The record of one row of `poise.data.columns.TABLES[unit]`, the inverse of `Record.columns`.

    Raises:
        KeyError: a unit without a record ("pairs-extended").
        pydantic.ValidationError: a value of the wrong type.
    """
    return _READ[unit](row, _carried(row))


def _carried(row: Mapping[str, Any]) -> dict[str, Any]:
    names = ("split", "image", "language", "dataset", "licence", "source_id")
    made = row.get("provenance")
    return {name: row.get(name) for name in names} | {
        "turns": tuple(Turn(**turn) for turn in row.get("turns") or ()),
        "provenance": None if made is None else json.loads(made),
    }


def _label(unit: str, response: str, foreign: str, row: Mapping[str, Any]) -> PartialLabel:
    """Our own categories where they are known, otherwise those of another taxonomy."""
    safe, flags, severity = label_columns(unit, response) or ("", "", "")
    told = {"safe": row.get(safe), "severity": row.get(severity)}
    if (known := row.get(flags)) is not None:
        named = tuple(name for name, flag in known.items() if flag)
        return PartialLabel(**told, categories=named, undecided=tuple(n for n, flag in known.items() if flag is None))
    if row.get(foreign) is not None:
        return PartialLabel(**told, categories=tuple(row[foreign]), taxonomy=row["taxonomy"])
    return PartialLabel(**told)


def _prompt(row: Mapping[str, Any], carried: dict[str, Any]) -> PromptRecord:
    names = row.get("categories")
    known = None if names is None else tuple(names)
    label = PartialLabel(safe=row.get("is_safe"), categories=known, taxonomy=row.get("taxonomy") or PKU)
    values = {name: row[name] for name in ("prompt", "kind", "category", "severity") if row.get(name) is not None}
    return PromptRecord(**values, source=row.get("prompt_source"), label=label, **carried)


def _qa(row: Mapping[str, Any], carried: dict[str, Any]) -> QARecord:
    names = ("prompt", "response", "prompt_source", "response_source", "sha256")
    return QARecord(
        **{name: row.get(name) for name in names}, label=_label("qa", "response", "categories", row), **carried
    )


def _pair_values(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "prompt": row["prompt"],
        "prompt_source": row.get("prompt_source"),
        "better": row.get("better_response_id"),
        "responses": tuple(row[f"response_{i}"] for i in (0, 1)),
        "response_sources": tuple(row.get(f"response_{i}_source") for i in (0, 1)),
        "hashes": tuple(row.get(f"response_{i}_sha256") for i in (0, 1)),
    }


def _dual(row: Mapping[str, Any], carried: dict[str, Any]) -> DualRecord:
    labels = tuple(_label("default", f"response_{i}", f"response_{i}_categories", row) for i in (0, 1))
    return DualRecord(**_pair_values(row), labels=labels, safer=row.get("safer_response_id"), **carried)


def _judgement(row: Mapping[str, Any], carried: dict[str, Any]) -> JudgementRecord:
    names = ("item", "question", "rater", "rater_kind", "rater_version", "probability", "round", "policy")
    hashes = tuple(row[f"response_{i}_sha256"] for i in (0, 1) if row.get(f"response_{i}_sha256") is not None)
    value = None if row.get("value") is None else json.loads(row["value"])
    return JudgementRecord(**{name: row.get(name) for name in names}, value=value, responses=hashes, **carried)


def _correction(row: Mapping[str, Any], carried: dict[str, Any]) -> CorrectionRecord:
    names = ("question", "answer", "correction", "question_source", "answer_source", "correction_source")
    return CorrectionRecord(**{name: row.get(name) for name in names}, **carried)


_READ: dict[str, Callable[[Mapping[str, Any], dict[str, Any]], Record]] = {
    "prompt": _prompt,
    "qa": _qa,
    "single-dimension": lambda row, carried: SingleRecord(**_pair_values(row), **carried),
    "default": _dual,
    "judgements": _judgement,
    "corrections": _correction,
}
