"""The columns of a release: one Arrow schema for each config.

`default`, `single-dimension` and `qa` have exactly the fields of the public PKU-SafeRLHF data, in public order and
types, so that programs written for it read ours. `prompt` has its two public fields and what the prompt was written
for. `judgements` is ours: who answered what about which response; it joins to the others by response hash.
"""

from __future__ import annotations

import hashlib

import pyarrow as pa

from poise.harm import CATEGORIES, Label

SCHEMA_VERSION = "1"
"""Raised when a column is added, dropped or changes its meaning."""

HARM_CATEGORY = pa.struct([pa.field(category.value, pa.bool_()) for category in CATEGORIES])

_TEXT, _ID, _FLAG = pa.string(), pa.int64(), pa.bool_()

SCHEMAS: dict[str, pa.Schema] = {
    "default": pa.schema(
        [
            ("prompt", _TEXT),
            ("response_0", _TEXT),
            ("response_1", _TEXT),
            ("prompt_source", _TEXT),
            ("response_0_source", _TEXT),
            ("response_1_source", _TEXT),
            ("is_response_0_safe", _FLAG),
            ("is_response_1_safe", _FLAG),
            ("response_0_harm_category", HARM_CATEGORY),
            ("response_1_harm_category", HARM_CATEGORY),
            ("response_0_severity_level", _ID),
            ("response_1_severity_level", _ID),
            ("better_response_id", _ID),
            ("safer_response_id", _ID),
            ("response_0_sha256", _TEXT),
            ("response_1_sha256", _TEXT),
        ]
    ),
    "single-dimension": pa.schema(
        [
            ("prompt", _TEXT),
            ("response_0", _TEXT),
            ("response_1", _TEXT),
            ("prompt_source", _TEXT),
            ("response_0_source", _TEXT),
            ("response_1_source", _TEXT),
            ("better_response_id", _ID),
            ("response_0_sha256", _TEXT),
            ("response_1_sha256", _TEXT),
        ]
    ),
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
}
"""Config name -> schema, in the order of the card."""

OPTIONAL: dict[str, frozenset[str]] = {
    "default": frozenset(),
    "single-dimension": frozenset(),
    "qa": frozenset(),
    "prompt": frozenset({"category"}),
    "judgements": frozenset({"value", "probability", "policy", "response_1_sha256"}),
}
"""Config name -> columns that may be null."""


def response_hash(prompt: str, response: str) -> str:
    """SHA-256 of prompt + response without a separator, as in the public data; 64 hex digits."""
    return hashlib.sha256((prompt + response).encode("utf-8", "surrogatepass")).hexdigest()


def category_flags(label: Label) -> dict[str, bool]:
    """The 19 flags of a label, keyed by public names in card order."""
    return {category.value: category in label.categories for category in CATEGORIES}
