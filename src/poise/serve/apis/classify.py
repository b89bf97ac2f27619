"""The classifier routes of vLLM (`POST /classify`) and of Text Embeddings Inference (`POST /predict`).

Two labels, "safe" and "unsafe". The label is the guard's verdict, at its own threshold; the probabilities are P(safe)
and P(unsafe), 0 and 1 where the guard tells none, so the label need not be the likelier one. vLLM answers carry our
fields beside theirs; `usage` is left out, as tokens are not counted. TEI's answers have no room for more.

Source: vLLM's `ClassificationResponse`, TEI's router (2026-08).
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from poise.guard.verdict import Item, Verdict
from poise.serve.apis.api import About, Api, Asked, Schema, closed, new_id, text_schema, texts_schema
from poise.serve.apis.openai import check_model
from poise.serve.apis.schemas import NUMBER, OPENAI_FAULT, OUR_FIELDS, TEI_FAULT, item_of, messages_schema
from poise.serve.faults import ApiError, openai_shape, tei_shape
from poise.serve.limits import Limits
from poise.serve.views import our_fields


def shares(verdict: Verdict) -> tuple[float, float]:
    """P(safe), P(unsafe)."""
    unsafe = float(verdict.unsafe is not False) if verdict.probability is None else verdict.probability
    return 1.0 - unsafe, unsafe


def _vllm_request(limits: Limits) -> Schema:
    model = {"type": ["string", "null"]}
    texts = {"anyOf": [text_schema(limits), texts_schema(limits)]}
    return {
        "oneOf": [
            closed({"model": model, "input": texts}, ["input"]),
            closed({"model": model, "messages": messages_schema(limits)}, ["messages"]),
        ]
    }


def _vllm_read(body: Any, _: Mapping[str, str], about: About) -> Asked:
    check_model(body, about)
    if "messages" in body:
        return Asked([item_of(body["messages"])], {})
    told = body["input"]
    return Asked([(text, None) for text in ([told] if isinstance(told, str) else told)], {})


def _vllm_write(asked: Asked, verdicts: Sequence[Verdict], about: About) -> dict[str, Any]:
    data = [
        {
            "index": index,
            "label": "unsafe" if verdict.unsafe else "safe",
            "probs": list(shares(verdict)),
            "num_classes": 2,
            **our_fields(verdict, pair=item[1] is not None),
        }
        for index, (item, verdict) in enumerate(zip(asked.items, verdicts, strict=True))
    ]
    return {
        "id": new_id("classify-"),
        "object": "list",
        "created": int(time.time()),
        "model": about.guard,
        "guard_version": about.version,
        "data": data,
    }


VLLM_CLASSIFY = Api(
    name="vllm",
    path="/classify",
    title="vLLM classify",
    request=_vllm_request,
    response={
        "type": "object",
        "properties": {
            "id": {"type": "string"},
            "object": {"const": "list"},
            "created": {"type": "integer"},
            "model": {"type": "string"},
            "guard_version": {"type": ["string", "null"]},
            "data": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {
                        "index": {"type": "integer"},
                        "label": {"enum": ["safe", "unsafe"]},
                        "probs": {"type": "array", "items": NUMBER, "minItems": 2, "maxItems": 2},
                        "num_classes": {"const": 2},
                        **OUR_FIELDS,
                    },
                    "required": ["index", "label", "probs", "num_classes", *OUR_FIELDS],
                },
            },
        },
        "required": ["id", "object", "created", "model", "data"],
    },
    read=_vllm_read,
    write=_vllm_write,
    shape=openai_shape,
    fault_schema=OPENAI_FAULT,
)


def _tei_request(limits: Limits) -> Schema:
    text = text_schema(limits)
    sequence = {"type": "array", "minItems": 1, "maxItems": 2, "items": text}
    batch = {"type": "array", "minItems": 1, "maxItems": limits.items, "items": sequence}
    return {
        "type": "object",
        "properties": {
            "inputs": {
                "anyOf": [text, sequence, batch],
                "description": "A text, a pair of prompt and response, or a list of lists of one text or such a pair.",
            },
            "raw_scores": {"enum": [False, None], "description": "Logits are not given."},
            "truncate": {"type": ["boolean", "null"], "description": "Nothing is ever cut."},
        },
        "required": ["inputs"],
    }


def _tei_read(body: Any, _: Mapping[str, str], about: About) -> Asked:
    told = body["inputs"]
    if isinstance(told, str):
        return Asked([(told, None)], {"batch": False})
    if isinstance(told[0], str):
        return Asked([_sequence(told)], {"batch": False})
    return Asked([_sequence(texts) for texts in told], {"batch": True})


def _sequence(texts: Sequence[str]) -> Item:
    if not texts:
        raise ApiError("empty", "there is no text to judge")
    return texts[0], texts[1] if len(texts) == 2 else None


def _tei_write(asked: Asked, verdicts: Sequence[Verdict], about: About) -> list[Any]:
    rows: list[Any] = [_labels(verdict) for verdict in verdicts]
    return rows if asked.form["batch"] else rows[0]


def _labels(verdict: Verdict) -> list[dict[str, Any]]:
    """The guard's own label first."""
    safe, unsafe = shares(verdict)
    labels = [{"score": unsafe, "label": "unsafe"}, {"score": safe, "label": "safe"}]
    return labels if verdict.unsafe else labels[::-1]


_LABELS: Schema = {
    "type": "array",
    "items": {
        "type": "object",
        "properties": {"score": NUMBER, "label": {"enum": ["safe", "unsafe"]}},
        "required": ["score", "label"],
    },
}
TEI_PREDICT = Api(
    name="tei",
    path="/predict",
    title="Text Embeddings Inference predict",
    request=_tei_request,
    response={"anyOf": [_LABELS, {"type": "array", "items": _LABELS}]},
    read=_tei_read,
    write=_tei_write,
    shape=tei_shape,
    fault_schema=TEI_FAULT,
    statuses=(400, 401, 403, 408, 413, 415, 422, 429, 500, 503),
)
