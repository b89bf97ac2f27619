"""Who is given what: leases that expire, drafts that do not, and the rules of who may see which item.

A rater is never given an item again whose questions that rater has answered under the labels that stand, and never the
single preference of a pair that the rater has worked on in another stage, nor the other way round. An item goes to no
more people at a time than it still wants. All of this runs inside a writing transaction, so nothing is given twice.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from poise.annotate.store import schema
from poise.annotate.store.chain import canonical
from poise.annotate.store.log import parsed
from poise.annotate.store.overlap import OverlapPolicy
from poise.annotate.store.settle import BY_ORDER
from poise.errors import PoiseError

STAGES = ("qa", "pair", "single")


@dataclass(frozen=True)
class Task:
    """What a rater is given. Nobody else's answer is in it, but for an adjudicator, who sees them without names.

    Args:
        token: names the lease.
        item: key of the item in the store.
        asks: the questions to answer.
        locked: question -> value and reason of what is already decided.
        turns: the conversation before the prompt.
        draft: what the rater had saved.
        judgements: for an adjudicator: question, value, kind of rater and reason of each answer.
    """

    token: str
    item: int
    stage: str
    asks: tuple[str, ...]
    locked: dict[str, dict[str, Any]]
    prompt: str
    responses: tuple[str, ...]
    turns: tuple[dict[str, str], ...]
    image: str | None
    expires_ms: int
    draft: Any = None
    adjudicate: bool = False
    judgements: tuple[dict[str, Any], ...] = ()


_WORKED_ON = (
    "(exists (select 1 from event x where x.item = {0} and x.rater = :rater) "
    "or exists (select 1 from lease y where y.item = {0} and y.rater = :rater))"
)
BLIND = {
    "qa": "not exists (select 1 from item s where s.kind = 'single' and s.qa_0 = i.id and "
    + _WORKED_ON.format("s.id")
    + ") and not exists (select 1 from item s where s.kind = 'single' and s.qa_1 = i.id and "
    + _WORKED_ON.format("s.id")
    + ")",
    "pair": "not exists (select 1 from item s where s.kind = 'single' and s.key = i.key and "
    + _WORKED_ON.format("s.id")
    + ")",
    "single": f"not {_WORKED_ON.format('i.qa_0')} and not {_WORKED_ON.format('i.qa_1')} and not exists "
    "(select 1 from item p where p.kind = 'pair' and p.key = i.key and " + _WORKED_ON.format("p.id") + ")",
}
"""Stage -> the condition that keeps the single preference apart from the other stages."""

_ALLOWED = """
not exists (select 1 from lease o where o.item = t.item and o.rater = :rater)
and not exists (select 1 from skip k where k.item = t.item and k.rater = :rater)
and not exists (select 1 from opt_out o join hint h on h.category = o.category
    where o.rater = :rater and h.item in (i.id, i.qa_0, i.qa_1))
"""

_OPEN = """
select t.item from task t join item i on i.id = t.item
where t.state = 'open' and t.stage = :stage and t.wanted - t.have >
    (select count(*) from lease l where l.item = t.item and not l.adjudicate)
and (select count(*) from current_judgement j where j.item = t.item and j.rater = :rater
    and t.asks like '%"' || j.question || '"%' and (j.pins is null or j.pins =
        (select f.pins from final f where f.item = t.item and f.question = j.question)))
    < (case when t.asks like '%,%' then 2 else 1 end)
