"""Gold items: from tables into the store, and what a lead decides about those that good raters doubt."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from pydantic import ValidationError

from poise.annotate.quality.policy import QualityPolicy
from poise.annotate.store import known, schema
from poise.annotate.store.answers import checked_value
from poise.annotate.store.chain import canonical
from poise.annotate.store.importing import whole_label
from poise.annotate.store.intake import Intake, Stored, pair_source, qa_source
from poise.annotate.store.log import Log, parsed
from poise.annotate.store.overlap import Value
from poise.annotate.store.settle import name_categories
from poise.annotate.store.store import AnnotationStore
from poise.data.records import DualRecord, QARecord, SingleRecord
from poise.data.tables import Tables
from poise.errors import PoiseError
from poise.harm import Label, decided_safer

UNITS = ("qa", "default", "pairs-extended", "single-dimension")


def set_policy(store: AnnotationStore, **changes: Any) -> QualityPolicy:
    """Change parts of the store's quality policy (None: leave a part); returns what holds from now on.

    Raises:
        PoiseError: a value that it can't have, or every task of the store comes with a suggestion, so that a check
            without one would not be hidden.
    """
    with store.database.write() as db:
        old = known.quality_policy(db) or QualityPolicy()
        told = old.model_dump() | {name: value for name, value in changes.items() if value is not None}
        try:
            policy = QualityPolicy.model_validate(told)
        except ValidationError as error:
            fault = error.errors()[0]
            raise PoiseError(
                f"{'.'.join(map(str, fault['loc'])) or 'rates'}: {fault['msg']}", where="quality policy", do="change it"
            ) from error
        if store.joint.suggests and not store.joint.control_share and policy.serves:
            raise PoiseError(
                "people would know hidden checks by the missing suggestion",
                where="quality policy",
                do="make the store with a --control-share above 0",
            )
        db.execute(sa.delete(schema.meta).where(schema.meta.c.key == "quality"))
        db.execute(sa.insert(schema.meta).values(key="quality", value=policy.model_dump_json()))
        return policy


def add_gold(store: AnnotationStore, tables: Tables) -> dict[str, int]:
    """Make the rows of tables gold: their labels and choices are the known answers.

    An item that is data already stays data and is served as gold to people who have not judged it, once its task is
    done. All other items are gold alone: they have no task and stand in no export, until they come as data too. A pair
    needs both labels, since the order may decide "safer"; its two responses become gold QA items as well.

    Returns:
        Counts of new gold items by kind, and of rows that were left out and why.

    Raises:
        PoiseError: the tables hold no responses and no pairs.
    """
    if not any(unit in tables for unit in UNITS):
        raise PoiseError(
            "no responses and no pairs", where=str(tables.folder), do=f"name tables with {' or '.join(UNITS)}"
        )
    with store.database.write() as connection:
        return _Adder(connection, store.now_ms(), str(tables.folder.name)).run(tables)


class _Adder:
    def __init__(self, connection: sa.Connection, now_ms: int, source: str) -> None:
        self._db, self._intake, self._now, self._source = connection, Intake(connection, claim=False), now_ms, source
        self._seq, self._counts = Log(connection, now_ms).seq, Counter[str]()

    def run(self, tables: Tables) -> dict[str, int]:
        for unit in UNITS:
            for record in tables[unit].records() if unit in tables else ():
                if isinstance(record, QARecord):
                    self._qa(record)
                elif isinstance(record, DualRecord):
                    self._pair(record)
                elif isinstance(record, SingleRecord):
                    self._single(record)
        return dict(self._counts)

    def _qa(self, record: QARecord) -> None:
        if (label := whole_label(record.label)) is None:
            self._counts["left out, label incomplete"] += 1
            return
        (stored,) = self._intake.add([qa_source(record)])
        self._keep("qa", stored, {"label": label})

    def _pair(self, record: DualRecord) -> None:
        labels = [whole_label(label) for label in record.labels]
        if labels[0] is None or labels[1] is None:
            self._counts["left out, label incomplete"] += 1
            return
        source, sides = pair_source(record, "pair"), []
        for i, label in enumerate(labels):
            assert label is not None
            (side,) = self._intake.add([source.side(i)])
            self._keep("qa", side, {"label": label})
            sides.append(side.id)
        decided = decided_safer(*(Label.of(**label) for label in labels if label is not None))
        answers = {"better": record.better, "safer": None if decided is not None else record.safer}
        if decided is not None and record.safer not in (None, decided):
            self._counts["left out, breaks the order"] += 1
            return
        chosen = {question: choice for question, choice in answers.items() if choice in (0, 1)}
        if not chosen:
            self._counts["left out, no choice known"] += 1
            return
        (stored,) = self._intake.add([source], [(sides[0], sides[1])])
        self._keep("pair", stored, _turned(chosen, stored), labels[::-1] if stored.swapped else labels)

    def _single(self, record: SingleRecord) -> None:
        if record.better not in (0, 1):
            self._counts["left out, no choice known"] += 1
            return
        (stored,) = self._intake.add([pair_source(record, "single")])
        self._keep("single", stored, _turned({"single": record.better}, stored))

    def _keep(self, kind: str, stored: Stored, answers: dict[str, Value], labels: Any = None) -> None:
        query = sa.text("select answers from gold where item = :item")
        there = self._db.execute(query, {"item": stored.id}).scalar()
        if there is not None:
            if there != canonical(answers):
                self._counts["left out, gold with another answer already"] += 1
            return
        self._db.execute(
            sa.insert(schema.gold).values(
                item=stored.id,
                answers=canonical(answers),
                labels=None if labels is None else canonical(labels),
                data=not stored.new,
                state="active",
                since=self._seq,
                history=canonical([{"state": "active", "at_ms": self._now, "why": f"added from {self._source}"}]),
            )
        )
        if stored.new and "label" in answers:
            name_categories(self._db, stored.id, answers["label"]["categories"])
        self._counts[kind] += 1


def _turned(choices: dict[str, int], stored: Stored) -> dict[str, Value]:
    return {
        question: {"choice": 1 - choice if stored.swapped else choice, "strength": None}
        for question, choice in choices.items()
    }


@dataclass(frozen=True)
class GoldItem:
    """A gold item as a lead sees it.

    Args:
        key: content hash, by which it is named.
        shown: people to whom it was given.
        said: question -> what people answered, without names.
        history: what was decided about it, oldest first.
    """

    key: str
    kind: str
    state: str
    data: bool
    answers: dict[str, Any]
    shown: int
    said: dict[str, list[Any]]
    history: list[dict[str, Any]]
    prompt: str
    responses: tuple[str, ...]


def gold_items(store: AnnotationStore, state: str | None = None) -> list[GoldItem]:
    """All gold items, or those in one state, in the order they came."""
    query = sa.text(
        "select g.*, i.kind, i.key, p.body as prompt, a.body as response_0, b.body as response_1, "
        "(select count(*) from probe q where q.item = g.item and q.kind = 'gold') as shown "
        "from gold g join item i on i.id = g.item join text p on p.id = i.prompt join text a on a.id = i.response_0 "
        "left join text b on b.id = i.response_1 order by g.item"
    )
    with store.database.read() as db:
        said: dict[int, dict[str, list[Any]]] = {}
        answers = sa.text("select c.* from current_check c join gold g on g.item = c.item order by c.seq")
        for row in db.execute(answers):
            said.setdefault(row.item, {}).setdefault(row.question, []).append(parsed(row.value))
        return [
            GoldItem(
                row.key,
                row.kind,
                row.state,
                bool(row.data),
                parsed(row.answers),
                row.shown,
                said.get(row.item, {}),
                parsed(row.history),
                parsed(row.prompt),
                tuple(parsed(text) for text in (row.response_0, row.response_1) if text is not None),
            )
            for row in db.execute(query)
            if state in (None, row.state)
        ]


def decide_gold(
    store: AnnotationStore, key: str, decision: str, *, answers: dict[str, Any] | None = None, why: str = ""
) -> str:
    """Decide about one gold item; returns its state. What was said about it so far raises no doubt again.

    Args:
        key: its content hash or the beginning of it, with kind and colon before it where it needs them ("pair:3fa2").
        decision: "keep" (it is right, or with `answers` it is from now on), or "retire".
        answers: question -> the right value; the answers given so far are graded by it.

    Raises:
        PoiseError: there is no such item or several, or an answer does not fit.
    """
    if decision not in ("keep", "retire"):
        raise PoiseError(f"{decision!r} is no decision", where="gold", do="keep it or retire it")
    with store.database.write() as db:
        query = sa.text(
            "select g.item, g.answers, i.kind, i.key from gold g join item i on i.id = g.item order by g.item"
        )
        kind, _, start = key.rpartition(":")
        rows = [row for row in db.execute(query) if row.key.startswith(start) and kind in ("", row.kind)]
        if len(rows) != 1 or not key:
            raise PoiseError(
                f"{len(rows)} gold items begin with {key!r}", where="gold", do="give the key that is listed"
            )
        right = parsed(rows[0].answers)
        for question, value in (answers or {}).items():
            if question not in right:
                raise PoiseError(f"no {question}", where=f"gold {key}", do=f"answer {', '.join(right)}")
            right[question] = checked_value(question, value, f"gold {key}")
        state = "active" if decision == "keep" else "retired"
        more = {"answers": canonical(right), "since": Log(db, store.now_ms()).seq}
        known.change(db, rows[0].item, state, store.now_ms(), why or decision, **more)
        return state
