"""A server that speaks as OpenAI's does and can be told to fail: for tests, for the docs, for a demo without a key.

    async with FakeServer(seed=1, faults=Faults(at={3: "drop"})) as server:
        ...  # server.url, server.log

Answers are words without meaning (see `answers`), faults come by plan (see `faults`), limits answer 429 beyond them. A
log of one line a request proves what was sent twice. Left out: tools, images, several choices, TLS, and any judgement.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from poise.errors import PoiseError
from poise.llm.fake import answers
from poise.llm.fake.connection import Connection, HttpRequest
from poise.llm.fake.faults import Faults
from poise.llm.fake.misbehave import Exchange, changed, error_body, misbehave, send_json, too_many


@dataclass(frozen=True)
class ServerLimits:
    """What the server allows; beyond it answers 429.

    Args:
        requests: in any window of so many seconds; None for any number.
        window_s: length of the window.
        concurrent: requests being answered at one time; None for any number.
        hint: say when to come back.
    """

    requests: int | None = None
    window_s: float = 60.0
    concurrent: int | None = None
    hint: bool = True


class FakeServer:
    """The server. Use it with `async with`, on 127.0.0.1 only.

    Args:
        seed: of answers and faults.
        latency_s: from the request to its answer.
        faults, limits: what goes wrong.
        key: the only key that is let in; None lets everybody in.
        models: names that exist; empty for any name.
        context: longest prompt, in tokens of about 4 characters.
        log: file for one JSON line a request, appended to.
        port: 0 for any free one.
        silence_s: how long "silence" and "whitespace" go on at most.

    Attributes:
        url: base of the API, once started.
        requests: chat and completion requests so far.

    Raises:
        PoiseError: the port is taken or the log can't be written.
    """

    def __init__(
        self,
        *,
        seed: int = 0,
        latency_s: float = 0.001,
        faults: Faults | None = None,
        limits: ServerLimits = ServerLimits(),
        key: str | None = None,
        models: tuple[str, ...] = (),
        context: int = 32768,
        log: Path | None = None,
        port: int = 0,
        silence_s: float = 600.0,
    ) -> None:
        self.seed, self.latency_s, self.faults, self.limits = seed, latency_s, faults or Faults(), limits
        self.key, self.models, self.context, self.port, self.silence_s = key, models, context, port, silence_s
        self.url, self.requests = "", 0
        self._log_path = log
        self._log: BinaryIO | None = None
        self._opened: set[Connection] = set()
        self._accepted: deque[float] = deque()
        self._busy = 0
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        try:
            if self._log_path is not None:
                self._log = self._log_path.open("ab", buffering=0)
            self._server = await loop.create_server(
                lambda: Connection(self._handle, self._opened), "127.0.0.1", self.port, backlog=1024
            )
        except OSError as error:
            where = str(error.filename or f"port {self.port}")
            raise PoiseError(f"can't be used ({error.strerror})", where=where, do="name another one") from error
        self.port = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/v1"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for connection in list(self._opened):
            connection.abort()
        with suppress(TimeoutError):
            async with asyncio.timeout(1.0):
                await self._server.wait_closed()
        if self._log is not None:
            self._log.close()

    def _handle(self, request: HttpRequest, connection: Connection) -> None:
        path = request.path.rstrip("/").removeprefix("/v1")
        if path == "/models" and request.method in ("GET", "HEAD"):
            names = self.models or ("fake",)
            listed = [{"id": name, "object": "model", "created": 0, "owned_by": "poise"} for name in names]
            send_json(connection, 200, {"object": "list", "data": listed})
        elif path not in ("/chat/completions", "/completions"):
            send_json(connection, 404, error_body(f"Unknown request URL: {request.method} {request.path}"))
        elif request.method != "POST":
            send_json(connection, 405, error_body(f"Not allowed: {request.method}"), allow="POST")
        else:
            self._answer(request, connection, chat=path == "/chat/completions")

    def _answer(self, request: HttpRequest, connection: Connection, *, chat: bool) -> None:
        self.requests += 1
        number = self.requests
        body = _body(request.body, chat)
        if isinstance(body, str):
            self._note(number, None, request, "bad-request")
            send_json(connection, 400, error_body(body))
            return
        hashed = answers.body_hash(body)
        if (over := self._over_limit()) is not None:
            self._note(number, hashed, request, "limit")
            too_many(connection, over if self.limits.hint else None)
            return
        kind = self._fault_of_request(body, request.headers)
        kind = kind or self.faults.pick(number, self.seed, hashed, request.body, request.headers)
        self._note(number, hashed, request, kind or "ok")
        self._busy += 1
        connection.on_done = self._leave
        key = answers.answer_key(self.seed, body, hashed, request.headers.get("x-client-request-id", ""))
        connection.later(self.latency_s, self._send, kind, body, key, chat, connection)

    def _leave(self) -> None:
        self._busy -= 1

    def _send(self, kind: str | None, body: dict[str, Any], key: bytes, chat: bool, connection: Connection) -> None:
        try:
            found = answers.answer(body, key)
        except (TypeError, ValueError, KeyError, AttributeError, ZeroDivisionError) as error:
            send_json(connection, 400, error_body(f"Invalid request or schema: {type(error).__name__}"))
            return
        if kind is not None:
            instead = changed(kind, found)
            if instead is None:
                misbehave(kind, Exchange(body, found, chat, connection, self.silence_s, self.faults.retry_after_s))
                return
            found = instead
        if body.get("stream"):
            connection.start_stream("text/event-stream")
            connection.end(b"".join(answers.stream_events(body, found, chat)))
        else:
            send_json(connection, 200, answers.reply_body(body, found, chat))

    def _fault_of_request(self, body: Mapping[str, Any], headers: Mapping[str, str]) -> str | None:
        """What is wrong with the request itself."""
        if self.key is not None and headers.get("authorization") != f"Bearer {self.key}":
            return "wrong-key"
        if self.models and body["model"] not in self.models:
            return "unknown-model"
        return "too-long" if answers.prompt_tokens(body) > self.context else None

    def _over_limit(self) -> float | None:
        """How long to wait when a limit is reached, None when it is not."""
        limits = self.limits
        if limits.concurrent is not None and self._busy >= limits.concurrent:
            return self.latency_s
        if limits.requests is not None:
            now = time.monotonic()
            while self._accepted and self._accepted[0] <= now - limits.window_s:
                self._accepted.popleft()
            if len(self._accepted) >= limits.requests:
                return self._accepted[0] + limits.window_s - now
            self._accepted.append(now)
        return None

    def _note(self, number: int, hashed: bytes | None, request: HttpRequest, kind: str) -> None:
        if self._log is not None:
            line = {
                "number": number,
                "request": hashed.hex() if hashed else None,
                "client_id": request.headers.get("x-client-request-id"),
                "time": round(time.time(), 6),
                "answer": kind,
            }
            self._log.write(json.dumps(line).encode() + b"\n")


def _body(raw: bytes, chat: bool) -> dict[str, Any] | str:
    """The request, or what is wrong with it."""
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError):
        return "We could not parse the JSON body of your request."
    if not isinstance(body, dict):
        return "The body must be a JSON object."
    messages = body.get("messages")
    checks = (
        (isinstance(body.get("model"), str), "you must provide a model parameter"),
        (not chat or (isinstance(messages, list) and messages), "Missing required parameter: 'messages'."),
        (not chat or all(map(_is_message, messages or ())), "Invalid type for 'messages': expected role and content."),
        (chat or isinstance(body.get("prompt"), str), "Missing required parameter: 'prompt', one text."),
        (isinstance(body.get("temperature"), int | float | None), "Invalid type for 'temperature': expected a number."),
        (body.get("n") in (None, 1), "Only n = 1 is supported."),
    )
    return next((message for fine, message in checks if not fine), body)


def _is_message(message: Any) -> bool:
    content = message.get("content") if isinstance(message, dict) else 0
    parts = content if isinstance(content, list) else []
    return isinstance(content, str | list | None) and all(isinstance(part, dict) for part in parts)
