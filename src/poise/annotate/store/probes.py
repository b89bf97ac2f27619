"""Hidden checks among the tasks: items with a known answer, items that come again, pairs with their sides swapped.

Which of a person's tasks is a check is a hash of (seed, person, number of the task). A check is given only where a task
of the same stage would have been, so it looks like one and nobody is kept busy with checks alone. The answer is in the
log as an event of kind "check": the chain covers it, but no vote, label, task or export is made of it. Correcting or
taking back such an answer gives a check again. A check that was given and not answered comes again as a task would.

A gold item goes to a person at most once, and never to one who has judged it as data; after it, that person is never
given it as data. Among the gold items that a person may see, those shown to fewest people go first, equal ones by hash.
Labels of batches that are inspected (`batches`) are checks too, but not drawn here by chance.
No suggestion of a model is shown with a check: it looks like an item of the control arm. So what comes again is only
what was answered without one.
"""

from __future__ import annotations

from typing import NamedTuple

import sqlalchemy as sa

from poise.annotate.store import batches, schema
from poise.annotate.store.giving import ALLOWED, BLIND
from poise.annotate.store.known import hidden, locked, quality_policy, review
from poise.annotate.store.settle import QUESTIONS
from poise.data.rows import uniform_seed

KINDS = ("gold", "repeat", "swap")
AGAIN = ("repeat", "swap")
"""Kinds of checks on what the person has answered before."""
_TRIES = 50

_GOLD = """
select t.item, i.key, (select count(*) from probe p where p.item = t.item and p.kind = 'gold') as shown
from gold t cross join item i
where i.id = t.item and t.state = 'active' and i.kind = :stage
and (not t.data or exists (select 1 from task k where k.item = t.item and k.state = 'done'))
and not exists (select 1 from event e where e.item = t.item and e.rater = :rater)
and not exists (select 1 from probe p where p.item = t.item and p.rater = :rater)
and {allowed} and {blind}
"""
_PENDING = """
select t.item, t.kind from probe t join item i on i.id = t.item left join gold g on g.item = t.item
left join task k on k.item = t.item
where t.rater = :rater and not t.answered and i.kind = :stage
and (t.kind in ('gold', 'inspect')
    or exists (select 1 from current_judgement j where j.item = t.item and j.rater = :rater))
and (t.kind <> 'inspect' or not exists (select 1 from current_judgement j where j.item = t.item and j.rater = :rater))
and (k.state is null or k.state <> 'waiting') and {allowed} {more} order by t.given_ms, t.item
"""
_SERVED = "and (t.kind <> 'gold' or g.state = 'active')"
_MINE = """
select e.item from event e join item i on i.id = e.item where e.rater = :rater and i.kind = :stage
and not exists (select 1 from probe p where p.item = e.item and p.rater = :rater) group by e.item order by e.item
"""
_AGAIN = """
select (select count(*) from (select distinct e.item from event e where e.rater = :rater
    and e.kind in ('judge', 'check')
    and e.seq > (select max(o.seq) from event o where o.item = t.item and o.rater = :rater) limit :after) as since) as n
from task t join item i on i.id = t.item
where t.item = :item and i.kind = :stage and t.state <> 'waiting' and not t.stale
and exists (select 1 from current_judgement j where j.item = t.item and j.rater = :rater and j.value is not null)
and not exists (select 1 from current_judgement j where j.item = t.item and j.rater = :rater
    and j.shown like '{{"arm":%' and j.shown not like '{{"arm":"control",%')
and {allowed}
"""


class Probe(NamedTuple):
    """A check to give: the item and why."""

    item: int
    kind: str


