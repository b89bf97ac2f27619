"""Perspective's `POST /v1alpha1/comments:analyze`. That service ends on 31 December 2026; this is a place to move to.

INSULT, IDENTITY_ATTACK and SEXUALLY_EXPLICIT are categories of ours, TOXICITY holds two of them. SEVERE_TOXICITY is the
smaller of TOXICITY and P(severity >= moderate), the most that both can be. THREAT and PROFANITY are not evaluated: they
are left out of the scores and named in `notEvaluated`, and asking for nothing else is an error. Scores are
probabilities. `guardVersion` says which weights answered. What is left out: spans within a comment, and the
detection of languages; comments are not stored, whatever `doNotStore` says.

Source: developers.perspectiveapi.com, v1alpha1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from poise.guard.verdict import Verdict
from poise.harm.taxonomy import load_taxonomy
from poise.serve.apis.api import About, Api, Asked, Schema, text_schema
from poise.serve.apis.schemas import GOOGLE_FAULT, NUMBER, OUR_FIELDS
from poise.serve.faults import ApiError, google_shape
from poise.serve.limits import Limits
from poise.serve.views import View, in_order, our_fields, sources, view

TAXONOMY = "perspective"
_KEYS = load_taxonomy(TAXONOMY).keys
_SEVERE = "SEVERE_TOXICITY"


def _request(limits: Limits) -> Schema:
    attribute = {
        "type": "object",
        "properties": {"scoreType": {"enum": ["PROBABILITY", "SCORE_TYPE_UNSPECIFIED"]}, "scoreThreshold": NUMBER},
    }
    return {
        "type": "object",
        "properties": {
            "comment": {
                "type": "object",
                "properties": {"text": text_schema(limits), "type": {"enum": ["PLAIN_TEXT", "TEXT_TYPE_UNSPECIFIED"]}},
                "required": ["text"],
            },
            "requestedAttributes": {
                "type": "object",
                "properties": dict.fromkeys(_KEYS, attribute),
                "additionalProperties": False,
                "minProperties": 1,
            },
            "languages": {"type": "array", "items": {"type": "string", "maxLength": 35}, "maxItems": 16},
            "doNotStore": {"type": "boolean"},
            "clientToken": {"type": "string", "maxLength": 256},
        },
        "required": ["comment", "requestedAttributes"],
    }


def _read(body: Any, _: Mapping[str, str], about: About) -> Asked:
    asked = body["requestedAttributes"]
    seen = [key for key in in_order(asked, TAXONOMY) if key in {*sources(TAXONOMY), _SEVERE}]
    if not seen:
        raise ApiError("unseen", f"{', '.join(asked)} can't be evaluated by this guard", param="requestedAttributes")
    form = {
        "thresholds": {key: asked[key].get("scoreThreshold", 0.0) for key in seen},
        "unseen": [key for key in asked if key not in seen],
        "told": {name: body[name] for name in ("languages", "clientToken") if name in body},
    }
    return Asked([(body["comment"]["text"], None)], form)


def _write(asked: Asked, verdicts: Sequence[Verdict], about: About) -> dict[str, Any]:
    (verdict,), ((text, _),), form = verdicts, asked.items, asked.form
    found = {key: score_of(key, verdict, view(verdict, TAXONOMY)) for key in form["thresholds"]}
    scores = {}
    for key, value in found.items():
        if value is not None and value >= form["thresholds"][key]:
            score = {"value": value, "type": "PROBABILITY"}
            scores[key] = {"spanScores": [{"begin": 0, "end": len(text), "score": score}], "summaryScore": score}
    unseen = [*form["unseen"], *(key for key, value in found.items() if value is None)]
    if len(unseen) == len(form["unseen"]) + len(found):
        raise ApiError("unjudged", "the guard can say nothing of these attributes")
    return {
        "attributeScores": scores,
        "notEvaluated": in_order(unseen, TAXONOMY),
        "guardVersion": about.version,
        **form["told"],
        **our_fields(verdict, pair=False),
    }


def score_of(key: str, verdict: Verdict, seen: View) -> float | None:
    """The probability of an attribute, None where the guard can't say."""
    if key != _SEVERE:
        return seen.scores[key] if key in seen.evaluated else None
    if verdict.severity_probabilities is None or "TOXICITY" not in seen.evaluated:
        return None
    return min(1.0, max(0.0, min(seen.scores["TOXICITY"], sum(verdict.severity_probabilities[2:]))))


_SCORE: Schema = {
    "type": "object",
    "properties": {"value": NUMBER, "type": {"const": "PROBABILITY"}},
    "required": ["value", "type"],
}
_SPAN: Schema = {
    "type": "object",
    "properties": {"begin": {"type": "integer"}, "end": {"type": "integer"}, "score": _SCORE},
    "required": ["begin", "end", "score"],
}
_ATTRIBUTE: Schema = {
    "type": "object",
    "properties": {"spanScores": {"type": "array", "items": _SPAN}, "summaryScore": _SCORE},
    "required": ["spanScores", "summaryScore"],
}
COMMENTS_ANALYZE = Api(
    name="perspective",
    path="/v1alpha1/comments:analyze",
    title="Perspective comments:analyze",
    request=_request,
    response={
        "type": "object",
        "properties": {
            "attributeScores": {
                "type": "object",
                "properties": dict.fromkeys(_KEYS, _ATTRIBUTE),
                "additionalProperties": False,
            },
            "notEvaluated": {"type": "array", "items": {"enum": list(_KEYS)}},
            "guardVersion": {"type": ["string", "null"]},
            "languages": {"type": "array", "items": {"type": "string"}},
            "clientToken": {"type": "string"},
            **OUR_FIELDS,
        },
        "required": ["attributeScores", "notEvaluated", *OUR_FIELDS],
    },
    read=_read,
    write=_write,
    shape=google_shape,
    fault_schema=GOOGLE_FAULT,
    keys=("query", "bearer"),
)
