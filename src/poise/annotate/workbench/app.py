"""Puts the application together: page modules, static files, plain pages for errors."""

from __future__ import annotations

import logging
from pathlib import Path
from types import ModuleType

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles

from poise.annotate.store import AnnotationStore
from poise.annotate.workbench import adjudication_pages, care, entry, home, lead_pages, people, training_pages, work
from poise.annotate.workbench.accounts import hashed
from poise.annotate.workbench.desk import Desk, SignedIn
from poise.annotate.workbench.gate import training_first
from poise.annotate.workbench.security import HEADERS, Guarded
from poise.annotate.workbench.settings import Settings
from poise.annotate.workbench.visit import SESSION, Refused, Visit
from poise.errors import PoiseError

MODULES: tuple[ModuleType, ...] = (home, work, adjudication_pages, training_pages, lead_pages, entry, care, people)
"""Page modules, in the order of their links; each has ROUTES, and NAV when it has links."""
_STATIC = Path(__file__).parent / "static"
_LOG = logging.getLogger("poise.workbench")


def build(store: AnnotationStore, settings: Settings) -> Starlette:
    """The application over an open store."""
    nav = tuple(link for module in MODULES for link in getattr(module, "NAV", ()))
    routes = training_first([route for module in MODULES for route in module.ROUTES])
    app = Starlette(
        routes=[*routes, Mount("/static", StaticFiles(directory=_STATIC), name="static")],
        middleware=[Middleware(Guarded, body_bytes=settings.body_bytes, https=settings.https)],
        exception_handlers={Refused: _refused, PoiseError: _refused, HTTPException: _refused, Exception: _failed},
    )
    app.state.desk = Desk(store, settings, nav)
    return app


async def _refused(request: Request, error: Exception) -> Response:
    """A plain page, or its sentence for a script; nothing of the program in it."""
    wait_s = 0.0
    if isinstance(error, Refused):
        status, text, wait_s = error.status, error.text, error.wait_s
    elif isinstance(error, PoiseError):
        status, text = 503 if error.exit_code == 3 else 400, _sentence(error)
        if error.exit_code == 3:
            _LOG.error("%s", error)
            text = "The store cannot be reached now. Nothing that was confirmed is lost; try again in a moment."
    else:
        status = error.status_code if isinstance(error, HTTPException) else 500
        text = {404: "There is no such page.", 405: "This cannot be done here."}.get(status, "This did not work.")
    headers = {"Retry-After": str(int(wait_s) + 1)} if wait_s > 0 else {}
    if "application/json" in request.headers.get("accept", ""):
        return JSONResponse({"error": text}, status, headers)
    desk: Desk = request.app.state.desk
    page = Visit(request, desk, await _known(desk, request), request.cookies.get(SESSION, "")).render(
        "message.html", status, code=status, text=text
    )
    page.headers.update(headers)
    return page


async def _known(desk: Desk, request: Request) -> SignedIn | None:
    try:
        return await run_in_threadpool(desk.session, hashed(request.cookies.get(SESSION, "")))
    except PoiseError:
        return None


def _sentence(error: PoiseError) -> str:
    """What and what to do, without the place in the program."""
    what = error.what[:1].upper() + error.what[1:]
    return f"{what}." + (f" {error.do[:1].upper()}{error.do[1:]}." if error.do else "")


async def _failed(request: Request, error: Exception) -> Response:
    _LOG.error("%s %s", request.method, request.scope.get("path"), exc_info=error)
    text = "Something went wrong here. What you had typed is kept as a draft; load the page again."
    if "application/json" in request.headers.get("accept", ""):
        return JSONResponse({"error": text}, 500)
    desk: Desk = request.app.state.desk
    page = Visit(request, desk, None, "").render("message.html", 500, code=500, text=text)
    page.headers.update(HEADERS | {"Cache-Control": "no-store"})
    return page