class Probes:
    """Draws checks, inside one writing transaction at one moment."""

    def __init__(self, connection: sa.Connection, now_ms: int) -> None:
        self._db, self._now, self._policy = connection, now_ms, quality_policy(connection)

    def draw(self, rater: int, stage: str) -> Probe | None:
        """The check that this task is, None where it is a task; counts the task either way."""
        if self._policy is None:
            return None
        named = self._db.execute(sa.text("select name, kind from rater where id = :rater"), {"rater": rater}).one()
        if named.kind != "person":
            return None
        if (left_open := self.pending(rater, stage)) is not None:
            return left_open
        policy, number = self._policy, self._count(rater)
        at = uniform_seed(policy.seed, named.name, str(number), "probe") / 2**63
        for kind, rate in zip(KINDS, (policy.gold_rate, policy.repeat_rate, policy.swap_rate), strict=True):
            if at < rate:
                return self._given(kind, rater, stage, named.name, number)
            at -= rate
        return None

    def pending(self, rater: int, stage: str, item: int | None = None) -> Probe | None:
        """A check that the rater was given and has not answered; on `item` where one is named, as after an undo."""
        row = self._pending(rater, stage, item).first()
        return None if row is None else Probe(row.item, row.kind)

    def inspection(self, rater: int, stage: str) -> Probe | None:
        """A label that the rater inspects next; one that was given and not answered first."""
        for row in self._pending(rater, stage, None):
            if row.kind == batches.INSPECT:
                return Probe(row.item, row.kind)
        item = batches.give(self._db, rater, stage, self._now)
        return None if item is None else Probe(item, batches.INSPECT)

    def waiting(self, rater: int, stage: str, inspect_most: int = 0) -> int:
        """How many of them there are, with at most `inspect_most` labels that the rater could be given to inspect."""
        new = batches.free(self._db, rater, stage, self._now, inspect_most) if inspect_most else ()
        return len(self._pending(rater, stage, None).all()) + len(new)

    def _pending(self, rater: int, stage: str, item: int | None) -> sa.CursorResult[tuple[int, str]]:
        told: dict[str, object] = {"rater": rater, "stage": stage} | ({} if item is None else {"item": item})
        query = _PENDING.format(allowed=ALLOWED, more=_SERVED if item is None else "and t.item = :item")
        return self._db.execute(sa.text(query), told)

    def _given(self, kind: str, rater: int, stage: str, name: str, number: int) -> Probe | None:
        if kind == "swap" and stage == "qa":
            return None
        item = self._gold(rater, stage, name) if kind == "gold" else self._again(rater, stage, name, number)
        if item is None:
            return None
        row = {"item": item, "rater": rater, "kind": kind, "given_ms": self._now, "answered": False}
        self._db.execute(sa.insert(schema.probe).values(**row))
        return Probe(item, kind)

    def _gold(self, rater: int, stage: str, name: str) -> int | None:
        assert self._policy is not None
        query = sa.text(_GOLD.format(allowed=ALLOWED, blind=BLIND[stage]))
        seed, rows = self._policy.seed, self._db.execute(query, {"stage": stage, "rater": rater}).all()
        fresh = [row for row in rows if row.shown < self._policy.cap]
        best = min(fresh, key=lambda row: (row.shown, uniform_seed(seed, row.key, name, "gold")), default=None)
        return None if best is None else int(best.item)

    def _again(self, rater: int, stage: str, name: str, number: int) -> int | None:
        """An item that this rater has judged, with enough others since: the first that fits from a drawn place on."""
        assert self._policy is not None
        mine = self._db.execute(sa.text(_MINE), {"rater": rater, "stage": stage}).scalars().all()
        start = uniform_seed(self._policy.seed, name, str(number), "again") % max(len(mine), 1)
        query, after = sa.text(_AGAIN.format(allowed=ALLOWED)), self._policy.repeat_after
        for item in (*mine[start:], *mine[:start])[:_TRIES]:
            told = {"rater": rater, "stage": stage, "item": item, "after": after}
            if self._db.execute(query, told).scalar() == after:
                return int(item)
        return None

    def _count(self, rater: int) -> int:
        """One more task; returns how many there were before."""
        query = sa.text("select given from turn where rater = :rater")
        given = self._db.execute(query, {"rater": rater}).scalar()
        if given is None:
            self._db.execute(sa.insert(schema.turn).values(rater=rater, given=1))
            return 0
        self._db.execute(sa.text("update turn set given = given + 1 where rater = :rater"), {"rater": rater})
        return int(given)


def asked(db: sa.Connection, item: int) -> list[str]:
    """What a check asks: all that is asked about such an item and not decided by the order."""
    kind = db.execute(sa.text("select kind from item where id = :item"), {"item": item}).scalar_one()
    return [question for question in QUESTIONS[kind] if question not in locked(db, item)]


def kind_of_answer(db: sa.Connection, rater: int, item: int) -> str:
    """ "check" for an answer about an item that is no data, or of a person who last answered a check on it."""
    if hidden(db, item) is not None:
        return "check"
    query = sa.text(
        "select e.kind from event e join rater r on r.id = e.rater and r.kind = 'person' where e.item = :item "
        "and e.rater = :rater and e.kind in ('judge', 'check') "
        "and not exists (select 1 from event undone where undone.target = e.seq) order by e.seq desc limit 1"
    )
    return db.execute(query, {"item": item, "rater": rater}).scalar() or "judge"


def follow(db: sa.Connection, item: int, rater: int, now_ms: int) -> None:
    """What follows from an answer to a check, or from its being taken back: nothing for data."""
    table = schema.probe
    query = sa.text("select 1 from current_check where item = :item and rater = :rater")
    answered = db.execute(query, {"item": item, "rater": rater}).first() is not None
    here = table.c.item == item, table.c.rater == rater
    db.execute(sa.update(table).where(*here).values(answered=answered))
    review(db, item, now_ms)
