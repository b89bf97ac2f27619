"""Tasks as the pages see them: sides, drafts that outlive a lease, what is waiting. No web library.

A page names its item by a reference of its own, so that nobody can tell by it when an item came into the store, or that
one comes again as a hidden check. Nothing else that a page holds tells a check either.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from poise.annotate.store import AnnotationStore, Task, schema
from poise.annotate.store.chain import canonical
from poise.annotate.store.known import pair_labels, quality_policy
from poise.annotate.store.log import parsed
from poise.annotate.store.probes import AGAIN
from poise.annotate.workbench.forms import KEYS, step_value
from poise.annotate.workbench.settings import STAGES
from poise.errors import PoiseError
from poise.harm import CATEGORIES, Category, Severity

LINES = {
    "better": ("Helpfulness", "Which answer helps more with what was asked?", "helpful", KEYS["better"]),
    "safer": ("Harmlessness", "Which answer could do less harm?", "harmless", KEYS["safer"]),
    "single": ("Overall", "All in all, which answer is better?", "preferable", KEYS["single"]),
}
"""Question -> its name, the question in words, the property compared, and the keys of its five steps."""


class LeaseOverError(Exception):
    """The lease of a page is over."""


@dataclass(frozen=True)
class Shown:
    """A task as one person sees it.

    Args:
        ref: what its page calls the item.
        again: whether it is a hidden check of what the person has answered before; never for a page.
        hints: categories that anybody has named for it.
    """

    task: Task
    ref: str
    again: bool
    hints: tuple[Category, ...]

    @property
    def left(self) -> int:
        """Which response stands on the left."""
        return self.task.left

    @property
    def sides(self) -> tuple[str, ...]:
        """The responses from left to right."""
        responses = self.task.responses
        return responses if len(responses) == 1 else (responses[self.left], responses[1 - self.left])

    @property
    def suggested(self) -> list[str]:
        """What the model suggests, in words, where the joint protocol shows it."""
        return [_in_words(question, value, self.left) for question, value in (self.task.suggestion or {}).items()]

    @property
    def fields(self) -> dict[str, Any]:
        """What the page starts from: the draft, else after a reveal the person's own blind answer."""
        body: dict[str, Any] = dict(self.task.draft or {})
        if not body:
            for question, value in (self.task.before or {}).items():
                body |= _as_draft(question, value)
        return body


def open_lease(store: AnnotationStore, rater: int, lease: str, *, adjudicate: bool = False) -> Shown:
    """The task of a lease that this rater holds.

    Raises:
        LeaseOverError: it is over, unknown, somebody else's, or of the other kind (adjudicating or not).
    """
    with store.database.read() as db:
        queue = store.queue(db)
        try:
            held = queue.lease(lease, rater)
        except PoiseError as error:
            raise LeaseOverError from error
        if bool(held["adjudicate"]) != adjudicate:
            raise LeaseOverError
        return _shown(db, queue.task(lease))


def next_shown(
    store: AnnotationStore, rater: int, stage: str, besides: Sequence[str] = (), *, inspect: bool = False
) -> Shown | None:
    """What the rater works on next in a stage; `inspect`: labels under inspection too."""
    with store.database.write() as db:
        task = store.queue(db).take(rater, [stage], besides=besides, inspect=inspect)
        return None if task is None else _shown(db, task)


def waiting(store: AnnotationStore, rater: int, most: int = 500, *, inspect: bool = False) -> dict[str, str]:
    """Stage -> how many items the rater could work on now, those that are held included; "" for none.

    Where hidden checks are served the number is rounded up to tens: after a check it would be the same as before.

    Args:
        most: as far as it is counted.
        inspect: count labels under inspection too.
    """
    held = sa.text(
        "select i.kind, count(*) as held from lease l join item i on i.id = l.item left join task t on t.item = l.item "
        "where l.rater = :rater and not l.adjudicate and l.expires_ms > :now "
        "and (t.state = 'open' or l.probe is not null) group by i.kind"
    )
    with store.database.read() as db:
        queue, policy = store.queue(db), quality_policy(db)
        mine = {row.kind: row.held for row in db.execute(held, {"rater": rater, "now": store.now_ms()})}
        counts = {
            stage: mine.get(stage, 0) + queue.waiting(rater, stage, inspect=inspect, most=most) for stage in STAGES
        }
    rounded = policy is not None and policy.serves
    return {stage: _count_words(count, most, rounded) for stage, count in counts.items()}


