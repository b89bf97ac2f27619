"""Writing the judgement log: the only place that adds events, raters and editions of the policy."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import sqlalchemy as sa

from poise.annotate.store import schema
from poise.annotate.store.chain import START, Event, canonical
from poise.data.rows import Rater
from poise.errors import PoiseError
from poise.harm import policy_version
from poise.harm.guidelines import guidelines

ORDER = Rater(id="logical-order", kind="rule")
"""The rule that decides "safer" where exactly one response is safe."""
KINDS = ("judge", "import", "adjudicate", "check", "undo")
_MOST_PENDING = 4096
"""Events that are held before they are written."""


@dataclass(frozen=True)
class Entry:
    """What is to be added; the rest of an `Event` follows from the store. Item and rater are given by key.

    `policy` is that of an imported judgement, None for the one in force. See `Event` for the others.
    """

    kind: str
    item: int
    question: str
    rater: int
    token: str
    value: Any = None
    target: int | None = None
    pins: tuple[int, int] | None = None
    reason: str | None = None
    shown: Any = None
    client_ms: int | None = None
    policy: str | None = None


@cache
def guideline_version() -> str:
    """The versions of the guideline pages: one where they are all the same, otherwise the lowest and the highest."""
    versions = sorted({page.version for page in guidelines().values()}, key=lambda v: [int(n) for n in v.split(".")])
    return versions[0] if len(versions) == 1 else f"{versions[0]}..{versions[-1]}"


class Log:
    """Adds to the log inside one writing transaction.

    Args:
        connection: of the transaction, from `Database.write`.
        now_ms: the time of all that is added.
    """

    def __init__(self, connection: sa.Connection, now_ms: int) -> None:
        self.connection, self.now_ms = connection, now_ms
        row = connection.execute(sa.text("select seq, hash from event order by seq desc limit 1")).first()
        self.seq: int = row.seq if row else 0
        self.hash: str = row.hash if row else START
        self._raters: dict[int, tuple[str, str, str]] = {}
        self._pending: list[dict[str, Any]] = []

    def rater(self, rater: Rater) -> int:
        """The key of a rater, who is added when new."""
        named = {"name": rater.id, "kind": rater.kind, "version": rater.version}
        found = self.connection.execute(
            sa.text("select id from rater where name = :name and kind = :kind and version = :version"), named
        ).scalar()
        if found is None:
            found = self.connection.execute(
                sa.insert(schema.rater).values(**named).returning(schema.rater.c.id)
            ).scalar()
        assert found is not None
        self._raters[found] = (rater.id, rater.kind, rater.version)
        return int(found)

    def append(self, entry: Entry) -> int:
        """Add one event; returns its number."""
        seq = self.collect(entry, self._item(entry.item))
        self.flush()
        return seq

    def collect(self, entry: Entry, item: tuple[str, str]) -> int:
        """Add one event that `flush` will write at the latest, with others; `item` is its kind and content hash."""
        event = Event(
            seq=self.seq + 1,
            kind=entry.kind,
            item=item,
            question=entry.question,
            rater=self._rater(entry.rater),
            value=None if entry.value is None else canonical(entry.value),
            target=entry.target,
            pins=None if entry.pins is None else canonical(entry.pins),
            policy=entry.policy or policy_version(),
            guideline=guideline_version(),
            reason=entry.reason,
            shown=None if entry.shown is None else canonical(entry.shown),
            client_ms=entry.client_ms,
            token=entry.token,
            at_ms=self.now_ms,
        )
        link = event.hash(self.hash)
        row = {name: getattr(event, name) for name in Event.__dataclass_fields__}
        self._pending.append(row | {"item": entry.item, "rater": entry.rater, "prev_hash": self.hash, "hash": link})
        self.seq, self.hash = event.seq, link
        if len(self._pending) >= _MOST_PENDING:
            self.flush()
        return event.seq

    def flush(self) -> None:
        """Write what was collected."""
        if self._pending:
            self.connection.execute(sa.insert(schema.event), self._pending)
            self._pending = []

    def note_edition(self) -> None:
        """Keep which pages the policy in force is made of."""
        known = self.connection.execute(
            sa.text("select 1 from edition where policy = :policy"), {"policy": policy_version()}
        ).first()
        if known is None:
            pages = {category.code: page.version for category, page in guidelines().items()}
            self.connection.execute(
                sa.insert(schema.edition).values(policy=policy_version(), guidelines=canonical(pages))
            )

    def _item(self, item: int) -> tuple[str, str]:
        row = self.connection.execute(sa.text("select kind, key from item where id = :item"), {"item": item}).first()
        if row is None:
            raise PoiseError(f"no item {item}", where="annotation store", do="name one that the store gave out")
        return row.kind, row.key

    def _rater(self, rater: int) -> tuple[str, str, str]:
        if rater not in self._raters:
            row = self.connection.execute(
                sa.text("select name, kind, version from rater where id = :rater"), {"rater": rater}
            ).one()
            self._raters[rater] = (row.name, row.kind, row.version)
        return self._raters[rater]


def stored(connection: sa.Connection, token: str) -> dict[str, sa.RowMapping]:
    """Question -> event of a submission that was stored before under this token."""
    rows = connection.execute(sa.text("select * from event where token = :token order by seq"), {"token": token})
    return {row["question"]: row for row in rows.mappings()}


def undo_entry(connection: sa.Connection, seq: int, rater: int, token: str, reason: str | None) -> Entry:
    """The event that takes back an earlier one.

    Raises:
        PoiseError: there is no such event, it is an undo, is somebody else's, or was taken back already.
    """
    row = connection.execute(sa.text("select * from event where seq = :seq"), {"seq": seq}).mappings().first()
    where, do = f"event {seq}", "undo one of your own answers, once"
    if row is None:
        raise PoiseError("no such event", where=where, do=do)
    if row["kind"] == "undo":
        raise PoiseError("this is an undo; answer again instead", where=where, do=do)
    if row["rater"] != rater:
        raise PoiseError("somebody else's answer", where=where, do=do)
    if connection.execute(sa.text("select 1 from event where target = :seq"), {"seq": seq}).first():
        raise PoiseError("it was taken back already", where=where, do=do)
    base = Entry("undo", row["item"], row["question"], rater, token, target=seq)
    return replace(base, reason=reason)


def parsed(text: str | None) -> Any:
    """The value of a JSON text; None stays None."""
    return None if text is None else json.loads(text)
