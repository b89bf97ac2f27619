"""Our own `POST /v1/judge`: prompts, pairs and conversations in, whole verdicts out, three states told apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from poise.guard.verdict import Item, Verdict
from poise.serve.apis.api import About, Api, Asked, Schema, closed, new_id, text_schema
from poise.serve.apis.schemas import OPENAI_FAULT, WHOLE_FIELDS, item_of, messages_schema
from poise.serve.faults import openai_shape
from poise.serve.limits import Limits
from poise.serve.views import whole


def _request(limits: Limits) -> Schema:
    text = text_schema(limits)
    item = {
        "oneOf": [
            closed({"prompt": text, "response": text}, ["prompt"]),
            closed({"messages": messages_schema(limits)}, ["messages"]),
        ]
    }
    items = {"type": "array", "minItems": 1, "maxItems": limits.items, "items": item}
    return closed({"items": items}, ["items"])


def _read(body: Any, _: Mapping[str, str], about: About) -> Asked:
    return Asked([_item(told) for told in body["items"]], {})


def _item(told: Mapping[str, Any]) -> Item:
    return item_of(told["messages"]) if "messages" in told else (told["prompt"], told.get("response"))


def _write(asked: Asked, verdicts: Sequence[Verdict], about: About) -> dict[str, Any]:
    return {
        "id": new_id("judge-"),
        "guard": about.guard,
        "guard_version": about.version,
        "verdicts": [
            whole(verdict, pair=item[1] is not None) for item, verdict in zip(asked.items, verdicts, strict=True)
        ],
    }


JUDGE = Api(
    name="judge",
    path="/v1/judge",
    title="Whole verdicts",
    request=_request,
    response={
        "type": "object",
        "properties": {
            "id": {"type": "string"},
            "guard": {"type": "string"},
            "guard_version": {"type": ["string", "null"]},
            "verdicts": {
                "type": "array",
                "items": {"type": "object", "properties": WHOLE_FIELDS, "required": list(WHOLE_FIELDS)},
            },
        },
        "required": ["id", "guard", "guard_version", "verdicts"],
    },
    read=_read,
    write=_write,
    shape=openai_shape,
    fault_schema=OPENAI_FAULT,
    unjudged="told",
)
