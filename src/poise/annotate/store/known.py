"""Gold items: what is known about them, how answers compare, and when good raters put a known answer in doubt.

A gold item that is no data is *hidden*: it has no task, nothing stands about it, and it is in no export. What the
logical order decides about a hidden pair follows from the labels that are known, not from those that stand.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any, NamedTuple

import sqlalchemy as sa

from poise.annotate.quality.gold import Doubt, Grade, Tally, doubted, grade
from poise.annotate.quality.policy import QualityPolicy
from poise.annotate.store import schema
from poise.annotate.store.chain import canonical
from poise.annotate.store.log import parsed
from poise.annotate.store.settle import BY_ORDER
from poise.harm import Label, decided_safer

_LABELS = """
select f.value from item i join final f on f.item = i.qa_0 or f.item = i.qa_1
where i.id = :item and f.question = 'label' order by case when f.item = i.qa_0 then 0 else 1 end
"""
_GRADED = """
select c.rater, c.question, c.value, g.answers, g.state from current_check c join gold g on g.item = c.item
join rater r on r.id = c.rater left join probe p on p.item = c.item and p.rater = c.rater
where g.state <> 'retired' and (p.kind = 'gold' or r.kind <> 'person') {only} order by c.seq
"""
_SINCE = """
select c.rater, c.question, c.value from current_check c
join probe p on p.item = c.item and p.rater = c.rater and p.kind = 'gold'
where c.item = :item and c.seq > :since order by c.seq
"""


class Graded(NamedTuple):
    """An answer to a gold item: what is known and what was given; `doubted` where the item is under review."""

    rater: int
    known: dict[str, Any]
    given: dict[str, Any] | None
    doubted: bool

    @property
    def grade(self) -> Grade:
        """How it compares."""
        return grade(self.known, self.given)


def quality_policy(db: sa.Connection) -> QualityPolicy | None:
    """The policy of the store, None where no checks are served."""
    text = db.execute(sa.text("select value from meta where key = 'quality'")).scalar()
    return None if text is None else QualityPolicy.model_validate_json(text)


def hidden(db: sa.Connection, item: int) -> sa.RowMapping | None:
    """The gold row of an item that is no data, None for all others."""
    query = sa.text("select answers, labels from gold where item = :item and not data")
    return db.execute(query, {"item": item}).mappings().first()


def gold_labels(row: sa.RowMapping) -> tuple[Label, Label] | None:
    """The known labels of a hidden pair."""
    told = parsed(row["labels"])
    return None if told is None else (Label.of(**told[0]), Label.of(**told[1]))


def pair_labels(db: sa.Connection, item: int) -> tuple[Label, Label] | None:
    """The labels of a pair as its pages go by them: those known of a hidden one, else those that stand."""
    if (gold := hidden(db, item)) is not None:
        return gold_labels(gold)
    labels = [parsed(value) for value in db.execute(sa.text(_LABELS), {"item": item}).scalars()]
    if len(labels) != 2 or None in labels:
        return None
    first, second = (Label.of(**label) for label in labels)
    return first, second


def locked(db: sa.Connection, item: int) -> dict[str, dict[str, Any]]:
    """What the logical order decides about an item, as a page shows it."""
    if (gold := hidden(db, item)) is not None:
        labels = gold_labels(gold)
        decided = None if labels is None else decided_safer(*labels)
        return {} if decided is None else {"safer": {"choice": decided, "strength": None, "reason": BY_ORDER}}
    query = sa.text("select question, value from final where item = :item and source = 'order'")
    rows = db.execute(query, {"item": item}).mappings()
    return {row["question"]: {**parsed(row["value"]), "reason": BY_ORDER} for row in rows}


def review(db: sa.Connection, item: int, now_ms: int) -> None:
    """Send a gold item to review where good raters doubt its answer: it is served no more and counts for nobody."""
    policy = quality_policy(db) or QualityPolicy()
    query = sa.text("select answers, since from gold where item = :item and state = 'active'")
    if (gold := db.execute(query, {"item": item}).mappings().first()) is None:
        return
    said = db.execute(sa.text(_SINCE), {"item": item, "since": gold["since"]}).all()
    for question, known in parsed(gold["answers"]).items():
        rows = [row for row in said if row.question == question]
        grades = [(row.rater, grade(known, parsed(row.value))) for row in rows]
        if all(found == "exact" for _, found in grades):
            continue
        doubts = [Doubt(found, _others(db, rater, item)) for rater, found in grades]
        if doubted(doubts, policy):
            good = [parsed(row.value) for row, doubt in zip(rows, doubts, strict=True) if doubt.others.good(policy)]
            change(db, item, "review", now_ms, {"question": question, "good raters said": good})
            return


def graded(db: sa.Connection, only: str = "", **told: int) -> list[Graded]:
    """The answers to gold items that are not retired, in the order of the log; those of models to hidden ones too.

    Args:
        only: a condition in SQL on the answer `c`, with its parameters in `told`.
    """
    rows = db.execute(sa.text(_GRADED.format(only=only)), told).all()
    known = [(row, parsed(row.answers).get(row.question)) for row in rows]
    return [
        Graded(row.rater, answer, parsed(row.value), row.state == "review")
        for row, answer in known
        if answer is not None
    ]


def tallies(db: sa.Connection) -> dict[int, Tally]:
    """Rater -> grades on gold items that nobody doubts."""
    grades: dict[int, list[Grade]] = defaultdict(list)
    for one in graded(db):
        if not one.doubted:
            grades[one.rater].append(one.grade)
    return {rater: Tally.of(found) for rater, found in grades.items()}


def change(db: sa.Connection, item: int, state: str, now_ms: int, why: Any, **more: Any) -> None:
    """Put a gold item into another state and note it in its history."""
    history = parsed(db.execute(sa.text("select history from gold where item = :item"), {"item": item}).scalar())
    history.append({"state": state, "at_ms": now_ms, "why": why})
    table = schema.gold
    values = {"state": state, "history": canonical(history)} | more
    db.execute(sa.update(table).where(table.c.item == item).values(**values))


def _others(db: sa.Connection, rater: int, item: int) -> Tally:
    """A person's grades on all other gold items that nobody doubts."""
    found = graded(db, "and c.rater = :rater and c.item <> :item", rater=rater, item=item)
    return Tally.of(one.grade for one in found if not one.doubted)
