"""LiteLLM's generic guardrail API, `POST /beta/litellm_basic_guardrail_api`.

Every text, and the arguments of every tool call, is judged. Of a response (`input_type: "response"`) they are judged as
answers to the last turn of `structured_messages`, where that comes along. The answer is BLOCKED where the operator's
level or the guard's own says so (see `poise.serve.app.Service`), otherwise NONE. Images are an error, which LiteLLM
takes as its `fail_on_error` says. What is left out: changed texts, so GUARDRAIL_INTERVENED never comes.

Source: docs.litellm.ai, Generic Guardrail API (beta, 2026-09).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from poise.guard.verdict import Verdict
from poise.serve.apis.api import About, Api, Asked, Schema, text_schema
from poise.serve.apis.schemas import OPENAI_FAULT, WHOLE_FIELDS
from poise.serve.faults import openai_shape
from poise.serve.limits import Limits, cleaned
from poise.serve.views import reason_of, whole


def request_schema(limits: Limits) -> Schema:
    """The body; LiteLLM sends more than is read here. Texts or tool calls, one of them at least."""
    text = text_schema(limits)
    function = {"type": "object", "properties": {"arguments": text}, "required": ["arguments"]}
    call = {"type": "object", "properties": {"function": function}, "required": ["function"]}
    content = {"type": ["string", "array", "null"], "items": {"type": "object"}}
    message = {"type": "object", "properties": {"role": {"type": "string"}, "content": content}}
    some = {"type": "array", "minItems": 1}
    half = max(1, limits.items // 2)
    return {
        "type": "object",
        "properties": {
            "texts": {"type": "array", "maxItems": half, "items": text},
            "tool_calls": {"type": ["array", "null"], "maxItems": half, "items": call},
            "input_type": {"enum": ["request", "response"]},
            "structured_messages": {"type": ["array", "null"], "items": message},
            "images": {"type": ["array", "null"], "maxItems": 0, "description": "Images are not judged."},
        },
        "required": ["input_type"],
        "anyOf": [
            {"properties": {"texts": some}, "required": ["texts"]},
            {"properties": {"tool_calls": some}, "required": ["tool_calls"]},
        ],
    }


def _read(body: Any, _: Mapping[str, str], about: About) -> Asked:
    arguments = [call["function"]["arguments"] for call in body.get("tool_calls") or []]
    calls = [text if text.strip() else "{}" for text in arguments]  # of a tool without parameters some models say ""
    texts = [*(text for text in body.get("texts", ()) if text.strip()), *calls]
    told = (body.get("structured_messages") or []) if body["input_type"] == "response" else []
    prompt = _prompt(told, _room(texts, about.limits))
    return Asked([(text, None) if prompt is None else (prompt, text) for text in texts], {"pair": prompt is not None})


def _room(texts: Sequence[str], limits: Limits) -> int:
    """Characters of context for each text: half of what the texts leave, as normalisation may make it longer."""
    left = limits.request_characters - sum(map(len, texts))
    return max(0, min(limits.text_characters, left // 2 // max(1, len(texts))))


def _prompt(messages: Sequence[Mapping[str, Any]], room: int) -> str | None:
    """The last text that is not the assistant's: context, so it is cleaned and cut rather than refused."""
    for message in reversed(messages):
        content = message.get("content")
        if message.get("role") == "assistant" or not content:
            continue
        told = [content] if isinstance(content, str) else [part.get("text") for part in content]
        text = cleaned("\n".join(part for part in told if isinstance(part, str)))
        return (text[-room:].strip() or None) if room else None
    return None


def _write(asked: Asked, verdicts: Sequence[Verdict], about: About) -> dict[str, Any]:
    bad = [verdict for verdict in verdicts if about.blocks(verdict)]
    told: dict[str, Any] = {"action": "BLOCKED" if bad else "NONE", "blocked_reason": None}
    if bad:
        told["blocked_reason"] = "; ".join(dict.fromkeys(map(reason_of, bad)))
    return told | {"verdicts": [whole(verdict, pair=asked.form["pair"]) for verdict in verdicts]}


GUARDRAIL = Api(
    name="litellm",
    path="/beta/litellm_basic_guardrail_api",
    title="LiteLLM generic guardrail",
    request=request_schema,
    response={
        "type": "object",
        "properties": {
            "action": {"enum": ["NONE", "BLOCKED"]},
            "blocked_reason": {"type": ["string", "null"]},
            "verdicts": {"type": "array", "items": {"type": "object", "properties": WHOLE_FIELDS}},
        },
        "required": ["action", "blocked_reason", "verdicts"],
    },
    read=_read,
    write=_write,
    shape=openai_shape,
    fault_schema=OPENAI_FAULT,
    keys=("api-key", "bearer"),
)
