"""The judgement log as a chain: every event carries the hash of the one before, so that a change shows.

    hash = SHA-256(hash of the event before + the event as canonical JSON)

What is hashed names items by their content hash and raters by name, kind and version, never by a key of the database:
the same events give the same hashes in SQLite and in PostgreSQL. Cutting off the end of the log leaves a shorter chain
that is whole; it shows only against a hash that was noted before (`verify(..., head=)`).
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from poise.data.corpus import canonical_json

START = "0" * 64
"""What stands before the first event."""


@dataclass(frozen=True)
class Event:
    """One entry of the log.

    Args:
        seq: its number, from 1 without gaps.
        kind: "judge", "import" (a judgement made elsewhere), "adjudicate", "check" (the answer to a hidden check, of
            which nothing is made) or "undo".
        item: kind and content hash of the item.
        question: "label", "safe", "better", "safer" or "single".
        rater: name, kind and version.
        value: JSON text; None is unjudged, never safe.
        target: the event that an "undo" takes back.
        pins: JSON list of the versions of the two QA labels that a "safer" rests on.
        policy, guideline: hash of the written policy and version of its pages.
        reason: why; must stand where the more severe response is called safer.
        shown: JSON of what was shown before the answer, None when nothing was: see `showing.Showing.recorded`.
        client_ms: how long the rater looked at it, by the rater's own clock.
        token: names the submission; the same token never makes a second event.
        at_ms: when it was stored, milliseconds since 1970 UTC.
    """

    seq: int
    kind: str
    item: tuple[str, str]
    question: str
    rater: tuple[str, str, str]
    value: str | None
    target: int | None
    pins: str | None
    policy: str
    guideline: str
    reason: str | None
    shown: str | None
    client_ms: int | None
    token: str
    at_ms: int

    def hash(self, prev_hash: str) -> str:
        """The event's link in the chain, 64 hex digits."""
        return hashlib.sha256((prev_hash + canonical_json(vars(self))).encode()).hexdigest()


@dataclass(frozen=True)
class Checked:
    """What `verify` found.

    Args:
        events: in the log.
        head: hash of the last event; note it somewhere else to see later that nothing was cut off.
        fault: the first thing that is wrong, None when the log is whole.
    """

    events: int
    head: str
    fault: str | None = None


def canonical(value: object) -> str:
    """JSON text with sorted keys, on one line: equal values, equal bytes."""
    return canonical_json(_sorted(value))


def _sorted(value: object) -> object:
    if isinstance(value, dict):
        return {str(key): _sorted(value[key]) for key in sorted(value, key=str)}
    return [_sorted(inner) for inner in value] if isinstance(value, list | tuple) else value


_EVENTS = """
select e.seq, e.kind, e.question, e.value, e.target, e.pins, e.policy, e.guideline, e.reason, e.shown, e.client_ms,
    e.token, e.at_ms, e.prev_hash, e.hash, i.kind as item_kind, i.key as item_key,
    r.name as rater_name, r.kind as rater_kind, r.version as rater_version
from event e left join item i on i.id = e.item left join rater r on r.id = e.rater order by e.seq
"""


def verify(connection: sa.Connection, head: str | None = None) -> Checked:
    """Walk the chain from its start, then check that every item is still made of the texts it is named by.

    On SQLite the file itself is checked first: pages, indexes and foreign keys.

    Args:
        head: a hash noted earlier, which must still stand in the chain.
    """
    if connection.dialect.name == "sqlite" and (broken := _broken_file(connection)) is not None:
        return Checked(0, START, broken)
    count, last, seen_head = 0, START, head in (None, START)
    for row in connection.execution_options(yield_per=2000).execute(sa.text(_EVENTS)).mappings():
        if row["seq"] != count + 1:
            return Checked(count, last, f"event {count + 1} is missing")
        if row["prev_hash"] != last:
            return Checked(count, last, f"event {row['seq']} does not follow the one before")
        if _event(row).hash(last) != row["hash"]:
            return Checked(count, last, f"event {row['seq']} was changed")
        count, last = row["seq"], row["hash"]
        seen_head = seen_head or last == head
    if not seen_head:
        return Checked(count, last, f"no event has the hash {head}: the end of the log was cut off or replaced")
    return Checked(count, last, _changed_item(connection))


def _broken_file(connection: sa.Connection) -> str | None:
    """What SQLite finds wrong with its own file; PostgreSQL looks after its pages and keys by itself."""
    found = connection.exec_driver_sql("pragma integrity_check(1)").scalar()
    if found != "ok":
        return f"the file is damaged ({' '.join(str(found).split())})"
    row = connection.exec_driver_sql("pragma foreign_key_check").first()
    return None if row is None else f"a row of {row[0]} names a row of {row[2]} that is not there"


def _event(row: sa.RowMapping) -> Event:
    names = ("seq", "kind", "question", "value", "target", "pins", "policy", "guideline", "reason", "shown")
    return Event(
        **{name: row[name] for name in names},
        item=(row["item_kind"], row["item_key"]),
        rater=(row["rater_name"], row["rater_kind"], row["rater_version"]),
        client_ms=row["client_ms"],
        token=row["token"],
        at_ms=row["at_ms"],
    )


_ITEMS = """
select i.id, i.kind, i.key, i.record, p.body as prompt, a.body as response_0, b.body as response_1
from item i join text p on p.id = i.prompt join text a on a.id = i.response_0
left join text b on b.id = i.response_1 order by i.id
"""


def _changed_item(connection: sa.Connection) -> str | None:
    for row in connection.execution_options(yield_per=2000).execute(sa.text(_ITEMS)).mappings():
        record = json.loads(row["record"])
        texts = [row[name] for name in ("response_0", "response_1") if row[name] is not None]
        if item_key(record.get("turns"), record.get("image"), row["prompt"], *texts) != row["key"]:
            return f"{row['kind']} {row['key'][:12]} has another text than it was judged by"
    return None


def item_key(turns: Any, image: str | None, prompt: str, *responses: str) -> str:
    """The content hash of an item, from the conversation and the texts as JSON strings, the response ids in order."""
    parts = [canonical([turns or [], image]), prompt, *responses]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
