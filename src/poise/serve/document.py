"""The OpenAPI 3.1 document, made from the same tables that the server runs on, and a plain page of it.

The page loads nothing from anywhere and runs no script.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from http import HTTPStatus
from typing import Any

from poise import __version__
from poise.serve.apis import About, Api
from poise.serve.apis.schemas import OPENAI_FAULT

_SCHEMES: Mapping[str, Mapping[str, str]] = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "subscription": {"type": "apiKey", "in": "header", "name": "Ocp-Apim-Subscription-Key"},
    "api-key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
    "query": {"type": "apiKey", "in": "query", "name": "key"},
}
_RETRY = {"Retry-After": {"schema": {"type": "string", "pattern": "^[0-9]+$"}, "description": "Seconds."}}


def document(apis: Sequence[Api], about: About, *, keyed: bool) -> dict[str, Any]:
    """The document of a server.

    Args:
        apis: what it speaks.
        about: its guard and limits.
        keyed: whether it asks for keys.
    """
    paths: dict[str, Any] = {api.path: {"post": _operation(api, about, keyed=keyed)} for api in apis}
    paths |= {
        "/health": _get("Whether the server runs", {200: _json({"type": "object"})}),
        "/ready": _get("Whether the guard judges a harmless pair", {200: _json({"type": "object"}), **_faults(503)}),
        "/metrics": _get(
            "Prometheus metrics",
            {200: {"description": "OK", "content": {"text/plain": {"schema": {"type": "string"}}}}}
            | (_faults(401, 403, 503) if keyed else {}),
            [{"bearer": []}] if keyed else [],
        ),
        "/openapi.json": _get("This document", {200: _json({"type": "object"})}),
        "/docs": _get("This document for people", {200: {"description": "OK", "content": {"text/html": {}}}}),
    }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Poise moderation API",
            "version": __version__,
            "description": f"Verdicts of the guard {about.guard!r}. An unjudged text never counts as safe.",
        },
        "paths": paths,
        "components": {"securitySchemes": dict(_SCHEMES)} if keyed else {},
    }


def _operation(api: Api, about: About, *, keyed: bool) -> dict[str, Any]:
    statuses = [status for status in api.statuses if keyed or status not in (401, 403)]
    responses = {"200": _json(api.response)}
    for status in statuses:
        told = _json(api.fault_schema, status)
        responses[str(status)] = told | ({"headers": _RETRY} if status == 429 else {})
    return {
        "operationId": api.name,
        "summary": api.title,
        "parameters": list(api.query),
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": api.request(about.limits)}},
        },
        "responses": responses,
        "security": [{name: []} for name in api.keys] if keyed else [],
    }


def _get(summary: str, responses: Mapping[int, Any], security: Sequence[Any] = ()) -> dict[str, Any]:
    told = {str(status): response for status, response in responses.items()}
    return {"get": {"summary": summary, "responses": told, "security": list(security)}}


def _json(schema: Any, status: int = 200) -> dict[str, Any]:
    return {"description": HTTPStatus(status).phrase, "content": {"application/json": {"schema": schema}}}


def _faults(*statuses: int) -> dict[int, Any]:
    return {status: _json(OPENAI_FAULT, status) for status in statuses}


def page(told: Mapping[str, Any]) -> str:
    """The document as HTML."""
    parts = [
        "<!doctype html><html lang='en'><meta charset='utf-8'>",
        "<meta name='viewport' content='width=device-width'>",
        f"<title>{escape(told['info']['title'])}</title>",
        "<style>body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
        "pre{background:#f4f4f4;padding:1rem;overflow:auto;font-size:13px}summary{cursor:pointer}</style>",
        f"<h1>{escape(told['info']['title'])} {escape(told['info']['version'])}</h1>",
        f"<p>{escape(told['info']['description'])} <a href='/openapi.json'>For machines</a>.</p>",
    ]
    for path, methods in told["paths"].items():
        for method, operation in methods.items():
            parts.append(f"<h2>{method.upper()} {escape(path)}</h2><p>{escape(operation['summary'])}.")
            parts.append(f" Answers: {', '.join(operation['responses'])}.</p>")
            parts.extend(
                _details(name, operation[name]) for name in ("parameters", "requestBody") if operation.get(name)
            )
            if method == "post":
                parts.append(_details("answer", operation["responses"]["200"]))
    return "".join([*parts, "</html>"])


def _details(name: str, value: Any) -> str:
    title = {"requestBody": "request"}.get(name, name)
    return f"<details><summary>{title}</summary><pre>{escape(json.dumps(value, indent=2))}</pre></details>"
