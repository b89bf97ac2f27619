"""One request from its first byte to its answer, the same way for every API: key, body, schema, texts, queue, answer.

Written on bare ASGI: the client's going must be heard while its texts wait, and a body is counted while it comes in.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from typing import Any
from urllib.parse import parse_qsl

from poise.guard.verdict import Item, Verdict
from poise.serve.apis import About, Api
from poise.serve.apis.api import check_body, validator_of
from poise.serve.batching import Batcher
from poise.serve.faults import ApiError, Told
from poise.serve.keys import Gate, KeyEntry
from poise.serve.limits import Limits, check_items, check_size, parse
from poise.serve.telemetry import Metrics, word_of

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_DRAINED = 16  # times the limit of a body that is read and thrown away, so that its sender sees the answer


class HungUpError(Exception):
    """The client has hung up."""


class Endpoint:
    """The ASGI application of one API.

    Args:
        api: whose words are spoken.
        batcher: the queue to the guard.
        gate: who may come in.
        about: what answers say of the server.
        metrics: hear of it.
    """

    def __init__(self, api: Api, batcher: Batcher, gate: Gate, about: About, metrics: Metrics) -> None:
        self.api, self._batcher, self._gate, self._about, self._metrics = api, batcher, gate, about, metrics
        self._validator = validator_of(api.request(about.limits))
        self._running = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        scope["poise"]["api"] = self.api.name
        body = Body(receive, headers_of(scope), self._about.limits)
        query = dict(parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True))
        try:
            entry = self._enter(scope, query)
            self._running += 1  # from here on: a request without a key must not keep out one that has one
            try:
                answer = await self._answer(entry, query, scope, body, receive)
                await send_json(send, Told(200, answer, {}))
            finally:
                self._running -= 1
        except ApiError as fault:
            scope["poise"]["fault"] = fault.kind.code
            await body.drain()
            await send_json(send, self.api.shape(fault))
        except HungUpError:
            self._metrics.hung_up()

    def _enter(self, scope: Scope, query: Mapping[str, str]) -> KeyEntry | None:
        """Whose request it is, where it may come in."""
        entry = self._gate.enter(token_of(headers_of(scope), query, self.api.keys), "moderate")
        scope["poise"]["key"] = entry.id if entry else None
        if self._running >= 2 * self._about.limits.queue_items:
            raise ApiError("queue", "too many requests at once", retry_after=1)
        return entry

    async def _answer(
        self, entry: KeyEntry | None, query: Mapping[str, str], scope: Scope, body: Body, receive: Receive
    ) -> Any:
        told = scope["poise"]
        self._gate.spend(entry, 1)
        check_query(self.api, query)
        value = parse(await body.read())
        check_size(value, self._about.limits)
        check_body(self._validator, value)
        asked = self.api.read(value, query, self._about)
        told["characters"] = check_items(asked.items, self._about.limits)
        told["items"] = len(asked.items)
        self._gate.spend(entry, len(asked.items), paid=1)
        verdicts = await self._judge(asked.items, receive)
        words = [word_of(verdict) for verdict in verdicts]
        told["verdicts"] = {word: words.count(word) for word in dict.fromkeys(words)}
        self._metrics.verdicts(self.api.name, verdicts)
        self._refuse_unjudged(verdicts)
        return self.api.write(asked, verdicts, self._about)

    async def _judge(self, items: Sequence[Item], receive: Receive) -> list[Verdict]:
        """The verdicts; where the client hangs up before they are there, its texts leave the queue."""
        judging = asyncio.ensure_future(self._batcher.judge(items))
        leaving = asyncio.ensure_future(_disconnect(receive))
        try:
            await asyncio.wait({judging, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if not judging.done():
                raise HungUpError
            return judging.result()
        finally:
            for task in (judging, leaving):
                if not task.done():
                    task.cancel()

    def _refuse_unjudged(self, verdicts: Sequence[Verdict]) -> None:
        reasons = [verdict.reason for verdict in verdicts if verdict.unsafe is None]
        none_left = len(reasons) == len(verdicts)
        if reasons and (self.api.unjudged == "refuse" or (self.api.unjudged == "some" and none_left)):
            raise ApiError("unjudged", "the guard could not judge this, which does not mean that it is safe")


class Body:
    """The body of a request.

    Args:
        receive: of the request.
        headers: lower-case names -> values.
        limits: of the server.
    """

    def __init__(self, receive: Receive, headers: Mapping[str, str], limits: Limits) -> None:
        self._receive, self._headers, self._limits = receive, headers, limits
        self._more = True

    async def read(self) -> bytes:
        """All of it.

        Raises:
            ApiError: it is no JSON by its headers, too large, or too slow.
            HungUpError: the client went.
        """
        kind = self._headers.get("content-type", "").split(";")[0].strip().lower()
        if kind != "application/json":
            raise ApiError("media", "the content type must be application/json")
        if self._headers.get("content-encoding", "identity").lower() != "identity":
            raise ApiError("media", "compressed bodies are not read")
        limit, told = self._limits.body_bytes, self._headers.get("content-length", "")
        if told.isdecimal() and int(told) > limit:
            raise ApiError("too_large", f"the body has {told} bytes, at most {limit}")
        parts, size = [], 0
        try:
            async with asyncio.timeout(self._limits.body_s):
                while self._more:
                    part = await self._next()
                    size += len(part)
                    if size > limit:
                        raise ApiError("too_large", f"the body has more than {limit} bytes")
                    parts.append(part)
        except TimeoutError:
            self._more = False  # it is not waited for again
            raise ApiError("slow", "the body did not arrive in time") from None
        return b"".join(parts)

    async def drain(self) -> None:
        """Read what is left of it, within bounds, as a client that is still sending reads no answer."""
        left = _DRAINED * self._limits.body_bytes
        try:
            async with asyncio.timeout(self._limits.body_s):
                while self._more and left > 0:
                    left -= len(await self._next())
        except (TimeoutError, HungUpError):
            return

    async def _next(self) -> bytes:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self._more = False
            raise HungUpError
        self._more = message.get("more_body", False)
        part: bytes = message.get("body", b"")
        return part


def headers_of(scope: Scope) -> dict[str, str]:
    """Lower-case names -> values; the last one counts."""
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}


def token_of(headers: Mapping[str, str], query: Mapping[str, str], places: Sequence[str]) -> str | None:
    """The key that a request brings, from the first of the places where its API's clients put one."""
    scheme, _, bearer = headers.get("authorization", "").partition(" ")
    found = {
        "bearer": bearer.strip() if scheme.lower() == "bearer" else None,
        "subscription": headers.get("ocp-apim-subscription-key"),
        "api-key": headers.get("x-api-key"),
        "query": query.get("key"),
    }
    return next((token for token in map(found.get, places) if token is not None), None)


def check_query(api: Api, query: Mapping[str, str]) -> None:
    """Raise when a query parameter is missing or has no value of its kind.

    Raises:
        ApiError: which.
    """
    for parameter in api.query:
        name = parameter["name"]
        if name not in query:
            raise ApiError("invalid", f"the query lacks {name}", param=name)
        if not validator_of(parameter["schema"]).is_valid(query[name]):
            raise ApiError("invalid", f"{name} is none, such as {parameter['example']}", param=name)


async def send_json(send: Send, told: Told) -> None:
    """One JSON answer."""
    body = json.dumps(told.body, allow_nan=False, separators=(",", ":")).encode("ascii")
    await send_bytes(send, told.status, body, "application/json", told.headers)


async def send_bytes(send: Send, status: int, body: bytes, kind: str, headers: Mapping[str, str]) -> None:
    """One answer."""
    told = {
        "content-type": kind,
        "content-length": str(len(body)),
        "cache-control": "no-store",
        "x-content-type-options": "nosniff",
        **headers,
    }
    pairs = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in told.items()]
    await send({"type": "http.response.start", "status": status, "headers": pairs})
    await send({"type": "http.response.body", "body": body})


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
