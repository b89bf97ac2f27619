"""What whoever starts the workbench may set."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from poise.data.rows import Row
from poise.llm.budget import Price

ROLES = ("annotator", "reviewer", "lead", "admin")
"""Each may do what those before it may."""
STAGES = {"qa": "Labels", "pair": "Pairs", "single": "Single preference"}
"""Stage -> what the pages call it."""


class Settings(Row):
    """Settings of one server.

    Args:
        title: shown on top of every page.
        https: the server is reached over HTTPS (behind a proxy too): cookies are sent nowhere else.
        session_hours: until one must sign in again.
        invitation_hours: until an invitation link is void.
        sign_ins: attempts in five minutes, from one address and for one name each.
        writes: requests that change something, per person and minute.
        body_bytes: largest request.
        shield: which texts are covered until they are asked for, unless the person chooses otherwise.
        shield_categories: what "hints" covers: items for which anybody has named one of these.
        budget_items, budget_severe: read by one person on one day (UTC); 0 is no limit.
        break_items, break_severe: read between two reminders of a break; 0 is none.
        support: where people who read such texts find help, shown on the pages of breaks and ends.
        replies: stores of replies of the model raters, for what they took.
        prices: model -> price of a million prompt and completion tokens.
    """

    title: str = "Poise workbench"
    https: bool = False
    session_hours: float = Field(default=12, gt=0)
    invitation_hours: float = Field(default=72, gt=0)
    sign_ins: int = Field(default=10, ge=1)
    writes: int = Field(default=600, ge=1)
    body_bytes: int = Field(default=262_144, ge=1024)
    shield: Literal["off", "hints", "always"] = "hints"
    shield_categories: tuple[str, ...] = ("S1", "S6", "S11", "S12", "S13", "S17", "S19")
    budget_items: int = Field(default=400, ge=0)
    budget_severe: int = Field(default=60, ge=0)
    break_items: int = Field(default=40, ge=0)
    break_severe: int = Field(default=10, ge=0)
    support: str = "Talk to your lead, or to somebody you trust. Nobody has to read what does them harm."
    replies: tuple[Path, ...] = ()
    prices: dict[str, Price] = Field(default_factory=dict)
