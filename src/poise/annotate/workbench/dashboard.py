"""What the lead sees: work by stage and state, what is held and what is stuck; the rest comes from `measures`.

Each table is one grouped query over an index or a small table, so that the page opens at once whatever the store holds.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

import sqlalchemy as sa

from poise.annotate.store import AnnotationStore
from poise.annotate.store.queue import STAGES

STATES = ("waiting", "open", "adjudicate", "done")
MOST = 10
"""Rows of a list on the page; the count says how many there are."""

_TASKS = "select stage, state, stale, count(*) as n from task group by stage, state, stale"
_LEASES = """
select i.kind as stage, l.adjudicate, l.expires_ms, r.name, r.kind from lease l join item i on i.id = l.item
join rater r on r.id = l.rater where l.expires_ms > :now order by l.expires_ms limit :most
"""
_STUCK = """
select t.item, t.stage, t.state, t.have, t.wanted, t.stale,
    case when exists (select 1 from final f where f.item = t.item and f.cyclic) then 1 else 0 end as cyclic,
    case when exists (select 1 from lease l where l.item = t.item and l.adjudicate and l.expires_ms > :now)
        then 1 else 0 end as held,
    case when exists (select 1 from final f join batch_item b on b.item = f.item join probe p on p.item = b.item
        and p.rater = b.rater and p.kind = 'inspect' and p.answered where f.item = t.item and f.value is not null)
        then 1 else 0 end as inspected
from task t where {only} order by t.priority, t.item limit :most
"""


@dataclass(frozen=True)
class StageCount:
    """Tasks of one stage by state."""

    stage: str
    states: dict[str, int]

    @property
    def total(self) -> int:
        """All tasks of the stage."""
        return sum(self.states.values())


@dataclass(frozen=True)
class Held:
    """A lease that is in force; `until` is UTC."""

    rater: str
    kind: str
    stage: str
    adjudicate: bool
    until: datetime


@dataclass(frozen=True)
class Stuck:
    """A disputed or stale item.

    Args:
        state: of its task; a stale pair that waits for its labels is "waiting".
        cyclic: its choice is part of a cycle.
        held: an adjudicator works on it.
        inspected: it has a label, which somebody has inspected.
    """

    item: int
    stage: str
    state: str
    have: int
    wanted: int
    stale: bool
    cyclic: bool
    held: bool
    inspected: bool


@dataclass(frozen=True)
class Live:
    """The state of the work at this moment; lists are cut at `MOST` rows."""

    at: datetime
    stages: tuple[StageCount, ...]
    stale: int
    disputed: int
    leases: int
    held: tuple[Held, ...]
    disputed_items: tuple[Stuck, ...]
    stale_items: tuple[Stuck, ...]


def live(store: AnnotationStore) -> Live:
    """Count the tasks and list what is held, disputed and stale, in one reading transaction."""
    now = store.now_ms()
    told = {"now": now, "most": MOST}
    with store.database.read() as db:
        counts = {(row.stage, row.state, bool(row.stale)): row.n for row in db.execute(sa.text(_TASKS))}
        held = db.execute(sa.text(_LEASES), told).mappings().all()
        leases = db.execute(sa.text("select count(*) from lease where expires_ms > :now"), {"now": now}).scalar()
        stale = sum(n for (*_, flag), n in counts.items() if flag)
        disputed = sum(n for (_, state, _), n in counts.items() if state == "adjudicate")
        return Live(
            at=moment(now),
            stages=tuple(StageCount(stage, _states(counts, stage)) for stage in STAGES),
            stale=stale,
            disputed=disputed,
            leases=int(leases or 0),
            held=tuple(_held(row) for row in held),
            disputed_items=_stuck(db, "t.state = 'adjudicate'", told) if disputed else (),
            stale_items=_stuck(db, "t.stale", told) if stale else (),
        )


def moment(ms: int) -> datetime:
    """A time in UTC from milliseconds."""
    return datetime.fromtimestamp(ms / 1000, UTC)


def _states(counts: dict[tuple[str, str, bool], int], stage: str) -> dict[str, int]:
    return {state: sum(counts.get((stage, state, flag), 0) for flag in (False, True)) for state in STATES}


def _held(row: sa.RowMapping) -> Held:
    return Held(row["name"], row["kind"], row["stage"], bool(row["adjudicate"]), moment(row["expires_ms"]))


def _stuck(db: sa.Connection, only: str, told: dict[str, int]) -> tuple[Stuck, ...]:
    rows = db.execute(sa.text(_STUCK.format(only=only)), told).mappings()
    return tuple(
        Stuck(
            item=row["item"],
            stage=row["stage"],
            state=row["state"],
            have=row["have"],
            wanted=row["wanted"],
            stale=bool(row["stale"]),
            cyclic=bool(row["cyclic"]),
            held=bool(row["held"]),
            inspected=bool(row["inspected"]),
        )
        for row in rows
    )
