"""The columns of a data set: one Arrow schema for each unit, public columns first.

`default` (dual pairs), `single-dimension`, `qa` and `prompt` have exactly the fields of the public PKU-SafeRLHF data,
in public order and types, so that programs written for it read ours; `prompt` adds what a prompt was written for.
`corrections` has Aligner's names. `judgements` (who answered what about which response) and `pairs-extended` (pairs
that are partly judged or follow from labels) are ours.

At rest (`poise.data.tables`) every unit also carries what the public files have no place for: conversation turns, an
image reference, data set, licence, and labels in another taxonomy. A release keeps the public columns only, but for the
carried ones that hold something.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import pyarrow as pa

from poise.harm import CATEGORIES

SCHEMA_VERSION = "2"
"""Raised when a column is added, dropped or changes its meaning."""

HARM_CATEGORY = pa.struct([pa.field(category.value, pa.bool_()) for category in CATEGORIES])
TURNS = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))

_TEXT, _ID, _FLAG, _NAMES = pa.string(), pa.int64(), pa.bool_(), pa.list_(pa.string())
_Columns = list[tuple[str, pa.DataType]]

_PAIR_TEXTS: _Columns = [
    ("prompt", _TEXT),
    ("response_0", _TEXT),
    ("response_1", _TEXT),
    ("prompt_source", _TEXT),
    ("response_0_source", _TEXT),
    ("response_1_source", _TEXT),
]
_PAIR_LABELS: _Columns = [
    ("is_response_0_safe", _FLAG),
    ("is_response_1_safe", _FLAG),
    ("response_0_harm_category", HARM_CATEGORY),
    ("response_1_harm_category", HARM_CATEGORY),
    ("response_0_severity_level", _ID),
    ("response_1_severity_level", _ID),
]
_PAIR_HASHES: _Columns = [("response_0_sha256", _TEXT), ("response_1_sha256", _TEXT)]

SCHEMAS: dict[str, pa.Schema] = {
    "default": pa.schema(
        [*_PAIR_TEXTS, *_PAIR_LABELS, ("better_response_id", _ID), ("safer_response_id", _ID), *_PAIR_HASHES]
    ),
    "single-dimension": pa.schema([*_PAIR_TEXTS, ("better_response_id", _ID), *_PAIR_HASHES]),
    "qa": pa.schema(
        [
            ("prompt", _TEXT),
            ("response", _TEXT),
            ("prompt_source", _TEXT),
            ("response_source", _TEXT),
            ("is_safe", _FLAG),
            ("harm_category", HARM_CATEGORY),
            ("severity_level", _ID),
            ("sha256", _TEXT),
        ]
    ),
    "prompt": pa.schema(
        [("prompt", _TEXT), ("prompt_source", _TEXT), ("kind", _TEXT), ("category", _TEXT), ("severity", _ID)]
    ),
    "judgements": pa.schema(
        [
            ("item", _TEXT),
            ("question", _TEXT),
            ("value", _TEXT),
            ("probability", pa.float64()),
            ("rater", _TEXT),
            ("rater_kind", _TEXT),
            ("rater_version", _TEXT),
            ("round", _ID),
            ("policy", _TEXT),
            ("response_0_sha256", _TEXT),
            ("response_1_sha256", _TEXT),
        ]
    ),
    "pairs-extended": pa.schema(
        [
            *_PAIR_TEXTS,
            *_PAIR_LABELS,
            ("better_response_id", _ID),
            ("safer_response_id", _ID),
            ("safer_derived", _FLAG),
            *_PAIR_HASHES,
        ]
    ),
    "corrections": pa.schema(
        [
            ("question", _TEXT),
            ("answer", _TEXT),
            ("correction", _TEXT),
            ("question_source", _TEXT),
            ("answer_source", _TEXT),
            ("correction_source", _TEXT),
            ("answer_sha256", _TEXT),
            ("correction_sha256", _TEXT),
        ]
    ),
}
"""Unit -> public columns, in the order of the card."""

UNITS = tuple(SCHEMAS)

OPTIONAL: dict[str, frozenset[str]] = {
    "default": frozenset(),
    "single-dimension": frozenset(),
    "qa": frozenset(),
    "prompt": frozenset({"category"}),
    "judgements": frozenset({"value", "probability", "policy", "response_1_sha256"}),
    "pairs-extended": frozenset(
        {name for name, _ in _PAIR_LABELS} | {"better_response_id", "safer_response_id", "safer_derived"}
    ),
    "corrections": frozenset(),
}
"""Unit -> public columns that may be null in a release."""

CARRIED: pa.Schema = pa.schema(
    [
        ("split", _TEXT),
        ("turns", TURNS),
        ("image", _TEXT),
        ("language", _TEXT),
        ("dataset", _TEXT),
        ("licence", _TEXT),
        ("source_id", _TEXT),
        ("provenance", _TEXT),
    ]
)
"""Columns that every unit carries at rest; any may be null. `turns` is the conversation before the prompt, oldest
first; `image` a path or URI; `source_id` the row's id where it came from; `provenance` a JSON object."""

