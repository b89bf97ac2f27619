"""Azure AI Content Safety's `POST /contentsafety/text:analyze`.

Of its four categories SelfHarm is not evaluated, as none of our 19 is it or lies inside it: it is left out of
`categoriesAnalysis` and named in `notEvaluated`, and asking for nothing else is an error. A flagged category carries
the severity of the text; the eight-level value is the four-level one, or one more where the expected level lies above
it. The harms that Azure has no word for (drugs, fraud, ...) give 0 everywhere, as they do there: read `unsafe` and
`severity`, which are ours.

Source: Azure API 2024-09-01.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from poise.guard.verdict import Verdict
from poise.harm import Severity, native_severity
from poise.harm.taxonomy import load_taxonomy
from poise.serve.apis.api import About, Api, Asked, Schema, text_schema
from poise.serve.apis.schemas import AZURE_FAULT, OUR_FIELDS
from poise.serve.faults import ApiError, azure_shape
from poise.serve.limits import Limits
from poise.serve.views import in_order, our_fields, sources, view, worst

TAXONOMY = "azure-4"
LONGEST = 10_000
"""Characters of a text, as there."""

_KEYS = load_taxonomy(TAXONOMY).keys
_FOUR, _EIGHT = "FourSeverityLevels", "EightSeverityLevels"


def request_schema(limits: Limits) -> Schema:
    """The body; unknown fields are ignored, as there."""
    text = text_schema(limits)
    return {
        "type": "object",
        "properties": {
            "text": text | {"maxLength": min(LONGEST, limits.text_characters)},
            "categories": {"type": "array", "items": {"enum": list(_KEYS)}},
            "outputType": {"enum": [_FOUR, _EIGHT]},
            "blocklistNames": {"type": "array", "maxItems": 0, "description": "There are no blocklists here."},
            "haltOnBlocklistHit": {"type": "boolean"},
            "prompt": text | {"description": "Ours: what the text answers; it is then judged as a response."},
        },
        "required": ["text"],
    }


def _read(body: Any, _: Mapping[str, str], about: About) -> Asked:
    asked = in_order(body.get("categories") or _KEYS, TAXONOMY)
    if not (seen := [key for key in asked if key in sources(TAXONOMY)]):
        raise ApiError("unseen", f"{', '.join(asked)} can't be evaluated by this guard", param="categories")
    form = {
        "keys": seen,
        "unseen": [key for key in asked if key not in seen],
        "eight": body.get("outputType") == _EIGHT,
        "pair": "prompt" in body,
    }
    return Asked([(body["prompt"], body["text"]) if "prompt" in body else (body["text"], None)], form)


def _write(asked: Asked, verdicts: Sequence[Verdict], about: About) -> dict[str, Any]:
    (verdict,), form = verdicts, asked.form
    seen = view(verdict, TAXONOMY)
    keys = [key for key in form["keys"] if key in seen.evaluated]
    if (seen.flagged.intersection(keys) and worst(verdict) is None) or not keys:
        raise ApiError("unjudged", "the guard tells no severity of these categories")
    levels = {key: level_of(verdict, eight=form["eight"]) if key in seen.flagged else 0 for key in keys}
    unseen = {*form["unseen"], *form["keys"]} - set(keys)
    return {
        "blocklistsMatch": [],
        "categoriesAnalysis": [{"category": key, "severity": level} for key, level in levels.items()],
        "notEvaluated": in_order(unseen, TAXONOMY),
        "unsafe": verdict.unsafe,
        **our_fields(verdict, pair=form["pair"]),
    }


def level_of(verdict: Verdict, *, eight: bool) -> int:
    """Azure's level of an unsafe verdict: 2, 4 or 6; with eight levels 2 to 7."""
    level = worst(verdict) or Severity.MINOR
    four = int(native_severity("azure-four", level))
    shares = verdict.severity_probabilities
    above = shares is not None and sum(s * share for s, share in zip(Severity, shares, strict=True)) > level
    return four + (1 if eight and above else 0)


TEXT_ANALYZE = Api(
    name="azure",
    path="/contentsafety/text:analyze",
    title="Azure AI Content Safety, text",
    request=request_schema,
    response={
        "type": "object",
        "properties": {
            "blocklistsMatch": {"type": "array", "maxItems": 0},
            "categoriesAnalysis": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {
                        "category": {"enum": list(_KEYS)},
                        "severity": {"type": "integer", "minimum": 0, "maximum": 7},
                    },
                    "required": ["category", "severity"],
                },
            },
            "notEvaluated": {"type": "array", "items": {"enum": list(_KEYS)}},
            "unsafe": {"type": "boolean"},
            **OUR_FIELDS,
        },
        "required": ["blocklistsMatch", "categoriesAnalysis", "notEvaluated", "unsafe", *OUR_FIELDS],
    },
    read=_read,
    write=_write,
    shape=azure_shape,
    fault_schema=AZURE_FAULT,
    query=(
        {
            "name": "api-version",
            "in": "query",
            "required": True,
            "schema": {"type": "string", "pattern": r"^20[0-9]{2}-[0-9]{2}-[0-9]{2}(-preview)?$"},
            "example": "2024-09-01",
        },
    ),
    keys=("subscription", "bearer"),
)
