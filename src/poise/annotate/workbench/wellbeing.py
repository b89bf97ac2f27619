"""How much somebody has read today, and when it is enough. The figures are the person's own and leave the store never.

An item counts once, when its text was shown or answered. The budget of a day ends the day; a break is a reminder that
stays, on every page of tasks, until it is answered.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

import sqlalchemy as sa

from poise.annotate.store import AnnotationStore
from poise.annotate.workbench.accounts import Account
from poise.annotate.workbench.settings import Settings


@dataclass(frozen=True)
class Today:
    """What one person has read.

    Args:
        items, severe: today (UTC).
        items_since, severe_since: since the last break.
        over: the budget of the day is used up.
        break_due: a break is due.
    """

    items: int
    severe: int
    items_since: int
    severe_since: int
    over: bool
    break_due: bool


def day_of(now_ms: int) -> str:
    """The date in UTC."""
    return datetime.fromtimestamp(now_ms / 1000, UTC).date().isoformat()


def today(store: AnnotationStore, who: Account, settings: Settings) -> Today:
    """Count what a person has read."""
    query = sa.text(
        "select count(*) as items, coalesce(sum(case when severe then 1 else 0 end), 0) as severe, "
        "coalesce(sum(case when at_ms > :since then 1 else 0 end), 0) as items_since, "
        "coalesce(sum(case when at_ms > :since and severe then 1 else 0 end), 0) as severe_since "
        "from exposure where rater = :rater and day = :day"
    )
    told = {"rater": who.rater, "day": day_of(store.now_ms()), "since": who.break_ms}
    with store.database.read() as db:
        row = db.execute(query, told).mappings().one()
    counts = {name: int(row[name]) for name in row}
    over = _reached(counts["items"], settings.budget_items) or _reached(counts["severe"], settings.budget_severe)
    due = _reached(counts["items_since"], settings.break_items) or _reached(
        counts["severe_since"], settings.break_severe
    )
    return Today(**counts, over=over, break_due=due and not over)


def note_exposure(store: AnnotationStore, rater: int, item: int, *, severe: bool = False, again: bool = False) -> None:
    """An item's text was shown: count it, once a day.

    It counts as severe as well where a label that stands now says so; of a gold pair, a label that is known.

    Args:
        severe: the person has called it severe.
        again: it came as a hidden check of what the person has answered before, which counts for itself.
    """
    now = store.now_ms()
    told = {"rater": rater, "item": item, "now": now, "day": day_of(now), "again": again}
    level = sa.text(
        "select f.value from final f join item i on f.item in (i.id, i.qa_0, i.qa_1) "
        "where i.id = :item and f.question = 'label' union all "
        "select g.answers from gold g join item i on g.item in (i.qa_0, i.qa_1) where i.id = :item and not g.data"
    )
    keep = sa.text(
        "insert into exposure (rater, item, again, day, at_ms, severe) "
        "values (:rater, :item, :again, :day, :now, :severe) "
        "on conflict (rater, item, again) do update set severe = (exposure.severe or excluded.severe), "
        "at_ms = case when exposure.day = excluded.day then exposure.at_ms else excluded.at_ms end, "
        "day = excluded.day"
    )
    with store.database.write() as db:
        labels = db.execute(level, {"item": item}).scalars()
        severe = severe or any(value is not None and '"severity":3' in value for value in labels)
        db.execute(keep, told | {"severe": severe})


def _reached(count: int, limit: int) -> bool:
    return 0 < limit <= count
