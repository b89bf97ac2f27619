"""The pages of the lead and of the guidelines: /lead for leads and up, /guidelines for everybody who is signed in."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

from pydantic import ValidationError
from starlette.responses import Response
from starlette.routing import Route

from poise.annotate.quality.inspection import inspections
from poise.annotate.store.queue import STAGES
from poise.annotate.workbench.background import Background
from poise.annotate.workbench.costs import spent
from poise.annotate.workbench.dashboard import STATES, live
from poise.annotate.workbench.desk import Desk, Link
from poise.annotate.workbench.guidelines import ANCHORS, letter_of, pages
from poise.annotate.workbench.training import Training, TrainingSettings
from poise.annotate.workbench.visit import Visit, signed_in
from poise.harm import CATEGORIES, policy_version

STATE_WORDS = {"waiting": "Wait for labels", "open": "Open", "adjudicate": "Disputed", "done": "Done"}
STAGE_WORDS = dict(zip(STAGES, ("label", "pair", "single preference"), strict=True))
SHADES = 5
_MEASURED: WeakKeyDictionary[Desk, Background] = WeakKeyDictionary()
"""Application -> the measures of its store."""


@signed_in("lead")
def dashboard(visit: Visit) -> Response:
    """How the work stands."""
    return _page(visit)


@signed_in("lead")
def training(visit: Visit) -> Response:
    """Change how people are trained."""
    try:
        told = TrainingSettings(
            required=bool(visit.text("required")),
            items=int(visit.text("items")),
            pass_mark=float(visit.text("pass_mark")) / 100,
        )
    except (ValidationError, ValueError):
        return _page(visit, "Not saved: items go from 3 to 60, the pass mark from 0 to 100.", status=422)
    Training(visit.desk.store).set(told)
    return _page(visit, "Saved.")


@signed_in()
def guidelines(visit: Visit) -> Response:
    """All pages, open at one."""
    return visit.render(
        "guidelines.html",
        pages=pages(),
        anchors=ANCHORS,
        policy=policy_version(),
        letters={category.code: letter_of(category) for category in CATEGORIES},
        letter=visit.request.path_params.get("letter", ""),
    )


def background(desk: Desk) -> Background:
    """The measures of an application's store; they begin when they are first asked for."""
    return _MEASURED.setdefault(desk, Background(desk.store))


def _page(visit: Visit, message: str = "", status: int = 200) -> Response:
    return visit.render("lead.html", status, message=message, **_context(visit.desk))


def _context(desk: Desk) -> dict[str, Any]:
    kept = background(desk)
    measures = kept.get()
    counts = [n for row in measures.grid.cells for n in row] if measures else []
    days = [day.by_people for day in measures.days] if measures else []
    return {
        "live": live(desk.store),
        "inspections": inspections(desk.store),
        "measures": measures,
        "spent": spent(desk.settings.replies, desk.settings.prices),
        "running": kept.running,
        "fault": kept.fault,
        "training": Training(desk.store).settings(),
        "states": STATES,
        "state_words": STATE_WORDS,
        "stage_words": STAGE_WORDS,
        "pages": pages(),
        "heat": shade(max(counts, default=0)),
        "most_a_day": max([*days, 1]),
    }


def shade(most: int) -> Callable[[int], int]:
    """Count -> shade 0 (none) to 5 (as many as the fullest cell), by the logarithm, so that small cells differ too."""

    def of(count: int) -> int:
        return 0 if count <= 0 else max(1, math.ceil(SHADES * math.log1p(count) / math.log1p(max(most, 1))))

    return of


ROUTES = [
    Route("/lead", dashboard, methods=["GET"]),
    Route("/lead/training", training, methods=["POST"]),
    Route("/guidelines", guidelines, methods=["GET"]),
    Route("/guidelines/{letter}", guidelines, methods=["GET"]),
]
NAV = [Link("/guidelines", "Guidelines"), Link("/lead", "Lead", role="lead")]
