"""Who is given what: leases that expire, drafts that do not, and the rules of who may see which item.

A rater is never given an item again whose questions that rater has answered under the labels that stand, and never the
single preference of a pair that the rater has worked on in another stage, nor the other way round. An item goes to no
more people at a time than it still wants. All of this runs inside a writing transaction, so nothing is given twice.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from poise.annotate.store import schema
from poise.annotate.store.chain import canonical
from poise.annotate.store.giving import COUNT, TAKE, TAKE_THIS
from poise.annotate.store.joint import JointPolicy
from poise.annotate.store.known import locked
from poise.annotate.store.log import parsed
from poise.annotate.store.overlap import OverlapPolicy
from poise.annotate.store.probes import Probe, Probes, asked
from poise.annotate.store.showing import Showing, View
from poise.errors import PoiseError

STAGES = ("qa", "pair", "single")


@dataclass(frozen=True)
class Task:
    """What a rater is given. Nobody else's answer is in it, but for an adjudicator, who sees them without names.

    Nothing in it tells a hidden check from a task, but that an item comes again; so a page keeps `item` to itself.

    Args:
        token: names the lease.
        item: key of the item in the store.
        left: the response of a pair that stands on the left, drawn by hash; answers name responses, not sides.
        asks: the questions to answer.
        locked: question -> value and reason of what is already decided.
        turns: the conversation before the prompt.
        draft: what the rater had saved.
        judgements: for an adjudicator: question, value, kind of rater and reason of each answer that counts; none where
            the item is audited, since an audit judges the answers and must not follow them.
        arm, suggestion, before: see `showing.View`.
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
    arm: str | None = None
    suggestion: dict[str, Any] | None = None
    before: dict[str, Any] | None = None
    left: int = 0


class Answered(dict[str, int]):
    """Question -> number of the event that an answer became.

    Args:
        events: these.
        task: after a blind answer the same task with the suggestion, to be answered once more; otherwise None.
    """

    def __init__(self, events: Mapping[str, int], task: Task | None = None) -> None:
        super().__init__(events)
        self.task = task