and {allowed} and {blind} {more}
"""

_DISPUTED = """
select t.item from task t join item i on i.id = t.item
where t.state = 'adjudicate' and t.stage = :stage
and not exists (select 1 from lease l where l.item = t.item and l.adjudicate)
and not exists (select 1 from current_judgement j where j.item = t.item and j.rater = :rater)
and {allowed} and {blind} {more}
"""


def _statements(more: str, around: str = "{}") -> dict[tuple[str, bool], sa.TextClause]:
    """(stage, whether to adjudicate) -> a query over what a rater may be given."""
    return {
        (stage, adjudicate): sa.text(
            around.format((_DISPUTED if adjudicate else _OPEN).format(allowed=_ALLOWED, blind=blind, more=more))
        )
        for stage, blind in BLIND.items()
        for adjudicate in (False, True)
    }


_TAKE = _statements("order by t.priority, t.item limit 1")
_TAKE_THIS = _statements("and t.item = :item")
_COUNT = _statements("limit :most", "select count(*) from ({}) as waiting")


class Queue:
    """The tasks, inside one writing transaction at one moment."""

    def __init__(self, connection: sa.Connection, policy: OverlapPolicy, now_ms: int) -> None:
        self._db, self._policy, self._now = connection, policy, now_ms

    def take(
        self, rater: int, stages: Sequence[str], *, adjudicate: bool = False, besides: Collection[str] = ()
    ) -> Task | None:
        """What the rater works on next: a lease that is still held, else a new one; None when there is nothing.

        Args:
            stages: looked through in this order.
            besides: tokens of leases that the rater's page has loaded already.
        """
        for stage in stages:
            if stage not in STAGES:
                raise PoiseError(f"{stage!r} is no stage", where="next task", do=f"name any of {', '.join(STAGES)}")
        self._db.execute(sa.text("delete from lease where expires_ms <= :now"), {"now": self._now})
        if (held := self._held(rater, stages, adjudicate, besides)) is not None:
            return held
        for stage in stages:
            item = self._db.execute(_TAKE[stage, adjudicate], {"stage": stage, "rater": rater}).scalar()
            if item is not None:
                return self.task(self._lease(item, rater, adjudicate=adjudicate))
        return None

    def take_this(self, rater: int, item: int) -> Task | None:
        """One item for a rater who may work on it now, as after an undo; None when that is not so."""
        stage = self._db.execute(sa.text("select stage from task where item = :item"), {"item": item}).scalar()
        if stage is None:
            return None
        told = {"stage": stage, "rater": rater, "item": item}
        self._db.execute(sa.text("delete from lease where expires_ms <= :now"), {"now": self._now})
        found = self._db.execute(_TAKE_THIS[stage, False], told).scalar()
        return None if found is None else self.task(self._lease(item, rater, adjudicate=False))

    def waiting(self, rater: int, stage: str, *, adjudicate: bool = False, most: int = 500) -> int:
        """How many items of a stage the rater could be given now, those held not counted; counted up to `most`."""
        told = {"stage": stage, "rater": rater, "most": most}
        return int(self._db.execute(_COUNT[stage, adjudicate], told).scalar_one())

    def lease(self, token: str, rater: int) -> sa.RowMapping:
        """A lease that is in force.

        Raises:
            PoiseError: it expired, was given back, or is somebody else's.
        """
        row = self._db.execute(sa.text("select * from lease where token = :token"), {"token": token}).mappings().first()
        if row is None or row["rater"] != rater or row["expires_ms"] <= self._now:
            raise PoiseError(
                "this lease is over: it expired, was answered, or was given back",
                where=f"lease {token}",
                do="take the next task; a draft that was saved comes back with it",
            )
        return row

    def renew(self, token: str, rater: int) -> int:
        """Begin the time of a lease again; returns when it ends, in milliseconds.

        Raises:
            PoiseError: as `lease`.
        """
        self.lease(token, rater)
        until = self._now + 1000 * self._policy.lease_s
        update = sa.text("update lease set expires_ms = :until where token = :token")
        self._db.execute(update, {"until": until, "token": token})
        return until

    def release(self, token: str, rater: int, *, skip: bool = False) -> None:
        """Give a task back; with `skip` for good.

        Raises:
            PoiseError: as `lease`.
        """
        item = self.lease(token, rater)["item"]
        self.drop(token)
        if skip:
            self._db.execute(sa.insert(schema.skip).values(item=item, rater=rater))

    def drop(self, token: str) -> None:
        """End a lease."""
        self._db.execute(sa.text("delete from lease where token = :token"), {"token": token})

    def save_draft(self, token: str, rater: int, body: Any) -> None:
        """Keep an unfinished answer (None: throw it away); any JSON value.

        Raises:
            PoiseError: as `lease`.
        """
        item = self.lease(token, rater)["item"]
        self.drop_draft(item, rater)
        if body is not None:
            row = {"item": item, "rater": rater, "body": canonical(body), "at_ms": self._now}
            self._db.execute(sa.insert(schema.draft).values(**row))

    def drop_draft(self, item: int, rater: int) -> None:
        """Throw a draft away."""
        delete = sa.text("delete from draft where item = :item and rater = :rater")
        self._db.execute(delete, {"item": item, "rater": rater})

    def _held(self, rater: int, stages: Sequence[str], adjudicate: bool, besides: Collection[str]) -> Task | None:
        """A lease that is still worth working on; those that are overtaken are dropped."""
        query = sa.text(
            "select l.token, t.stage, t.state, l.pins, f.pins as now_pins from lease l join task t on t.item = l.item "
            "left join final f on f.item = l.item and f.question = 'safer' "
            "where l.rater = :rater and l.adjudicate = :adjudicate order by l.expires_ms, l.token"
        )
        told = {"rater": rater, "adjudicate": adjudicate}
        for row in self._db.execute(query, told).mappings().all():
            if row["token"] in besides or row["stage"] not in stages:
                continue
            if row["state"] == ("adjudicate" if adjudicate else "open") and row["pins"] == row["now_pins"]:
                return self.task(row["token"])
            self.drop(row["token"])
        return None

    def _lease(self, item: int, rater: int, *, adjudicate: bool) -> str:
        """A new lease on the questions that this rater can answer."""
        query = sa.text("select question, value, settled, cyclic, source, pins from final where item = :item")
        finals = {row["question"]: row for row in self._db.execute(query, {"item": item}).mappings()}
        pins = finals["safer"]["pins"] if "safer" in finals else None
        if adjudicate:
            asks = [
                q for q, row in finals.items() if row["source"] != "order" and (row["cyclic"] or not row["settled"])
            ]
        else:
            wanted = self._db.execute(sa.text("select asks from task where item = :item"), {"item": item}).scalar()
            mine = sa.text("select question, pins from current_judgement where item = :item and rater = :rater")
            given = self._db.execute(mine, {"item": item, "rater": rater}).mappings()
            valid = {row["question"] for row in given if row["pins"] in (None, pins)}
            asks = [question for question in parsed(wanted) if question not in valid]
        token = secrets.token_urlsafe(16)
        self._db.execute(
            sa.insert(schema.lease).values(
                token=token,
                item=item,
                rater=rater,
                expires_ms=self._now + 1000 * self._policy.lease_s,
                asks=canonical(sorted(asks)),
                pins=pins,
                adjudicate=adjudicate,
            )
        )
        return token

    def task(self, token: str) -> Task:
        """What a lease is about."""
        query = sa.text(
            "select l.token, l.item, l.asks, l.expires_ms, l.adjudicate, i.kind, i.record, p.body as prompt, "
            "a.body as response_0, b.body as response_1, d.body as draft from lease l join item i on i.id = l.item "
            "join text p on p.id = i.prompt join text a on a.id = i.response_0 left join text b on b.id = i.response_1 "
            "left join draft d on d.item = l.item and d.rater = l.rater where l.token = :token"
        )
        row = self._db.execute(query, {"token": token}).mappings().one()
        record = parsed(row["record"])
        texts = (row["response_0"], row["response_1"])
        return Task(
            token=token,
            item=row["item"],
            stage=row["kind"],
            asks=tuple(parsed(row["asks"])),
            locked=self._locked(row["item"]),
            prompt=parsed(row["prompt"]),
            responses=tuple(parsed(body) for body in texts if body is not None),
            turns=tuple(record.get("turns") or ()),
            image=record.get("image"),
            expires_ms=row["expires_ms"],
            draft=parsed(row["draft"]),
            adjudicate=bool(row["adjudicate"]),
            judgements=self._judgements(row["item"]) if row["adjudicate"] else (),
        )

    def _locked(self, item: int) -> dict[str, dict[str, Any]]:
        query = sa.text("select question, value from final where item = :item and source = 'order'")
        rows = self._db.execute(query, {"item": item}).mappings()
        return {row["question"]: {**parsed(row["value"]), "reason": BY_ORDER} for row in rows}

    def _judgements(self, item: int) -> tuple[dict[str, Any], ...]:
        query = sa.text(
            "select j.question, j.value, r.kind, j.reason from current_judgement j join rater r on r.id = j.rater "
            "where j.item = :item order by j.seq"
        )
        rows = self._db.execute(query, {"item": item}).mappings()
        return tuple({**row, "value": parsed(row["value"])} for row in rows)
