"""OpenAI's `POST /v1/moderations`, all 13 keys, with our fields beside them.

A string gives one result, a list of strings one each, a list of text parts one for all. `prompt` is ours: the text that
the inputs answer; the SDK sends it with `extra_body={"prompt": ...}`. `category_applied_input_types` is empty where a
key was not evaluated. An unjudged text among others is `flagged`, with `unjudged` saying why, since a client reads
`flagged: false` as safe; when nothing could be judged the answer is 503.

Source: openai-openapi (2026-08).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from poise.guard.verdict import Verdict
from poise.harm.taxonomy import load_taxonomy
from poise.serve.apis.api import About, Api, Asked, Schema, closed, new_id, text_schema, texts_schema
from poise.serve.apis.schemas import NUMBER, OPENAI_FAULT, OUR_FIELDS, parts_schema, record, text_of
from poise.serve.faults import ApiError, openai_shape
from poise.serve.limits import Limits
from poise.serve.views import View, in_order, our_fields, view

TAXONOMY = "openai-13"
MODELS = (
    "omni-moderation-latest",
    "omni-moderation-2024-09-26",
    "text-moderation-latest",
    "text-moderation-stable",
)
"""Names of OpenAI's models, under which this guard answers so that clients need change nothing but the address."""

_KEYS = load_taxonomy(TAXONOMY).keys


def check_model(body: Mapping[str, Any], about: About) -> None:
    """Raise when the request names a model that is not here.

    Raises:
        ApiError: 404.
    """
    name = body.get("model")
    if name is not None and name not in (about.guard, *MODELS):
        raise ApiError("model", f"there is no such model; this server has {about.guard!r}", param="model")


def request_schema(limits: Limits) -> Schema:
    """The body."""
    inputs = {"anyOf": [text_schema(limits), texts_schema(limits), parts_schema(limits)]}
    properties = {
        "input": inputs,
        "model": {"type": ["string", "null"], "examples": ["omni-moderation-latest"]},
        "prompt": text_schema(limits) | {"description": "What the inputs answer; they are then judged as responses."},
    }
    return closed(properties, ["input"])


def _read(body: Any, _: Mapping[str, str], about: About) -> Asked:
    check_model(body, about)
    told, prompt = body["input"], body.get("prompt")
    texts = [told] if isinstance(told, str) else told if isinstance(told[0], str) else [text_of(told)]
    return Asked([(text, None) if prompt is None else (prompt, text) for text in texts], {"pair": prompt is not None})


def _write(asked: Asked, verdicts: Sequence[Verdict], about: About) -> dict[str, Any]:
    results = [
        result(verdict, view(verdict, TAXONOMY)) | our_fields(verdict, pair=asked.form["pair"]) for verdict in verdicts
    ]
    return {"id": new_id("modr-"), "model": about.guard, "guard_version": about.version, "results": results}


def result(verdict: Verdict, seen: View) -> dict[str, Any]:
    """One result in OpenAI's own fields, and which of its flags stand for an overlap only."""
    return {
        "flagged": verdict.unsafe is not False,
        "categories": {key: key in seen.flagged for key in _KEYS},
        "category_scores": seen.scores,
        "category_applied_input_types": {key: ["text"] if key in seen.evaluated else [] for key in _KEYS},
        "approximate_categories": in_order(seen.approximate, TAXONOMY),
    }


_RESULT: Schema = {
    "type": "object",
    "properties": {
        "flagged": {"type": "boolean"},
        "categories": record(_KEYS, {"type": "boolean"}),
        "category_scores": record(_KEYS, NUMBER),
        "category_applied_input_types": record(_KEYS, {"type": "array", "items": {"const": "text"}}),
        "approximate_categories": {"type": "array", "items": {"enum": list(_KEYS)}},
        **OUR_FIELDS,
    },
    "required": ["flagged", "categories", "category_scores", "category_applied_input_types", *OUR_FIELDS],
}

MODERATIONS = Api(
    name="openai",
    path="/v1/moderations",
    title="OpenAI moderation",
    request=request_schema,
    response={
        "type": "object",
        "properties": {
            "id": {"type": "string"},
            "model": {"type": "string"},
            "guard_version": {"type": ["string", "null"]},
            "results": {"type": "array", "items": _RESULT},
        },
        "required": ["id", "model", "results"],
    },
    read=_read,
    write=_write,
    shape=openai_shape,
    fault_schema=OPENAI_FAULT,
    unjudged="some",
)
