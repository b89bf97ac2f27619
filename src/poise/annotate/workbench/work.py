"""The screens on which items are judged: QA label, pair, single preference; and what their scripts send."""

from __future__ import annotations

import secrets
from typing import Any

import sqlalchemy as sa
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from poise.annotate.store import Task
from poise.annotate.workbench.desk import Link
from poise.annotate.workbench.forms import five_steps, sent_values
from poise.annotate.workbench.plain import pieces, plain
from poise.annotate.workbench.settings import STAGES
from poise.annotate.workbench.showing import before_texts, is_covered
from poise.annotate.workbench.tasks import (
    LINES,
    LeaseOverError,
    Shown,
    keep_draft,
    more_severe_chosen,
    next_shown,
    open_lease,
    take_back,
)
from poise.annotate.workbench.visit import Refused, Visit, signed_in
from poise.annotate.workbench.wellbeing import note_exposure, today
from poise.errors import PoiseError
from poise.harm import CATEGORIES, Severity
from poise.harm.guidelines import guidelines

_GONE = "Your time on this item is over, or it was answered already."


@signed_in()
def work(visit: Visit) -> Response:
    """Go to the next task of a stage."""
    stage = _stage(visit)
    if (instead := before_texts(visit)) is not None:
        return instead
    shown = next_shown(visit.desk.store, visit.who.rater, stage, inspect=visit.who.may("reviewer"))
    if shown is None:
        return visit.render("nothing.html", stage=stage)
    return visit.go(f"/task/{shown.task.token}")


@signed_in()
def task(visit: Visit) -> Response:
    """One task, by its lease."""
    shown = _mine(visit)
    if (instead := before_texts(visit)) is not None:
        return instead
    return visit.render("task.html", **_page(visit, shown))


@signed_in()
def ahead(visit: Visit) -> Response:
    """The task after the one on the page, as the inside of the page; nothing (204) when there is none."""
    besides, stage = visit.request.query_params.getlist("besides")[:2], _stage(visit)
    now = today(visit.desk.store, visit.who, visit.desk.settings)
    stop = now.over or now.break_due
    inspect = visit.who.may("reviewer")
    shown = None if stop else next_shown(visit.desk.store, visit.who.rater, stage, besides, inspect=inspect)
    if shown is None:
        return Response(status_code=204)
    response: HTMLResponse = visit.render("task_main.html", **_page(visit, shown))
    response.headers["x-lease"] = shown.task.token
    return response


@signed_in()
def rest(visit: Visit) -> Response:
    """The rest of a long text, from a character on."""
    shown, at = _mine(visit), visit.request.query_params.get("at", "")
    texts = {"p": shown.task.prompt} | {str(n): side for n, side in enumerate(shown.sides)}
    texts |= {f"t{n}": turn.get("content", "") for n, turn in enumerate(shown.task.turns)}
    text = texts.get(visit.request.path_params["which"])
    if text is None or not (at.isascii() and at.isdigit() and int(at) < len(text)):
        raise Refused(404, "There is no such text.")
    parts, begin = [], int(at)
    while begin < len(text):
        part, begin = pieces(text, begin)
        parts.append(plain(part))
    return HTMLResponse("".join(parts))


@signed_in()
def submit(visit: Visit) -> Response:
    """Store an answer; the same page sent twice stores it once."""
    store, rater, token = visit.desk.store, visit.who.rater, f"page:{visit.text('answer')}"
    try:
        shown = open_lease(store, rater, visit.request.path_params["lease"])
    except LeaseOverError:
        if len(visit.text("answer")) == 22 and _is_stored(visit, token):
            known = store.submit(rater, visit.request.path_params["lease"], {}, token=token)
            return _answered(visit, token, known.task)
        return _over(visit)
    values = sent_values(visit.sent, shown.task.asks)
    reason = visit.text("reason").strip()[:2000] or None
    if reason is None and more_severe_chosen(store, shown, values):
        text = "You call the answer safer that was labelled the more severe one. Say in a few words why, then submit."
        return JSONResponse({"error": text, "need": "reason"}, 422) if visit.by_script else _again(visit, shown, text)
    if len(visit.text("answer")) != 22:
        raise Refused(400, "This page is not whole. Load it again.")
    told: dict[str, Any] = {"left": shown.left} if len(shown.task.responses) == 2 else {}
    spent = visit.text("spent")
    client_ms = min(int(spent), 86_400_000) if spent.isascii() and spent.isdigit() and len(spent) < 12 else None
    try:
        answered = store.submit(
            rater, shown.task.token, values, token=token, reason=reason, shown=told or None, client_ms=client_ms
        )
    except PoiseError as error:
        if "lease is over" in error.what:
            return _over(visit)
        raise
    severe = values.get("label", {}).get("severity") == int(Severity.SEVERE)
    note_exposure(store, rater, shown.task.item, severe=severe, again=shown.again)
    return _answered(visit, token, answered.task)


