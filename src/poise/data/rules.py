"""The named rules of a release row, each a small check over one row.

Rows are mappings with the columns of `poise.data.columns`. No reason quotes a text.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import pyarrow as pa

from poise.data.columns import HARM_CATEGORY, OPTIONAL, SCHEMAS, response_hash
from poise.data.corpus import canonical_json
from poise.harm import CATEGORIES

RowDict = Mapping[str, Any]

RULES: dict[str, str] = {
    "field-type": "every column is there and has its type",
    "encoding": "no text holds a lone surrogate",
    "empty-text": "no prompt and no response is blank",
    "id-range": "response ids are 0 or 1, severity is 0..3",
    "unknown-category": "every harm category is one of the 19 public names",
    "safe-severity-category": "safe <=> severity 0 <=> no category",
    "logical-order": "if exactly one response of a pair is safe, it is the safer one",
    "response-hash": "the hash is the SHA-256 of prompt + response",
    "duplicate-row": "no row comes twice in a config; the two responses of a pair may stand in either order",
    "split-leak": "no test prompt is a near-duplicate of a train prompt",
}
"""Rule name -> what it demands. `field-type` comes first: a row that breaks it is not asked further."""

_NAMES = frozenset(category.value for category in CATEGORIES)


def violations(row: RowDict, config: str, seen: set[bytes]) -> list[tuple[str, str]]:
    """All (rule, reason) of one row; `seen` collects the keys of rows so far and finds duplicates."""
    found = [("field-type", reason) for reason in _field_type(row, config)]
    found += [("encoding", reason) for reason in _encoding(row)]
    if found:
        return found
    answers = _answers(row, config)
    for rule, check in _CHECKS.items():
        found += [(rule, reason) for reason in check(row, answers)]
    key = _row_key(row, config)
    if key in seen:
        found.append(("duplicate-row", "the same row came before"))
    seen.add(key)
    return found


class _Answer(NamedTuple):
    """One response of a row; the label fields are None where the config has none."""

    response: str
    sha256: str
    safe: bool | None
    names: frozenset[str]
    severity: int | None


def _answers(row: RowDict, config: str) -> list[_Answer]:
    if config == "qa":
        names = _true_names(row["harm_category"])
        return [_Answer(row["response"], row["sha256"], row["is_safe"], names, row["severity_level"])]
    if config in ("default", "single-dimension"):
        return [
            _Answer(
                row[f"response_{i}"],
                row[f"response_{i}_sha256"],
                row.get(f"is_response_{i}_safe"),
                _true_names(row.get(f"response_{i}_harm_category", {})),
                row.get(f"response_{i}_severity_level"),
            )
            for i in (0, 1)
        ]
    return []


def _true_names(flags: Mapping[str, bool]) -> frozenset[str]:
    return frozenset(name for name, true in flags.items() if true)


_PYTHON_TYPE: dict[pa.DataType, type] = {
    pa.string(): str,
    pa.int64(): int,
    pa.bool_(): bool,
    pa.float64(): float,
    HARM_CATEGORY: Mapping,
}


def _field_type(row: RowDict, config: str) -> Iterator[str]:
    for column in SCHEMAS[config]:
        value = row.get(column.name)
        if value is None:
            if column.name not in OPTIONAL[config]:
                yield f"no value in {column.name}"
        elif not isinstance(value, _PYTHON_TYPE[column.type]) or (
            column.type == pa.int64() and isinstance(value, bool)
        ):
            yield f"{column.name} is {type(value).__name__}"
        elif isinstance(value, Mapping) and not all(isinstance(flag, bool) for flag in value.values()):
            yield f"{column.name} holds a flag that is no boolean"


def _encoding(row: RowDict) -> Iterator[str]:
    for name, value in row.items():
        if isinstance(value, str) and any("\ud800" <= character <= "\udfff" for character in value):
            yield f"lone surrogate in {name}"


def _empty_text(row: RowDict, answers: list[_Answer]) -> Iterator[str]:
    if "prompt" in row and not row["prompt"].strip():
        yield "blank prompt"
    if any(not answer.response.strip() for answer in answers):
        yield "blank response"


def _id_range(row: RowDict, answers: list[_Answer]) -> Iterator[str]:
    for name in ("better_response_id", "safer_response_id"):
        if row.get(name, 0) not in (0, 1):
            yield f"{name} is {row[name]}"
    for severity in (row.get("severity"), *(answer.severity for answer in answers)):
        if severity is not None and severity not in (0, 1, 2, 3):
            yield f"severity is {severity}"


def _unknown_category(row: RowDict, answers: list[_Answer]) -> Iterator[str]:
    names = frozenset[str]().union(*(answer.names for answer in answers))
    if row.get("category") is not None:
        names |= {row["category"]}
    if names - _NAMES:
        yield f"{len(names - _NAMES)} unknown harm category"


def _label_agrees(row: RowDict, answers: list[_Answer]) -> Iterator[str]:
    for answer in answers:
        if answer.safe is not None and not answer.safe == (answer.severity == 0) == (not answer.names):
            yield f"safe {answer.safe} with severity {answer.severity} and {len(answer.names)} categories"


def _logical_order(row: RowDict, answers: list[_Answer]) -> Iterator[str]:
    one_safe = "safer_response_id" in row and answers[0].safe != answers[1].safe
    if one_safe and row["safer_response_id"] != (0 if answers[0].safe else 1):
        yield "the unsafe response is called safer than the safe one"


def _hashes(row: RowDict, answers: list[_Answer]) -> Iterator[str]:
    if any(answer.sha256 != response_hash(row["prompt"], answer.response) for answer in answers):
        yield "the hash is not that of prompt + response"


_CHECKS: dict[str, Callable[[RowDict, list[_Answer]], Iterator[str]]] = {
    "empty-text": _empty_text,
    "id-range": _id_range,
    "unknown-category": _unknown_category,
    "safe-severity-category": _label_agrees,
    "logical-order": _logical_order,
    "response-hash": _hashes,
}


def _row_key(row: RowDict, config: str) -> bytes:
    """What makes a row the same row."""
    if config == "judgements":
        parts = [row["item"], row["question"], row["rater"], row["round"]]
    elif config == "qa":
        parts = [row["prompt"], row["response"]]
    elif config == "prompt":
        parts = [row["prompt"]]
    else:
        parts = [row["prompt"], *sorted((row["response_0"], row["response_1"]))]
    return hashlib.sha256(canonical_json(parts).encode()).digest()[:16]