FOREIGN: dict[str, _Columns] = {
    "prompt": [("is_safe", _FLAG), ("taxonomy", _TEXT), ("categories", _NAMES)],
    "qa": [("taxonomy", _TEXT), ("categories", _NAMES)],
    "default": [("taxonomy", _TEXT), ("response_0_categories", _NAMES), ("response_1_categories", _NAMES)],
    "pairs-extended": [("taxonomy", _TEXT), ("response_0_categories", _NAMES), ("response_1_categories", _NAMES)],
}
"""Unit -> further columns at rest: harm as another taxonomy names it, and for a prompt whether it was judged safe."""

TABLES: dict[str, pa.Schema] = {
    unit: pa.schema([*schema, *(pa.field(*column) for column in FOREIGN.get(unit, [])), *CARRIED])
    for unit, schema in SCHEMAS.items()
}
"""Unit -> all columns at rest; public ones may be null there, where a source does not tell."""

RESPONSES: dict[str, tuple[str, ...]] = {
    "default": ("response_0", "response_1"),
    "single-dimension": ("response_0", "response_1"),
    "pairs-extended": ("response_0", "response_1"),
    "qa": ("response",),
    "corrections": ("answer", "correction"),
    "prompt": (),
    "judgements": (),
}
"""Unit -> columns that hold a model's text."""


def prompt_column(unit: str) -> str | None:
    """The column that holds what the user asked: "question" for corrections, None for judgements."""
    return {"corrections": "question", "judgements": None}.get(unit, "prompt")


def hash_column(unit: str, response: str) -> str:
    """The column that holds the hash of a response column."""
    return "sha256" if unit == "qa" else f"{response}_sha256"


def label_columns(unit: str, response: str) -> tuple[str, str, str] | None:
    """The columns (safe flag, category flags, severity) of a response column, None where the unit has no labels."""
    if unit == "qa":
        return "is_safe", "harm_category", "severity_level"
    if unit in ("default", "pairs-extended"):
        return f"is_{response}_safe", f"{response}_harm_category", f"{response}_severity_level"
    return None


def response_hash(prompt: str, response: str, turns: Sequence[tuple[str, str]] = (), image: str | None = None) -> str:
    """SHA-256 of prompt + response without a separator, as in the public data; 64 hex digits.

    Earlier turns (role, content) and an image reference, where there are any, come before, each closed by a control
    character, so that one answer in two conversations has two hashes.
    """
    before = "".join(f"{role}\x1f{content}\x1e" for role, content in turns)
    before += f"{image}\x1d" if image else ""
    return hashlib.sha256((before + prompt + response).encode("utf-8", "surrogatepass")).hexdigest()
