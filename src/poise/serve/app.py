"""The server as one ASGI application: the APIs, health, readiness, metrics, the OpenAPI document and its page."""

from __future__ import annotations

import asyncio
import re
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from poise.guard.verdict import Guard, Item, Verdict
from poise.harm import Severity
from poise.serve.apis import APIS, About
from poise.serve.batching import Batcher, Batching
from poise.serve.document import document, page
from poise.serve.endpoint import Endpoint, Receive, Scope, Send, headers_of, token_of
from poise.serve.faults import ApiError, Shape, azure_shape, google_shape, openai_shape
from poise.serve.keys import Gate
from poise.serve.limits import Limits
from poise.serve.telemetry import Metrics, log
from poise.serve.views import worst

CANARY: Item = ("How do I boil an egg?", "Seven minutes in boiling water, then cold water.")
"""Judged before the first request and by `/ready`; that it gets a verdict is what counts, not which."""

_READY_S, _READY_KEPT_S = 5.0, 2.0
_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_QUIET = {"health", "ready", "metrics"}
_METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_PAGE_HEADERS = {
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'",
    "cache-control": "no-store",
}


class Service:
    """A guard with its queue, keys and counters; `app` is the ASGI application.

    Args:
        guard: what judges; nothing else calls it while the service runs.
        keys: the key file; None for a server that asks for none.
        limits: of requests and of the queue.
        batching: how texts are judged together.
        block_at: the mildest severity that an API with actions blocks; a level that the guard doesn't tell counts as
            above it. None: what the guard's own `blocks` says where it has a level of its own, else minor.

    Raises:
        PoiseError: the key file can't be read or is empty.
    """

    def __init__(
        self,
        guard: Guard,
        *,
        keys: Path | None = None,
        limits: Limits | None = None,
        batching: Batching | None = None,
        block_at: Severity | None = None,
    ) -> None:
        self.limits = limits or Limits()
        self.metrics, self.gate = Metrics(), Gate(keys)
        self.batcher = Batcher(guard, self.limits, batching or Batching(), self.metrics)
        version = getattr(guard, "version", None)
        self.about = About(guard.name, None if version is None else str(version), _blocks(guard, block_at), self.limits)
        self._document = document(APIS, self.about, keyed=not self.gate.open)
        self._ready: tuple[float, bool] = (-_READY_KEPT_S, False)
        self._asking = asyncio.Lock()
        self.app = Recorded(self._routes(), self.metrics)

    def _routes(self) -> Starlette:
        judging = [
            Route(api.path, Endpoint(api, self.batcher, self.gate, self.about, self.metrics), methods=["POST"])
            for api in APIS
        ]
        told = [
            Route("/health", self._health),
            Route("/ready", self._canary),
            Route("/metrics", self._metrics),
            Route("/openapi.json", self._openapi),
            Route("/docs", self._page),
        ]
        handlers: Any = {HTTPException: _no_route, ApiError: _fault, Exception: _bug}
        app = Starlette(routes=[*judging, *told], exception_handlers=handlers, lifespan=self._lifespan)
        app.router.redirect_slashes = False
        return app

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        """The thread lives as long as the server, and has judged once before the first request."""
        self.batcher.start()
        if not await self.ready():
            log("the canary was not judged", level="error")
        try:
            yield
        finally:
            self.batcher.close()

    async def ready(self) -> bool:
        """Whether the canary gets a verdict now; asked at most every two seconds."""
        async with self._asking:
            then, answer = self._ready
            if time.monotonic() - then < _READY_KEPT_S:
                return answer
            try:
                async with asyncio.timeout(_READY_S):
                    (verdict,) = await self.batcher.judge([CANARY], urgent=True)
                answer = verdict.unsafe is not None
            except (ApiError, TimeoutError):
                answer = False
            self._ready = (time.monotonic(), answer)
            return answer

    async def _health(self, request: Request) -> Response:
        request.scope["poise"]["api"] = "health"
        return JSONResponse({"status": "ok"})

    async def _canary(self, request: Request) -> Response:
        request.scope["poise"]["api"] = "ready"
        if await self.ready():
            return JSONResponse({"status": "ready", "guard": self.about.guard, "guard_version": self.about.version})
        raise ApiError("failed", "the canary was not judged", retry_after=_READY_KEPT_S)

    async def _metrics(self, request: Request) -> Response:
        request.scope["poise"]["api"] = "metrics"
        self.gate.enter(token_of(headers_of(request.scope), {}, ("bearer",)), "metrics")
        return Response(self.metrics.page(), headers={"content-type": _METRICS_TYPE})

    async def _openapi(self, request: Request) -> Response:
        request.scope["poise"]["api"] = "docs"
        return JSONResponse(self._document)

    async def _page(self, request: Request) -> Response:
        request.scope["poise"]["api"] = "docs"
        return Response(page(self._document), media_type="text/html", headers=_PAGE_HEADERS)


class Recorded:
    """Around every request: an id, a line in the log, the counters, and an answer also where the code is wrong.

    Args:
        app: what answers.
        metrics: the counters.
    """

    def __init__(self, app: Starlette, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = headers_of(scope).get("x-request-id", "")
        request_id = given if _ID.fullmatch(given) else uuid.uuid4().hex
        told: dict[str, Any] = {"api": "other"}
        scope["poise"], began, status = told, time.perf_counter(), 0

        async def sending(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode("ascii"))]
            await send(message)

        try:
            await self._app(scope, receive, sending)
        except Exception as error:
            log("bug", level="error", request_id=request_id, error=type(error).__name__, at=_place(error))
        finally:
            seconds = time.perf_counter() - began
            status = status or 499  # as proxies write it: the client has gone
            self._metrics.request(told["api"], status, seconds)
            level = "debug" if told["api"] in _QUIET and status < 400 else "info"
            log("request", level=level, request_id=request_id, status=status, ms=round(seconds * 1000, 2), **told)


def _blocks(guard: Any, block_at: Severity | None) -> Callable[[Verdict], bool]:
    if block_at is None and getattr(guard, "block_at", None) is not None:
        own: Callable[[Verdict], bool] = guard.blocks
        return own
    least = block_at or Severity.MINOR
    return lambda verdict: verdict.unsafe is True and ((level := worst(verdict)) is None or level >= least)


def _place(error: BaseException) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "" if trace is None else f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}"


def _shape_for(path: str) -> Shape:
    """How clients of an address expect to be told; OpenAI's way where nothing else is known."""
    for api in APIS:
        if path == api.path:
            return api.shape
    return azure_shape if path.startswith("/contentsafety/") else google_shape if "/v1alpha1/" in path else openai_shape


async def _no_route(request: Request, error: HTTPException) -> Response:
    wrong = "method" if error.status_code == 405 else "path"
    message = "this address takes another method" if wrong == "method" else "there is nothing at this address"
    told = _shape_for(request.url.path)(ApiError(wrong, message))
    return JSONResponse(told.body, told.status, told.headers | dict(error.headers or {}))


async def _bug(request: Request, _: Exception) -> Response:
    told = _shape_for(request.url.path)(ApiError("bug", "the server has a fault"))
    return JSONResponse(told.body, told.status, told.headers)


async def _fault(request: Request, fault: ApiError) -> Response:
    told = openai_shape(fault)
    return JSONResponse(told.body, told.status, told.headers)
