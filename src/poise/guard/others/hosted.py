"""Hosted moderation: OpenAI's `/v1/moderations` and Azure AI Content Safety's `text:analyze`.

Both judge one text and know nothing of question and answer: of a pair the response alone is sent. Texts go as they are,
in JSON. The answer is stored as it came and read here.

* OpenAI: 13 booleans and 13 probabilities. It is unsafe when `flagged`; P(unsafe) is the largest score, a floor. A
  score never becomes a severity. Older models leave out keys, which then count as not looked at.
* Azure: 4 categories with severity 0 to 7, read in our levels by the crosswalk of severities; unsafe from minor on
  (2, where gateways set their threshold). It tells no probability. A text beyond 10,000 code points goes in parts that
  overlap; the worst part counts.

Source: openai-openapi (2026-08), Azure API 2024-09-01.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from poise.guard.others.family import Answer, Family, Question
from poise.guard.verdict import Verdict, judged, unjudged
from poise.harm import Severity, map_severity
from poise.harm.taxonomy import load_taxonomy
from poise.llm.exchange import ChatRequest
from poise.llm.json_client import JsonClient
from poise.llm.keys import Key
from poise.llm.wire import load_json

AZURE_VERSION = "2024-09-01"
AZURE_LIMIT, AZURE_OVERLAP = 10_000, 250
"""Code points of one call, and how many of them the next part repeats."""

_OPENAI, _AZURE = "openai-13", "azure-4"


def openai_client(alias: str, base_url: str, key: Key | None, timeout_s: float) -> JsonClient:
    """A lane to OpenAI or a server that speaks the same route; `base_url` ends in /v1."""

    def body(request: ChatRequest) -> Mapping[str, Any]:
        return {"model": request.model, "input": request.messages[0][1]}

    return JsonClient(alias, base_url, "/moderations", body, key=key, timeout_s=timeout_s)


def azure_client(alias: str, base_url: str, key: Key | None, timeout_s: float) -> JsonClient:
    """A lane to one Azure resource, `https://NAME.cognitiveservices.azure.com`."""

    def body(request: ChatRequest) -> Mapping[str, Any]:
        categories = list(load_taxonomy(_AZURE).keys)
        return {"text": request.messages[0][1], "categories": categories, "outputType": "EightSeverityLevels"}

    route = f"/contentsafety/text:analyze?api-version={AZURE_VERSION}"
    return JsonClient(
        alias, base_url, route, body, key=key, header="Ocp-Apim-Subscription-Key", scheme="", timeout_s=timeout_s
    )


def ask_openai(prompt: str, response: str | None) -> tuple[Question, ...]:
    """One text."""
    return (Question((("input", prompt if response is None else response),)),)


def ask_azure(prompt: str, response: str | None) -> tuple[Question, ...]:
    """One text, in parts when it is long."""
    text, step = prompt if response is None else response, AZURE_LIMIT - AZURE_OVERLAP
    starts = range(0, max(1, len(text) - AZURE_OVERLAP), step)
    return tuple(Question((("input", text[start : start + AZURE_LIMIT]),)) for start in starts)


def read_openai(answer: Answer) -> Verdict:
    """The verdict of one result; unjudged when flag and categories disagree or anything has another shape."""
    results = _list(load_json(answer.text), "results")
    if len(results) != 1 or not isinstance(results[0], dict):
        return unjudged("unparsable", answer.text)
    flagged, flags, scores = (results[0].get(name) for name in ("flagged", "categories", "category_scores"))
    if not isinstance(flagged, bool) or not isinstance(flags, dict) or not isinstance(scores, dict):
        return unjudged("unparsable", answer.text)
    keys = load_taxonomy(_OPENAI).keys
    known = [key for key in keys if isinstance(flags.get(key), bool)]
    odd = [value for value in flags.values() if not isinstance(value, bool | None)]
    numbers = [scores[key] for key in known if key in scores]
    if odd or not known or not all(map(_is_share, numbers)):
        return unjudged("unparsable", answer.text)
    if flagged != any(flags.values()):
        return unjudged("contradiction", answer.text)
    return judged(
        flagged,
        taxonomy=_OPENAI,
        named=[key for key in known if flags[key]],
        known=known,
        probability=max(map(float, numbers), default=None),
        raw=(answer.text,),
    )


def read_azure(answer: Answer) -> Verdict:
    """The verdict of all four categories; unjudged when one is missing, doubled or without a level."""
    entries = _list(load_json(answer.text), "categoriesAnalysis")
    found = [(entry.get("category"), entry.get("severity")) for entry in entries if isinstance(entry, dict)]
    keys = load_taxonomy(_AZURE).keys
    native = {key: level for key, level in found if isinstance(key, str) and type(level) is int and 0 <= level <= 7}
    if len(entries) != len(keys) or set(native) != set(keys):
        return unjudged("unparsable", answer.text)
    levels = {key: map_severity("azure-eight", level) for key, level in native.items()}
    worst = max(levels.values())
    return judged(
        worst > Severity.NONE,
        taxonomy=_AZURE,
        named=[key for key in keys if levels[key] > Severity.NONE],
        severities=(worst,),
        level=str(max(native.values())),
        raw=(answer.text,),
    )


def client_of(family: Family) -> Callable[[str, str, Key | None, float], JsonClient] | None:
    """What makes a lane's client from alias, address, key and seconds; None for guards that chat."""
    return {OPENAI_MODERATION.name: openai_client, AZURE_TEXT.name: azure_client}.get(family.name)


def _list(told: Any, name: str) -> list[Any]:
    found = told.get(name) if isinstance(told, dict) else None
    return found if isinstance(found, list) else []


def _is_share(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and 0.0 <= value <= 1.0  # false of a NaN too


OPENAI_MODERATION = Family(
    name="openai-moderation",
    title="OpenAI moderation, 13 categories",
    source="openai-openapi, POST /v1/moderations",
    ask=ask_openai,
    read=read_openai,
    taxonomy=_OPENAI,
    max_tokens=1,
    hosted=True,
    logprobs=False,
)
AZURE_TEXT = Family(
    name="azure-text",
    title="Azure AI Content Safety, text:analyze",
    source=f"Azure API {AZURE_VERSION}",
    ask=ask_azure,
    read=read_azure,
    taxonomy=_AZURE,
    max_tokens=1,
    hosted=True,
    logprobs=False,
)
