"""What all pages that show items share: texts in the order of the page, what comes before, errors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote

from starlette.responses import RedirectResponse, Response

from poise.annotate.workbench.visit import Visit
from poise.annotate.workbench.wellbeing import today
from poise.errors import PoiseError
from poise.harm import Category


@dataclass(frozen=True)
class SideText:
    """A response under the name that the page gives it."""

    name: str
    text: str


@dataclass(frozen=True)
class Texts:
    """What is read before answering; shown as plain text only.

    Args:
        covered: until it is asked for.
        hints: what it may concern.
    """

    prompt: str
    responses: tuple[SideText, ...]
    turns: tuple[dict[str, str], ...]
    covered: bool
    hints: tuple[Category, ...]


def shown_texts(
    visit: Visit,
    prompt: str,
    responses: tuple[str, ...],
    *,
    turns: tuple[dict[str, str], ...] = (),
    hints: Sequence[Category] = (),
    swapped: bool = False,
) -> Texts:
    """The texts of an item in the order of the page, covered as the person or the settings want it."""
    names = ("Response",) if len(responses) == 1 else ("Left response", "Right response")
    order = tuple(reversed(responses)) if swapped else responses
    return Texts(
        prompt,
        tuple(SideText(name, text) for name, text in zip(names, order, strict=True)),
        turns,
        covered=is_covered(visit, hints),
        hints=tuple(hints),
    )


def is_covered(visit: Visit, hints: Sequence[Category]) -> bool:
    """Whether texts are covered until they are asked for, as the person or the settings want it."""
    shield = visit.who.preferences.get("shield") or visit.desk.settings.shield
    hinted = any(category.code in visit.desk.settings.shield_categories for category in hints)
    return shield == "always" or (shield == "hints" and hinted)


def before_texts(visit: Visit) -> Response | None:
    """What comes before any text is read: the end of the day, a break that is due, the warning."""
    now = today(visit.desk.store, visit.who, visit.desk.settings)
    if now.over or now.break_due:
        return RedirectResponse("/break", 303)
    if visit.session is not None and not visit.session.warned:
        return RedirectResponse(f"/before?then={quote(visit.request.url.path, safe='')}", 303)
    return None


def sentence(error: PoiseError) -> str:
    """An error for the page: what is wrong and what to do."""
    return f"{error.what[:1].upper()}{error.what[1:]}{f'; {error.do}' if error.do else ''}."
