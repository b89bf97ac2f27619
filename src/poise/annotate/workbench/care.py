"""Pages that look after the reader: the warning before any text, breaks, covers, and what one would rather not read."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from starlette.responses import Response
from starlette.routing import Route

from poise.annotate.store import AnnotationStore
from poise.annotate.workbench.visit import Refused, Visit, signed_in
from poise.annotate.workbench.wellbeing import today
from poise.harm import CATEGORIES
from poise.harm.guidelines import guidelines

CHOICES = {
    "shield": {"": "as the lead has set it", "off": "never", "hints": "when it may be severe", "always": "always"},
    "theme": {"": "as my device", "light": "light", "dark": "dark"},
}
"""Preference -> its values and what the page calls them; "" leaves it to the setting or the device."""


@signed_in()
def before(visit: Visit) -> Response:
    """The warning: what kind of text comes, and how much of it; once in a session."""
    then = visit.text("then") if visit.posted else visit.request.query_params.get("then", "/")
    then = then if then in ("/adjudicate", "/training") or then.startswith(("/next/", "/task/")) else "/"
    if visit.posted:
        visit.desk.accounts.warned(visit.session_hash)
        visit.desk.forget_sessions()
        return visit.go(then)
    expected = likely(visit.desk.store, visit.who.rater)
    return visit.render("before.html", then=then, expected=expected, today=_today(visit))


@signed_in()
def pause(visit: Visit) -> Response:
    """A break, or the end of the day. A reminder stays until it is answered here."""
    if visit.posted:
        visit.desk.accounts.rested(visit.who)
        visit.desk.forget_sessions()
        return visit.go("/")
    return visit.render("break.html", today=_today(visit))


@signed_in()
def wellbeing(visit: Visit) -> Response:
    """Covers, colours, keys, and the categories that one is never given."""
    store, who = visit.desk.store, visit.who
    if visit.posted:
        store.opt_out(who.rater, _known(visit.texts("category")))
        kept: dict[str, Any] = {name: visit.text(name) for name in CHOICES if visit.text(name)}
        if any(value not in CHOICES[name] for name, value in kept.items()):
            raise Refused(400, "This choice is unknown. Load the page again.")
        kept |= {"grey": True} if visit.text("grey") else {}
        kept |= {"keys": "off"} if visit.text("keys") == "off" else {}
        visit.desk.accounts.prefer(who, kept)
        visit.desk.forget_sessions()
        return visit.go("/wellbeing?kept=1")
    query = sa.text("select category from opt_out where rater = :rater")
    with store.database.read() as db:
        out = set(db.execute(query, {"rater": who.rater}).scalars())
    return visit.render(
        "wellbeing.html",
        out=out,
        categories=[(c, guidelines()[c]) for c in CATEGORIES],
        choices=CHOICES,
        today=_today(visit),
        kept=visit.request.query_params.get("kept") == "1",
    )


def likely(store: AnnotationStore, rater: int, most: int = 5000) -> list[tuple[str, int]]:
    """(category, items) that were named for the items that are open, most frequent first, in the first `most` hints;
    without what the rater has opted out of."""
    query = sa.text(
        "select category, count(*) as items from (select h.category from hint h join task t on t.item = h.item "
        "where t.state = 'open' and h.category not in (select o.category from opt_out o where o.rater = :rater) "
        "limit :most) as named group by category order by items desc, category"
    )
    with store.database.read() as db:
        rows = db.execute(query, {"rater": rater, "most": most}).all()
    names = {category.code: category.value for category in CATEGORIES}
    return [(names[row.category], row.items) for row in rows]


def _known(codes: list[str]) -> list[str]:
    known = [category.code for category in CATEGORIES if category.code in codes]
    if len(known) != len(set(codes)):
        raise Refused(400, "This category is not in the policy. Load the page again.")
    return known


def _today(visit: Visit) -> Any:
    return today(visit.desk.store, visit.who, visit.desk.settings)


ROUTES = [
    Route("/before", before, methods=["GET", "POST"]),
    Route("/break", pause, methods=["GET", "POST"]),
    Route("/wellbeing", wellbeing, methods=["GET", "POST"]),
]
