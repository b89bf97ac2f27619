"""Pieces of the published schemas that several APIs share: conversations, our own fields, faults."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from poise.guard.verdict import Item
from poise.harm import CATEGORIES, Severity
from poise.serve.apis.api import Schema, text_schema
from poise.serve.faults import KINDS, ApiError
from poise.serve.limits import Limits

NUMBER: Schema = {"type": "number", "minimum": 0, "maximum": 1}
ROLES = ("system", "developer", "user", "assistant", "tool")


def maybe(schema: Schema) -> Schema:
    """The schema, or null."""
    return {"anyOf": [schema, {"type": "null"}]}


def record(names: Sequence[str], value: Schema) -> Schema:
    """An object with exactly these keys, each with the same kind of value."""
    return {
        "type": "object",
        "properties": dict.fromkeys(names, value),
        "required": list(names),
        "additionalProperties": False,
    }


_LEVELS = [level.label for level in Severity]
_NAMES = [category.value for category in CATEGORIES]
OUR_FIELDS: Schema = {
    "unjudged": {"type": ["string", "null"], "description": "Why there is no verdict; null when there is one."},
    "unsafe_score": maybe(NUMBER),
    "severity": {"enum": [*_LEVELS, None]},
    "severity_level": {"type": ["integer", "null"], "minimum": 0, "maximum": 3},
    "severity_scores": maybe(record(_LEVELS, NUMBER)),
    "harm_categories": record(_NAMES, {"type": ["boolean", "null"]}),
    "harm_category_scores": maybe(record(_NAMES, NUMBER)),
    "refusal": {"type": ["boolean", "null"]},
    "unit": {"enum": ["text", "pair"]},
}
"""Of `poise.serve.views.our_fields`."""
WHOLE_FIELDS: Schema = {
    "unsafe": {"type": ["boolean", "null"], "description": "null when unjudged, which never means safe."},
    **OUR_FIELDS,
    "severities": {"type": "array", "items": {"enum": _LEVELS}},
    "categories": maybe({"type": "array", "items": {"enum": _NAMES}}),
    "undecided": {"type": "array", "items": {"type": "string"}},
    "taxonomy": {"type": ["string", "null"]},
    "named": {"type": "array", "items": {"type": "string"}},
    "level": {"type": ["string", "null"]},
    "prompt_unsafe": {"type": ["boolean", "null"]},
}
"""Of `poise.serve.views.whole`."""


def part_schema(limits: Limits) -> Schema:
    """A content part; only text can be judged."""
    return {
        "type": "object",
        "properties": {"type": {"const": "text"}, "text": text_schema(limits)},
        "required": ["type", "text"],
        "additionalProperties": False,
    }


def parts_schema(limits: Limits) -> Schema:
    """Content parts that are one text together."""
    return {"type": "array", "minItems": 1, "maxItems": limits.items, "items": part_schema(limits)}


def messages_schema(limits: Limits) -> Schema:
    """A conversation. Its last turn is judged: an assistant's as a response to all before it."""
    content = {"anyOf": [text_schema(limits), parts_schema(limits)]}
    message = {
        "type": "object",
        "properties": {"role": {"enum": list(ROLES)}, "content": content},
        "required": ["role", "content"],
    }
    return {"type": "array", "minItems": 1, "maxItems": limits.items, "items": message}


def text_of(content: Any) -> str:
    """The text of a message's content: a string, or parts that are joined by line ends.

    Raises:
        ApiError: a part is no text.
    """
    if isinstance(content, str):
        return content
    texts = []
    for part in content:
        if not isinstance(part, Mapping) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise ApiError("image", "a content part is no text; images, audio and files are not judged here")
        texts.append(part["text"])
    return "\n".join(texts)


def item_of(messages: Sequence[Mapping[str, Any]]) -> Item:
    """The conversation as an item: (all earlier turns, the assistant's last), or all turns when the last is another's.

    An assistant's turn alone is a text without prompt.

    Raises:
        ApiError: a part is no text.
    """
    texts = [text_of(message["content"]) for message in messages]
    if messages[-1]["role"] == "assistant" and len(texts) > 1:
        return "\n".join(texts[:-1]), texts[-1]
    return "\n".join(texts), None


OPENAI_FAULT: Schema = {
    "type": "object",
    "properties": {
        "error": {
            "type": "object",
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"enum": sorted({kind.code for kind in KINDS.values()})},
            },
            "required": ["message", "type", "param", "code"],
        }
    },
    "required": ["error"],
}
AZURE_FAULT: Schema = {
    "type": "object",
    "properties": {
        "error": {
            "type": "object",
            "properties": {
                "code": {"type": "string"},
                "message": {"type": "string"},
                "target": {"type": "string"},
                "details": {"type": "array"},
                "innererror": {"type": "object"},
            },
            "required": ["code", "message"],
        }
    },
    "required": ["error"],
}
GOOGLE_FAULT: Schema = {
    "type": "object",
    "properties": {
        "error": {
            "type": "object",
            "properties": {
                "code": {"type": "integer"},
                "message": {"type": "string"},
                "status": {"type": "string"},
                "details": {"type": "array"},
            },
            "required": ["code", "message", "status"],
        }
    },
    "required": ["error"],
}
TEI_FAULT: Schema = {
    "type": "object",
    "properties": {
        "error": {"type": "string"},
        "error_type": {"enum": ["Unhealthy", "Backend", "Overloaded", "Validation", "Tokenizer", "Empty"]},
    },
    "required": ["error", "error_type"],
}
