"""The pages of adjudication: /adjudicate shows the vote or, after it, who said what; for reviewers and up."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from starlette.responses import Response
from starlette.routing import Route

from poise.annotate.store.queue import STAGES, Task
from poise.annotate.store.settle import QUESTIONS
from poise.annotate.workbench.adjudication import REASONS, Adjudication, comparison, hinted
from poise.annotate.workbench.desk import Link
from poise.annotate.workbench.forms import adopted, answer_form, sent_values, sides
from poise.annotate.workbench.showing import before_texts, sentence, shown_texts
from poise.annotate.workbench.visit import Visit, signed_in
from poise.annotate.workbench.wellbeing import note_exposure
from poise.errors import PoiseError


@dataclass(frozen=True)
class _Sent:
    """What was sent and refused, to be shown again."""

    message: str = ""
    chosen: Mapping[str, Any] | None = None
    code: str = ""
    note: str = ""


@signed_in("reviewer")
def show(visit: Visit) -> Response:
    """The item that the adjudicator holds, or the next one."""
    return before_texts(visit) or _page(visit, _Sent())


@signed_in("reviewer")
def vote(visit: Visit) -> Response:
    """The blind vote."""
    case = _case(visit)
    try:
        case.vote(sent_values(visit.sent, case.asks()))
    except PoiseError as error:
        return _refused(visit, error)
    return visit.go("/adjudicate")


@signed_in("reviewer")
def outcome(visit: Visit) -> Response:
    """The decision."""
    code, note, took = visit.text("code"), visit.text("note")[:4000], visit.text("client_ms")
    known = [question for stage in STAGES for question in QUESTIONS[stage]]
    values: dict[str, Any] = {}
    try:
        values |= sent_values(visit.sent, [one for one in visit.text("asks").split() if one in known])
        _case(visit).decide(
            values,
            code=code,
            note=note,
            token=visit.text("token"),
            left=int(visit.text("left")) if visit.text("left") in ("0", "1") else None,
            client_ms=int(took) if took.isascii() and took.isdigit() and len(took) < 12 else None,
        )
    except PoiseError as error:
        return _refused(visit, error, values or None, code, note)
    return visit.go("/adjudicate?done=1")


@signed_in("reviewer")
def release(visit: Visit) -> Response:
    """Give the item back, or skip it for good."""
    skip = bool(visit.text("skip"))
    try:
        visit.desk.store.release(visit.who.rater, visit.text("lease"), skip=skip)
    except PoiseError as error:
        return _refused(visit, error)
    return visit.go("/adjudicate" if skip else "/")


def _case(visit: Visit) -> Adjudication:
    return Adjudication(visit.desk.store, visit.who.rater, visit.text("lease"))


def _refused(
    visit: Visit, error: PoiseError, chosen: Mapping[str, Any] | None = None, code: str = "", note: str = ""
) -> Response:
    """The page again, with what was sent."""
    if error.exit_code != 2:
        raise error
    return _page(visit, _Sent(sentence(error), chosen, code, note), status=422)


def _page(visit: Visit, sent: _Sent, status: int = 200) -> Response:
    task = visit.desk.store.next_task(visit.who.rater, adjudicate=True)
    done = visit.request.query_params.get("done") == "1"
    if task is None:
        return visit.render("adjudicate_none.html", status, message=sent.message, done=done)
    return visit.render("adjudicate.html", status, done=done, **_context(visit, task, sent))


def _context(visit: Visit, task: Task, sent: _Sent) -> dict[str, Any]:
    case = Adjudication(visit.desk.store, visit.who.rater, task.token)
    blind = case.blind()
    voices = case.reveal() if blind is not None else ()
    pair = len(task.responses) == 2
    swapped = task.left == 1
    chosen = sent.chosen if sent.chosen is not None else blind
    hints = hinted(visit.desk.store, task.item)
    shown = shown_texts(visit, task.prompt, task.responses, turns=task.turns, hints=hints, swapped=swapped)
    if blind is not None or not shown.covered:
        note_exposure(visit.desk.store, visit.who.rater, task.item)
    return {
        "shown": shown,
        "form": answer_form(task.asks, chosen=chosen, locked=task.locked, swapped=swapped),
        "asks": " ".join(task.asks),
        "lease": task.token,
        "token": secrets.token_urlsafe(16),
        "left": int(swapped) if pair else "",
        "voted": blind is not None,
        "voices": voices,
        "lines": comparison(task.asks, blind, voices, sides(swapped)) if blind is not None else (),
        "adopt": [adopted(voice.answers, task.asks) for voice in voices],
        "reasons": REASONS,
        "message": sent.message,
        "chosen_code": sent.code,
        "note": sent.note,
    }


ROUTES = [
    Route("/adjudicate", show, methods=["GET"]),
    Route("/adjudicate/vote", vote, methods=["POST"]),
    Route("/adjudicate/outcome", outcome, methods=["POST"]),
    Route("/adjudicate/release", release, methods=["POST"]),
]
NAV = [Link("/adjudicate", "Adjudication", role="reviewer")]
