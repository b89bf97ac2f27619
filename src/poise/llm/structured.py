"""An answer in the shape asked for, down a ladder of ways to get it; the rung that held is recorded.

json_schema (the server enforces it) -> json_object -> in words only -> repair of what is nearly JSON -> one more
question that shows the error -> invalid. What a server can't do is remembered, so it is asked once.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import jsonschema

from poise.llm.exchange import ChatRequest, EndpointError, Reply, Shape

LADDER: tuple[Shape, ...] = ("json_schema", "json_object", "text")
Send = Callable[[ChatRequest, Shape], Awaitable[Reply]]

_ASK = "Answer with one JSON object that fits this JSON schema, and with nothing else:\n{schema}"
_ASK_AGAIN = "That was no valid answer ({error}). Answer again, with one JSON object and nothing else."


class Structured(NamedTuple):
    """A structured answer. Args: `value` None and `error` set when no rung held; `reply` is the last one."""

    reply: Reply
    value: Any
    rung: str
    error: str | None


class Ladder:
    """What one lane has shown it can do; starts with everything."""

    def __init__(self) -> None:
        self.shapes = list(LADDER)

    async def ask(self, request: ChatRequest, send: Send) -> Structured:
        """Ask for an answer that fits `request.schema`.

        Raises:
            EndpointError: a fault other than "unsupported".
        """
        assert request.schema is not None
        shape, reply = await self._first_reply(request, send)
        value, rung, error = settle(reply, request.schema, shape)
        if error is None or _no_answer(reply):
            return Structured(reply, value, rung, error)
        again = _in_words(request) if shape == "text" else request
        dialogue = (("assistant", reply.text[:4000]), ("user", _ASK_AGAIN.format(error=error)))
        second = await send(replace(again, messages=(*again.messages, *dialogue)), shape)
        if stop := _no_answer(second):
            return Structured(second, None, "asked again", stop)
        value, error = parse(second.text, request.schema)
        if error is not None and (found := _repair(second.text, request.schema))[1]:
            value, error = found[0], None
        return Structured(second, value, "asked again", error)

    async def _first_reply(self, request: ChatRequest, send: Send) -> tuple[Shape, Reply]:
        for shape in list(self.shapes):
            try:
                reply = await send(request if shape == "json_schema" else _in_words(request), shape)
            except EndpointError as error:
                if error.kind != "unsupported" or shape == LADDER[-1]:
                    raise  # what no rung can do (logprobs, prefill) is not the ladder's business: it forgets nothing
            else:
                if shape in self.shapes:  # only a rung that held shows that those above it can't
                    del self.shapes[: self.shapes.index(shape)]
                return shape, reply
        raise AssertionError("the last rung either replies or raises")


def settle(reply: Reply, schema: Mapping[str, Any], shape: Shape) -> tuple[Any, str, str | None]:
    """(value, rung, error) of one reply that was asked for in this shape, as it stands or repaired."""
    if stop := _no_answer(reply):
        return None, shape, stop
    value, error = parse(reply.text, schema)
    if error is None:
        return value, shape, None
    value, repaired = _repair(reply.text, schema)
    return (value, "repaired", None) if repaired else (None, shape, error)


def parse(text: str, schema: Mapping[str, Any]) -> tuple[Any, str | None]:
    """(value, None) when the text is JSON that fits the schema, otherwise (None, why not); no text is quoted."""
    try:
        value = json.loads(text)
    except ValueError as error:
        return None, f"no JSON: {type(error).__name__}"
    fault = jsonschema.exceptions.best_match(jsonschema.Draft202012Validator(schema).iter_errors(value))
    if fault is not None:
        return None, f"{'.'.join(map(str, fault.absolute_path)) or 'the answer'} breaks {fault.validator!r}"
    return value, None


def _repair(text: str, schema: Mapping[str, Any]) -> tuple[Any, bool]:
    """What is nearly JSON (a code fence around it, a trailing comma, single quotes), when it then fits the schema."""
    import json_repair

    try:
        value = json_repair.loads(text)
    except (ValueError, RecursionError):
        return None, False
    valid = jsonschema.Draft202012Validator(schema).is_valid(value)
    return (value, True) if valid else (None, False)


def _no_answer(reply: Reply) -> str | None:
    """Why there is nothing to parse: a refusal, a filter, an answer that was cut."""
    if reply.refusal is not None:
        return "refused"
    return {"content_filter": "filtered", "length": "truncated"}.get(reply.finish_reason)


def _in_words(request: ChatRequest) -> ChatRequest:
    """The request with its schema in the messages, for servers that enforce none."""
    ask = _ASK.format(schema=json.dumps(request.schema, ensure_ascii=False))
    role, content = request.messages[-1]
    return replace(request, messages=(*request.messages[:-1], (role, f"{content}\n\n{ask}")))
