"""The first page: what is waiting, and what was read today."""

from __future__ import annotations

from starlette.responses import Response
from starlette.routing import Route

from poise.annotate.workbench.desk import Link
from poise.annotate.workbench.tasks import waiting
from poise.annotate.workbench.visit import Visit, signed_in
from poise.annotate.workbench.wellbeing import today


@signed_in()
def home(visit: Visit) -> Response:
    """What is waiting for the person by stage, and today's exposure."""
    store = visit.desk.store
    count = waiting(store, visit.who.rater, inspect=visit.who.may("reviewer"))
    return visit.render("home.html", waiting=count, today=today(store, visit.who, visit.desk.settings))


ROUTES = [Route("/", home, methods=["GET"])]
NAV = [Link("/", "Home")]