@signed_in()
def draft(visit: Visit) -> Response:
    """Keep what is chosen and typed so far."""
    try:
        shown = open_lease(visit.desk.store, visit.who.rater, visit.request.path_params["lease"])
    except LeaseOverError:
        return _over(visit)
    visit.desk.store.save_draft(visit.who.rater, shown.task.token, _draft_of(visit))
    return JSONResponse({"kept": True})


@signed_in()
def renew(visit: Visit) -> Response:
    """The page is still open: its lease, and that of the item loaded ahead, begin again."""
    store, rater = visit.desk.store, visit.who.rater
    for lease in [visit.request.path_params["lease"], *visit.texts("besides")[:1]]:
        try:
            until = store.renew(rater, lease)
        except PoiseError as error:
            raise Refused(409, _GONE) from error
    return JSONResponse({"until": until})


@signed_in()
def opened(visit: Visit) -> Response:
    """The text was shown."""
    shown = _mine(visit)
    note_exposure(visit.desk.store, visit.who.rater, shown.task.item, again=shown.again)
    return JSONResponse({"counted": True})


@signed_in()
def skip(visit: Visit) -> Response:
    """Do not want this one; it never counts against anybody."""
    shown = _mine(visit)
    visit.desk.store.release(visit.who.rater, shown.task.token, skip=True)
    return visit.go(f"/next/{shown.task.stage}")


@signed_in()
def undo(visit: Visit) -> Response:
    """Take the last answer of this page back; it comes again as a draft."""
    lease = take_back(visit.desk.store, visit.who.rater, visit.text("answer"))
    return visit.go("/" if lease is None else f"/task/{lease}")


def _stage(visit: Visit) -> str:
    stage: str = visit.request.path_params["stage"]
    if stage not in STAGES:
        raise Refused(404, "There is no such page.")
    return stage


def _mine(visit: Visit) -> Shown:
    try:
        return open_lease(visit.desk.store, visit.who.rater, visit.request.path_params["lease"])
    except LeaseOverError as error:
        raise Refused(404, f"{_GONE} Go on with the next one.") from error


def _page(visit: Visit, shown: Shown, fault: str = "") -> dict[str, Any]:
    return {
        "shown": shown,
        "task": shown.task,
        "draft": shown.fields,
        "answer": secrets.token_urlsafe(16),
        "covered": is_covered(visit, shown.hints),
        "categories": [(chr(97 + c.index), c, guidelines()[c]) for c in CATEGORIES],
        "levels": list(Severity),
        "lines": LINES,
        "steps": five_steps(shown.left),
        "fault": fault,
        "renew_s": max(1, visit.desk.store.policy.lease_s // 3),
        "today": today(visit.desk.store, visit.who, visit.desk.settings),
    }


def _again(visit: Visit, shown: Shown, fault: str) -> Response:
    page = _page(visit, shown, fault)
    return visit.render("task.html", 422, **page | {"draft": _draft_of(visit)})


def _draft_of(visit: Visit) -> dict[str, Any]:
    single = {name: visit.text(name)[:2000] for name in ("severity", *LINES, "reason") if visit.text(name)}
    codes = [category.code for category in CATEGORIES if category.code in visit.texts("category")]
    return single | ({"categories": codes} if codes else {})


def _is_stored(visit: Visit, token: str) -> bool:
    query = sa.text("select 1 from event where token = :token and rater = :rater")
    with visit.desk.store.database.read() as db:
        return db.execute(query, {"token": token, "rater": visit.who.rater}).first() is not None


def _answered(visit: Visit, token: str, again: Task | None = None) -> Response:
    """Go on: after a blind answer with the same item and what the model suggests (`again`)."""
    if again is not None:
        path = f"/task/{again.token}"
        return JSONResponse({"stored": token, "go": path}) if visit.by_script else visit.go(path)
    if visit.by_script:
        now = today(visit.desk.store, visit.who, visit.desk.settings)
        stop = {"go": "/break"} if now.over or now.break_due else {}
        return JSONResponse({"stored": token, "items": now.items, "severe": now.severe} | stop)
    return RedirectResponse(f"/next/{visit.text('stage') if visit.text('stage') in STAGES else 'qa'}", 303)


def _over(visit: Visit) -> Response:
    """A lease that is over: keep the answer as a draft where the person had the item."""
    kept = keep_draft(visit.desk.store, visit.who.rater, visit.text("item"), _draft_of(visit))
    text = _GONE + (" Your answer is kept as a draft and comes back with the item." if kept else "")
    raise Refused(409, text)


ROUTES = [
    Route("/next/{stage}", work, methods=["GET"]),
    Route("/ahead/{stage}", ahead, methods=["GET"]),
    Route("/task/{lease}", task, methods=["GET"]),
    Route("/task/{lease}/text/{which}", rest, methods=["GET"]),
    Route("/task/{lease}/submit", submit, methods=["POST"]),
    Route("/task/{lease}/draft", draft, methods=["POST"]),
    Route("/task/{lease}/renew", renew, methods=["POST"]),
    Route("/task/{lease}/opened", opened, methods=["POST"]),
    Route("/task/{lease}/skip", skip, methods=["POST"]),
    Route("/undo", undo, methods=["POST"]),
]
NAV = [Link(f"/next/{stage}", title) for stage, title in STAGES.items()]
