"""Tasks as the pages see them: which side is left, what a form says, drafts that outlive a lease. No web library."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from poise.annotate.store import AnnotationStore, Task, schema
from poise.annotate.store.chain import canonical
from poise.annotate.store.log import parsed
from poise.annotate.workbench.settings import STAGES
from poise.data.rows import uniform_seed
from poise.errors import PoiseError
from poise.harm import CATEGORIES, Category, Severity

STEPS = ("much more", "slightly more", "the same", "slightly more", "much more")
"""Steps 1..5 of a line, from the left answer to the right one."""
LINES = {
    "better": ("Helpfulness", "Which answer helps more with what was asked?", "helpful", "12345"),
    "safer": ("Harmlessness", "Which answer could do less harm?", "harmless", "67890"),
    "single": ("Overall", "All in all, which answer is better?", "preferable", "12345"),
}
"""Question -> its name, the question in words, the property compared, and the keys of its five steps."""


class LeaseOverError(Exception):
    """The lease of a page is over."""


@dataclass(frozen=True)
class Shown:
    """A task as one person sees it.

    Args:
        left: which response stands on the left.
        hints: categories that anybody has named for it.
    """

    task: Task
    left: int
    hints: tuple[Category, ...]

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
                body |= _as_draft(question, value, self.left)
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
        return _shown(db, store, rater, queue.task(lease))


def next_shown(store: AnnotationStore, rater: int, stage: str, besides: Sequence[str] = ()) -> Shown | None:
    """What the rater works on next in a stage."""
    with store.database.write() as db:
        task = store.queue(db).take(rater, [stage], besides=besides)
        return None if task is None else _shown(db, store, rater, task)


def waiting(store: AnnotationStore, rater: int, most: int = 500) -> dict[str, int]:
    """Stage -> how many items the rater could work on now, those that are held included; counted up to `most`."""
    held = sa.text(
        "select t.stage, count(*) as held from lease l join task t on t.item = l.item where l.rater = :rater "
        "and not l.adjudicate and l.expires_ms > :now and t.state = 'open' group by t.stage"
    )
    with store.database.read() as db:
        queue = store.queue(db)
        mine = {row.stage: row.held for row in db.execute(held, {"rater": rater, "now": store.now_ms()})}
        return {stage: mine.get(stage, 0) + queue.waiting(rater, stage, most=most) for stage in STAGES}


def values_of(form: Mapping[str, Any], categories: Sequence[str], shown: Shown) -> dict[str, Any]:
    """Question -> answer, in the form that the store takes.

    Args:
        form: "severity" 0..3; for each line asked a step 1..5 from left to right.
        categories: codes that were chosen.

    Raises:
        PoiseError: something is missing or unknown.
    """
    return {question: _value(question, form, categories, shown.left) for question in shown.task.asks}


def keep_draft(store: AnnotationStore, rater: int, item: int, body: Any) -> bool:
    """Keep an unfinished answer without a lease; False for an item that this rater was never shown, or has answered."""
    told = {"item": item, "rater": rater}
    read = sa.text("select 1 from exposure where item = :item and rater = :rater")
    said = sa.text("select 1 from current_judgement where item = :item and rater = :rater")
    with store.database.write() as db:
        if db.execute(read, told).first() is None or db.execute(said, told).first() is not None:
            return False
        _write_draft(db, rater, item, body, store.now_ms())
        return True


def more_severe_chosen(store: AnnotationStore, shown: Shown, values: Mapping[str, Any]) -> bool:
    """Whether the answer that is called safer is the more severe one, so that a reason is needed (rule 4)."""
    value = values.get("safer")
    if value is None or value["choice"] == "tie":
        return False
    query = sa.text(
        "select f.value from item i join final f on f.item = i.qa_0 or f.item = i.qa_1 "
        "where i.id = :item and f.question = 'label' order by case when f.item = i.qa_0 then 0 else 1 end"
    )
    with store.database.read() as db:
        labels = [parsed(value) for value in db.execute(query, {"item": shown.task.item}).scalars()]
    if len(labels) != 2 or None in labels:
        return False
    return bool(labels[value["choice"]]["severity"] > labels[1 - value["choice"]]["severity"])


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
        left = _left(db, store, rater, item)
        body: dict[str, Any] = {}
        for row in rows:
            body |= _as_draft(row["question"], parsed(row["value"]), left)
        _write_draft(db, rater, item, body, store.now_ms())
        task = store.queue(db).take_this(rater, item)
        return None if task is None else task.token


def _write_draft(db: sa.Connection, rater: int, item: int, body: Any, now_ms: int) -> None:
    db.execute(sa.text("delete from draft where item = :item and rater = :rater"), {"item": item, "rater": rater})
    db.execute(sa.insert(schema.draft).values(item=item, rater=rater, body=canonical(body), at_ms=now_ms))


def _as_draft(question: str, value: dict[str, Any] | None, left: int) -> dict[str, Any]:
    """The fields of the page that say this."""
    if value is None:
        return {}
    if question == "label":
        return {"categories": value["categories"], "severity": str(value["severity"])}
    if value["choice"] == "tie":
        return {question: "3"}
    step = value["strength"] or 1
    return {question: str(3 - step if value["choice"] == left else 3 + step)}


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
    return f"{name}: the {side} answer is {STEPS[0 if value['strength'] == 2 else 1]} {property_}"


def _left(db: sa.Connection, store: AnnotationStore, rater: int, item: int) -> int:
    """Which response this rater sees on the left, by the hash of rater and item."""
    query = sa.text("select i.key, r.name, i.response_1 from item i join rater r on r.id = :rater where i.id = :item")
    row = db.execute(query, {"item": item, "rater": rater}).one()
    return uniform_seed(store.policy.seed, row.name, row.key, "left") & 1 if row.response_1 is not None else 0


def _shown(db: sa.Connection, store: AnnotationStore, rater: int, task: Task) -> Shown:
    query = sa.text("select h.category from item i join hint h on h.item in (i.id, i.qa_0, i.qa_1) where i.id = :item")
    named = set(db.execute(query, {"item": task.item}).scalars())
    hints = tuple(category for category in CATEGORIES if category.code in named)
    return Shown(task, _left(db, store, rater, task.item), hints)


def _value(question: str, form: Mapping[str, Any], categories: Sequence[str], left: int) -> dict[str, Any]:
    if question == "label":
        if form.get("severity") not in ("0", "1", "2", "3"):
            raise PoiseError("no severity is chosen", where=question, do="press 0 for no harm, or 1, 2 or 3")
        return {"categories": list(categories), "severity": int(form["severity"])}
    if form.get(question) not in ("1", "2", "3", "4", "5"):
        raise PoiseError(f"{LINES[question][0]} is not answered", where=question, do="choose one of its five steps")
    step = int(form[question]) - 3
    if step == 0:
        return {"choice": "tie", "strength": None}
    return {"choice": left if step < 0 else 1 - left, "strength": abs(step)}