class Queue:
    """The tasks, inside one writing transaction at one moment."""

    def __init__(
        self, connection: sa.Connection, policy: OverlapPolicy, now_ms: int, joint: JointPolicy | None = None
    ) -> None:
        self._db, self._policy, self._now = connection, policy, now_ms
        self._joint = joint or JointPolicy()
        self._showing, self._probes = Showing(connection, self._joint), Probes(connection, now_ms)

    def take(
        self,
        rater: int,
        stages: Sequence[str],
        *,
        adjudicate: bool = False,
        besides: Collection[str] = (),
        inspect: bool = False,
    ) -> Task | None:
        """What the rater works on next: a lease that is still held, else a new one; None when there is nothing.

        Args:
            stages: looked through in this order.
            besides: tokens of leases that the rater's page has loaded already.
            inspect: the rater may inspect labels of batches (`batches`); they go first and look like tasks.
        """
        for stage in stages:
            if stage not in STAGES:
                raise PoiseError(f"{stage!r} is no stage", where="next task", do=f"name any of {', '.join(STAGES)}")
        self._db.execute(sa.text("delete from lease where expires_ms <= :now"), {"now": self._now})
        if (held := self._held(rater, stages, adjudicate, besides)) is not None:
            return held
        for stage in stages if inspect and not adjudicate else ():
            if (probe := self._probes.inspection(rater, stage)) is not None:
                return self.task(self._lease_check(probe, rater))
        for stage in stages:
            item = self._db.execute(TAKE[stage, adjudicate], {"stage": stage, "rater": rater}).scalar()
            if item is not None:
                probe = None if adjudicate else self._probes.draw(rater, stage)
                return self.task(self._lease_check(probe, rater) if probe else self._lease(item, rater, adjudicate))
        for stage in () if adjudicate else stages:
            if (probe := self._probes.pending(rater, stage)) is not None:
                return self.task(self._lease_check(probe, rater))
        return None

    def take_this(self, rater: int, item: int) -> Task | None:
        """One item for a rater who may work on it now, as after an undo; None when that is not so."""
        stage = self._db.execute(sa.text("select kind from item where id = :item"), {"item": item}).scalar()
        if stage is None:
            return None
        told = {"stage": stage, "rater": rater, "item": item}
        self._db.execute(sa.text("delete from lease where expires_ms <= :now"), {"now": self._now})
        if (probe := self._probes.pending(rater, stage, item)) is not None:
            return self.task(self._lease_check(probe, rater))
        found = self._db.execute(TAKE_THIS[stage, False], told).scalar()
        return None if found is None else self.task(self._lease(item, rater, False))

    def waiting(
        self, rater: int, stage: str, *, adjudicate: bool = False, inspect: bool = False, most: int = 500
    ) -> int:
        """How many items of a stage the rater could be given now, those held not counted; counted up to `most`."""
        told = {"stage": stage, "rater": rater, "most": most}
        checks = 0 if adjudicate else self._probes.waiting(rater, stage, most if inspect else 0)
        return min(most, int(self._db.execute(COUNT[stage, adjudicate], told).scalar_one()) + checks)

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
            "select l.token, l.revealed or l.probe is not null as own, i.kind, t.state, l.pins, f.pins as now_pins "
            "from lease l join item i on i.id = l.item left join task t on t.item = l.item "
            "left join final f on f.item = l.item and f.question = 'safer' "
            "where l.rater = :rater and l.adjudicate = :adjudicate order by l.expires_ms, l.token"
        )
        told = {"rater": rater, "adjudicate": adjudicate}
        for row in self._db.execute(query, told).mappings().all():
            if row["token"] in besides or row["kind"] not in stages:
                continue
            wanted = row["own"] or row["state"] == ("adjudicate" if adjudicate else "open")
            if wanted and row["pins"] == row["now_pins"]:
                return self.task(row["token"])
            self.drop(row["token"])
        return None

    def _lease(self, item: int, rater: int, adjudicate: bool) -> str:
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
            self._showing.assign(item, rater, asks, pins)
        return self._hold(item, rater, asks, pins, adjudicate=adjudicate)

    def _lease_check(self, probe: Probe, rater: int) -> str:
        """A new lease on a hidden check."""
        query = sa.text("select pins from final where item = :item and question = 'safer'")
        pins = self._db.execute(query, {"item": probe.item}).scalar()
        return self._hold(probe.item, rater, asked(self._db, probe.item), pins, probe=probe.kind)

    def _hold(self, item: int, rater: int, asks: Sequence[str], pins: str | None, **more: Any) -> str:
        token = secrets.token_urlsafe(16)
        self._db.execute(
            sa.insert(schema.lease).values(
                token=token,
                item=item,
                rater=rater,
                expires_ms=self._now + 1000 * self._policy.lease_s,
                asks=canonical(sorted(asks)),
                pins=pins,
                **({"adjudicate": False} | more),
            )
        )
        return token

    def task(self, token: str) -> Task:
        """What a lease is about."""
        query = sa.text(
            "select l.token, l.item, l.rater, l.asks, l.expires_ms, l.adjudicate, l.revealed, l.probe, i.kind, i.key, "
            "i.record, r.name, p.body as prompt, a.body as response_0, b.body as response_1, d.body as draft "
            "from lease l join item i on i.id = l.item join rater r on r.id = l.rater "
            "join text p on p.id = i.prompt join text a on a.id = i.response_0 left join text b on b.id = i.response_1 "
            "left join draft d on d.item = l.item and d.rater = l.rater where l.token = :token"
        )
        row = self._db.execute(query, {"token": token}).mappings().one()
        record = parsed(row["record"])
        texts = (row["response_0"], row["response_1"])
        told = row["adjudicate"] and not self._joint.audits(row["kind"], row["key"])
        view: View = self._showing.view(row)
        return Task(
            token=token,
            item=row["item"],
            stage=row["kind"],
            asks=tuple(parsed(row["asks"])),
            locked=locked(self._db, row["item"]),
            prompt=parsed(row["prompt"]),
            responses=tuple(parsed(body) for body in texts if body is not None),
            turns=tuple(record.get("turns") or ()),
            image=record.get("image"),
            expires_ms=row["expires_ms"],
            draft=parsed(row["draft"]),
            adjudicate=bool(row["adjudicate"]),
            judgements=self._judgements(row["item"]) if told else (),
            arm=view.arm,
            suggestion=view.suggestion,
            before=view.before,
            left=self._policy.left(row["key"], row["name"]) ^ (row["probe"] == "swap") if row["response_1"] else 0,
        )

    def reveal(self, token: str) -> str:
        """After the blind answer: the lease begins again under a new token, which is returned.

        So a page that has not seen the suggestion cannot give the last answer.
        """
        now = {"new": secrets.token_urlsafe(16), "until": self._now + 1000 * self._policy.lease_s, "token": token}
        update = sa.text("update lease set token = :new, expires_ms = :until, revealed = true where token = :token")
        self._db.execute(update, now)
        return str(now["new"])

    def revealed(self, item: int, rater: int) -> Task | None:
        """The task that waits for the answer after the reveal."""
        query = sa.text(
            "select token from lease where item = :item and rater = :rater and revealed and expires_ms > :now"
        )
        token = self._db.execute(query, {"item": item, "rater": rater, "now": self._now}).scalar()
        return None if token is None else self.task(token)

    def _judgements(self, item: int) -> tuple[dict[str, Any], ...]:
        query = sa.text(
            "select j.question, j.value, r.kind, j.reason from counted_judgement j join rater r on r.id = j.rater "
            "where j.item = :item order by j.seq"
        )
        rows = self._db.execute(query, {"item": item}).mappings()
        return tuple({**row, "value": parsed(row["value"])} for row in rows)
