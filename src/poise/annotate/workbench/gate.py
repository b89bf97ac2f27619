"""Training first: annotators who have to pass a round are sent there before they are given items."""

from __future__ import annotations

from weakref import WeakKeyDictionary

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from poise.annotate.workbench.accounts import hashed
from poise.annotate.workbench.desk import Desk
from poise.annotate.workbench.training import Training
from poise.annotate.workbench.visit import SESSION, Endpoint

GATED = frozenset({"/next/{stage}", "/ahead/{stage}"})
"""Paths that give items out. What a person holds already can be finished."""
_FREE: WeakKeyDictionary[Desk, set[int]] = WeakKeyDictionary()
"""Application -> raters who have passed, which nothing takes back."""


def training_first(routes: list[Route]) -> list[Route]:
    """The routes of the task pages, with those that give items out behind the training."""
    return [
        Route(route.path, _gated(route.endpoint), methods=sorted(route.methods or ())) if route.path in GATED else route
        for route in routes
    ]


def _gated(endpoint: Endpoint) -> Endpoint:
    async def first(request: Request) -> Response:
        if await run_in_threadpool(_must_train, request.app.state.desk, request.cookies.get(SESSION, "")):
            return RedirectResponse("/training", 303)
        return await endpoint(request)

    return first


def _must_train(desk: Desk, secret: str) -> bool:
    session = desk.session(hashed(secret)) if secret else None
    if session is None or session.who.may("reviewer"):
        return False
    free, rater = _FREE.setdefault(desk, set()), session.who.rater
    if rater in free:
        return False
    training = Training(desk.store)
    if training.qualified(rater):
        free.add(rater)
        return False
    return training.settings().required