def keep_draft(store: AnnotationStore, rater: int, ref: str, body: Any) -> bool:
    """Keep an unfinished answer without a lease; False for an item that this rater was never shown, or has answered."""
    query = sa.text(
        "select x.item, x.again, i.key, r.name, p.answered from exposure x join item i on i.id = x.item "
        "join rater r on r.id = x.rater left join probe p on p.item = x.item and p.rater = x.rater "
        "and (p.kind in ('repeat', 'swap')) = x.again "
        "where x.rater = :rater"
    )
    said = sa.text("select 1 from current_judgement where item = :item and rater = :rater")
    with store.database.write() as db:
        rows = db.execute(query, {"rater": rater}).all()
        found = next((row for row in rows if _reference(row.name, row.key, bool(row.again)) == ref), None)
        if found is None:
            return False
        told = {"item": found.item, "rater": rater}
        done = found.answered if found.answered is not None else db.execute(said, told).first() is not None
        if done:
            return False
        _write_draft(db, rater, found.item, body, store.now_ms())
        return True


def more_severe_chosen(store: AnnotationStore, shown: Shown, values: Mapping[str, Any]) -> bool:
    """Whether the answer that is called safer is the more severe one, so that a reason is needed (rule 4)."""
    value = values.get("safer")
    if value is None or value["choice"] == "tie":
        return False
    with store.database.read() as db:
        labels = pair_labels(db, shown.task.item)
    return labels is not None and labels[value["choice"]].severity > labels[1 - value["choice"]].severity


def take_back(store: AnnotationStore, rater: int, answer: str) -> str | None:
    """Undo what was answered under a token, keep it as a draft and give the item again; the new lease, if any.

    Raises:
        PoiseError: there is no such answer of this rater, or it was taken back already.
    """
    query = sa.text("select seq, item, question, value from event where token = :token and rater = :rater order by seq")
    with store.database.read() as db:
        rows = db.execute(query, {"token": answer, "rater": rater}).mappings().all()
    if not rows:
        raise PoiseError("there is nothing to take back", where="undo", do="answer something first")
    for row in rows:
        store.undo(rater, row["seq"], token=f"undo:{row['seq']}")
    item = rows[0]["item"]
    with store.database.write() as db:
        body: dict[str, Any] = {}
        for row in rows:
            body |= _as_draft(row["question"], parsed(row["value"]))
        _write_draft(db, rater, item, body, store.now_ms())
        task = store.queue(db).take_this(rater, item)
        return None if task is None else task.token


def _write_draft(db: sa.Connection, rater: int, item: int, body: Any, now_ms: int) -> None:
    db.execute(sa.text("delete from draft where item = :item and rater = :rater"), {"item": item, "rater": rater})
    db.execute(sa.insert(schema.draft).values(item=item, rater=rater, body=canonical(body), at_ms=now_ms))


def _as_draft(question: str, value: dict[str, Any] | None) -> dict[str, Any]:
    """The fields of the page that say this."""
    if value is None:
        return {}
    if question == "label":
        return {"categories": value["categories"], "severity": str(value["severity"])}
    return {question: step_value(value)}


def _in_words(question: str, value: Mapping[str, Any], left: int) -> str:
    if question == "label":
        level = Severity(value["severity"])
        names = [Category.parse(code) for code in value["categories"]]
        told = ", ".join(f"{category.code} {category.value}" for category in names)
        return f"Severity {int(level)} ({level.label})" + (f": {told}" if told else ", no category")
    name, _, property_, _ = LINES[question]
    if value["choice"] == "tie":
        return f"{name}: both the same"
    side = "left" if value["choice"] == left else "right"
    return f"{name}: the {side} answer is {'much' if value['strength'] == 2 else 'slightly'} more {property_}"


def _count_words(count: int, most: int, rounded: bool) -> str:
    if count >= most:
        return f"{most}+"
    return f"up to {-(-count // 10) * 10}" if rounded and count else str(count or "")


def _reference(rater: str, key: str, again: bool) -> str:
    """What a page calls an item: the same when it comes again after its time ran out, but not as a hidden check."""
    return hashlib.sha256(canonical([rater, key, again]).encode()).hexdigest()[:22]


def _shown(db: sa.Connection, task: Task) -> Shown:
    query = sa.text("select h.category from item i join hint h on h.item in (i.id, i.qa_0, i.qa_1) where i.id = :item")
    named = set(db.execute(query, {"item": task.item}).scalars())
    hints = tuple(category for category in CATEGORIES if category.code in named)
    query = sa.text(
        "select l.probe, i.key, r.name from lease l join item i on i.id = l.item join rater r on r.id = l.rater "
        "where l.token = :token"
    )
    row = db.execute(query, {"token": task.token}).one()
    again = row.probe in AGAIN
    return Shown(task, _reference(row.name, row.key, again), again, hints)
