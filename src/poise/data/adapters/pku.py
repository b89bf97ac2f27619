"""The four public PKU-SafeRLHF formats, all generations.

* `pku-safe-rlhf`: the 16 fields of the current release, or the 7 of v0, 30K and 10K (no sources, categories, severity).
* `pku-single-dimension`: 9 fields.
* `pku-qa`: `is_safe`, `harm_category`, `severity_level`, or the older `severity_category` and `safety_category` (a
  list of category numbers). No source says whether those numbers begin with 0 or 1; they are read as positions from 0
  in card order, and a number outside 0..18 quarantines the row.
* `pku-prompt`: 2 fields, and our own three where they are there.

The harm categories may be a mapping name -> bool (public; a null is undecided) or a list of the true names. Lost on
writing: everything that is no column of the format; of a pair whose categories are unknown, sources and severity too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from poise.data.adapters.base import BadRowError, Fields, Format, SourceRow
from poise.data.columns import SCHEMAS
from poise.data.containers import Line
from poise.data.records import (
    UNKNOWN,
    DualRecord,
    JudgementRecord,
    PartialLabel,
    PromptRecord,
    QARecord,
    Record,
    SingleRecord,
)
from poise.harm import CATEGORIES, Category

LICENCE = "CC-BY-NC-4.0"


def _label(safe: bool | None, field: object, severity: int | None) -> PartialLabel:
    """A label from its three columns; `field` holds the harm categories, None where it holds none.

    Raises:
        BadRowError: `field` is no such field, or names an unknown category.
    """
    if field is None:
        return PartialLabel(safe=safe, severity=severity)
    flags = dict.fromkeys(field, True) if isinstance(field, list) else field
    if not isinstance(flags, dict) or not all(isinstance(flag, bool | None) for flag in flags.values()):
        raise BadRowError("field-type", "harm_category is neither a mapping name -> bool nor a list")
    try:
        named = {Category.parse(name).value: flag for name, flag in flags.items()}
    except ValueError as error:
        raise BadRowError("unknown-category", "a harm category is none of the 19") from error
    return PartialLabel(
        safe=safe,
        categories=tuple(name for name, flag in named.items() if flag),
        undecided=tuple(name for name, flag in named.items() if flag is None),
        severity=severity,
    )


def _single_values(row: Fields) -> dict[str, Any]:
    return {
        "prompt": row["prompt"],
        "responses": (row["response_0"], row["response_1"]),
        "prompt_source": row.get("prompt_source"),
        "response_sources": (row.get("response_0_source"), row.get("response_1_source")),
        "hashes": (row.get("response_0_sha256"), row.get("response_1_sha256")),
        "better": row.get("better_response_id"),
        "source_id": row.id,
    }


def _dual(line: Line) -> Iterator[Record]:
    row = Fields(line.row)
    labels = tuple(
        _label(
            row.get(f"is_response_{i}_safe"),
            row.get(f"response_{i}_harm_category"),
            row.get(f"response_{i}_severity_level"),
        )
        for i in (0, 1)
    )
    yield DualRecord(**_single_values(row), labels=labels, safer=row.get("safer_response_id"))


def _single(line: Line) -> Iterator[Record]:
    yield SingleRecord(**_single_values(Fields(line.row)))


def _qa(line: Line) -> Iterator[Record]:
    row = Fields(line.row)
    safe, severity = row.get("is_safe"), row.get("severity_level", row.get("severity_category"))
    names = row.get("harm_category")
    if names is None and row.get("safety_category") is not None:
        names = _numbered(row["safety_category"])
    if safe is None and severity is not None:
        safe = severity == 0
    yield QARecord(
        prompt=row["prompt"],
        response=row["response"],
        prompt_source=row.get("prompt_source"),
        response_source=row.get("response_source"),
        label=_label(safe, names, severity),
        sha256=row.get("sha256"),
        source_id=row.id,
    )


def _numbered(numbers: object) -> list[str]:
    if not isinstance(numbers, list) or not all(isinstance(number, int) for number in numbers):
        raise BadRowError("field-type", "safety_category is no list of numbers")
    if not all(0 <= number < len(CATEGORIES) for number in numbers):
        raise BadRowError("id-range", "a category number is outside 0..18")
    return [CATEGORIES[number].value for number in numbers]


def _prompt(line: Line) -> Iterator[Record]:
    row = Fields(line.row)
    told = {name: row[name] for name in ("kind", "category", "severity") if row.get(name) is not None}
    yield PromptRecord(prompt=row["prompt"], source=row.get("prompt_source"), source_id=row.id, **told)


def _columns(record: Record, judgements: Sequence[JudgementRecord]) -> Iterator[SourceRow]:
    """A record in its public columns; of a pair that knows only safe or unsafe, the 7 fields of the first releases."""
    row = record.columns()
    names = SCHEMAS[record.unit].names
    if isinstance(record, DualRecord) and all(label.categories is None for label in record.labels):
        names = [name for name in names if not name.endswith(("_source", "_category", "_level", "_sha256"))]
    if isinstance(record, PromptRecord) and record.label == UNKNOWN and record.kind == "unknown":
        names = names[:2]
    yield {name: row[name] for name in names}


PAIR = ("prompt", "response_0", "response_1")
PKU_DUAL = Format(
    "pku-safe-rlhf",
    "PKU-SafeRLHF dual preference, 16 fields; v0, 30K, 10K",
    (*PAIR, "is_response_0_safe", "is_response_1_safe", "better_response_id", "safer_response_id"),
    _dual,
    _columns,
    ("default",),
    ".parquet",
    licence=LICENCE,
)
PKU_SINGLE = Format(
    "pku-single-dimension",
    "PKU-SafeRLHF-single-dimension, 9 fields",
    (*PAIR, "better_response_id", "response_0_source", "response_1_source"),
    _single,
    _columns,
    ("single-dimension",),
    ".parquet",
    licence=LICENCE,
)
PKU_QA = Format(
    "pku-qa",
    "PKU-SafeRLHF-QA, both column generations",
    ("prompt", "response", "response_source"),
    _qa,
    _columns,
    ("qa",),
    ".parquet",
    licence=LICENCE,
)
PKU_PROMPT = Format(
    "pku-prompt",
    "PKU-SafeRLHF-prompt",
    ("prompt", "prompt_source"),
    _prompt,
    _columns,
    ("prompt",),
    ".jsonl",
    licence=LICENCE,
)
