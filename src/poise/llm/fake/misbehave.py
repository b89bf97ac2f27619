"""How each planned fault looks on the wire, and the errors of the real servers in their own words."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from poise.llm.fake.answers import Answer, blank_event, reply_body, stream_events, tokenize
from poise.llm.fake.connection import Connection

_DRIP_S = 0.01
_HTML = b"<!DOCTYPE html><html><head><title>Gateway</title></head><body><h1>It works!</h1></body></html>"


class Exchange(NamedTuple):
    """What is being answered. Args: `silence_s` and `retry_after_s` as the server was told."""

    body: Mapping[str, Any]
    found: Answer
    chat: bool
    connection: Connection
    silence_s: float
    retry_after_s: float


def send_json(connection: Connection, status: int, told: Mapping[str, Any], **headers: str) -> None:
    """Answer with a JSON object."""
    connection.respond(status, json.dumps(told).encode(), **headers)


def error_body(message: str, kind: str = "invalid_request_error", code: str | None = None) -> dict[str, Any]:
    """An error in OpenAI's form."""
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


def too_many(connection: Connection, wait_s: float | None) -> None:
    """Answer 429; with `wait_s` in both headers that OpenAI sends."""
    hint = {}
    if wait_s is not None:
        hint = {"Retry_After": str(math.ceil(wait_s)), "retry_after_ms": str(math.ceil(wait_s * 1000))}
    told = error_body("Rate limit reached for requests.", "requests", "rate_limit_exceeded")
    send_json(connection, 429, told, **hint)


def changed(kind: str, found: Answer) -> Answer | None:
    """The answer that a fault puts in place of the good one, None for a fault of the line."""
    match kind:
        case "length":
            return found.cut(len(found.tokens) // 2)
        case "invalid-json":
            return replace(found, tokens=tokenize('{"answer": "almost", "number": '))
        case "off-schema":
            return replace(found, tokens=tokenize('{"something_else": ["entirely"]}'))
        case "refusal":
            return replace(found, tokens=(), refusal="I'm sorry, I can't help with that.")
        case "content-filter":
            return replace(found, tokens=found.tokens[: len(found.tokens) // 2], finish_reason="content_filter")
    return None


def misbehave(kind: str, exchange: Exchange) -> None:
    """Carry out a fault of the line."""
    if kind in _ERRORS:
        status, told = _ERRORS[kind]
        send_json(exchange.connection, status, told)
    else:
        _WIRE[kind](exchange)


def _silence(exchange: Exchange) -> None:
    exchange.connection.later(exchange.silence_s, exchange.connection.abort)


def _whitespace(exchange: Exchange) -> None:
    streams = bool(exchange.body.get("stream"))
    drop = blank_event(exchange.body, exchange.found, exchange.chat) if streams else b" " * 32
    connection = exchange.connection
    connection.start_stream("text/event-stream" if streams else "application/json")

    def drip(left: int) -> None:
        if left == 0:
            connection.abort()
            return
        connection.write(drop)
        connection.later(_DRIP_S, drip, left - 1)

    drip(max(1, int(exchange.silence_s / _DRIP_S)))


def _half_body(exchange: Exchange) -> None:
    if exchange.body.get("stream"):
        events = b"".join(stream_events(exchange.body, exchange.found, exchange.chat))
        exchange.connection.start_stream("text/event-stream")
        exchange.connection.write(events[: len(events) // 2])
        exchange.connection.close()
    else:
        whole = json.dumps(reply_body(exchange.body, exchange.found, exchange.chat)).encode()
        exchange.connection.promise(len(whole), whole[: len(whole) // 2])


def _half_stream(exchange: Exchange) -> None:
    if not exchange.body.get("stream"):
        _half_body(exchange)
        return
    events = stream_events(exchange.body, exchange.found, exchange.chat)
    exchange.connection.start_stream("text/event-stream")
    exchange.connection.end(b"".join(events[: max(1, len(events) // 2)]))


_WIRE: Mapping[str, Callable[[Exchange], None]] = {
    "429": lambda e: too_many(e.connection, e.retry_after_s),
    "429-bare": lambda e: too_many(e.connection, None),
    "silence": _silence,
    "whitespace": _whitespace,
    "drop": lambda e: e.connection.abort(),
    "half-body": _half_body,
    "half-stream": _half_stream,
    "broken-body": lambda e: e.connection.respond(200, b'{"id": "chatcmpl-1", "choices": [{"index": 0, '),
    "empty": lambda e: e.connection.respond(200, b""),
    "html": lambda e: e.connection.respond(200, _HTML, "text/html; charset=utf-8"),
}

_ERRORS: Mapping[str, tuple[int, dict[str, Any]]] = {
    "500": (500, error_body("The server had an error while processing your request.", "server_error")),
    "503": (503, error_body("The server is overloaded.", "server_error")),
    "wrong-key": (401, error_body("Incorrect API key provided.", "invalid_request_error", "invalid_api_key")),
    "unknown-model": (404, error_body("The model does not exist.", "invalid_request_error", "model_not_found")),
    "too-long": (
        400,
        error_body(
            "This model's maximum context length is exceeded. Please reduce the length of the messages.",
            "invalid_request_error",
            "context_length_exceeded",
        ),
    ),
    "filter-error": (
        400,
        error_body(
            "The response was filtered due to the prompt triggering the content management policy.",
            "invalid_request_error",
            "content_filter",
        ),
    ),
    "no-schema": (
        400,
        error_body("Invalid parameter: 'response_format' of this type is not supported with this model."),
    ),
}
