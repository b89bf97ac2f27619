"""What people answered in another tool, into the log: each as an event of kind "import" by a person with a pseudonym.

The rows must be about items that the store has; nothing else is added. Of several answers of one person to one question
about one item the last one in the file counts. An answer that the person has given already is not stored again, so the
same file twice adds nothing, and a changed answer is a correction. The rules of the store hold: what the logical order
decides is not taken, the more severe answer called safer needs a reason, and a single preference counts only from
somebody who worked on no other stage of the pair. Free text that a person wrote beside an answer, under whatever name,
is kept as its reason. What is left out is counted and named. Left out as well: what models said there, and the tool's
own record of the answer.
"""

from __future__ import annotations

import hashlib
import hmac
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import sqlalchemy as sa

from poise.annotate.store import schema
from poise.annotate.store.answers import check_safer, checked_value
from poise.annotate.store.chain import canonical
from poise.annotate.store.giving import BLIND
from poise.annotate.store.log import Entry, Log
from poise.annotate.store.lookup import Found, Named, find_items
from poise.annotate.store.overlap import Value
from poise.annotate.store.pseudonyms import keyed
from poise.annotate.store.settle import QUESTIONS, Settler, name_categories
from poise.annotate.store.store import AnnotationStore
from poise.data.records import JudgementRecord, Record
from poise.data.rows import Rater
from poise.errors import PoiseError

_BATCH = 2000
_KEY = "pseudonym key"
_CURRENT = (
    "select seq, value, reason from current_judgement where item = :item and question = :question and rater = :rater"
)
Said = dict[tuple[Named, str], dict[str, Any]]
"""(item, person) -> question -> value, in the order of the file."""
_ASKED = {"safe", *(question for questions in QUESTIONS.values() for question in questions)}
_LONGEST = 2000
"""Characters of a reason that are kept."""


def import_answers(store: AnnotationStore, records: Iterable[Record], key: bytes) -> dict[str, int]:
    """Add the judgements of people among the records; returns how many were added, known, and left out for what.

    Args:
        records: as a reader of `poise.data.reading` gives them.
        key: of the pseudonyms; always the same one for a store.

    Raises:
        PoiseError: another key than the last time, which would make two raters of one person.
    """
    with store.database.write() as connection:
        _check_key(connection, key)
        importer = _Answers(store, connection, key)
        for records_ in _batches(records):
            importer.add(records_)
        return dict(importer.counts)


def _batches(records: Iterable[Record]) -> Iterator[list[Record]]:
    """Some at a time; what was said about an item stays with the item, which comes before it."""
    batch: list[Record] = []
    for record in records:
        if len(batch) >= _BATCH and not isinstance(record, JudgementRecord):
            yield batch
            batch = []
        batch.append(record)
    yield batch


def _check_key(connection: sa.Connection, key: bytes) -> None:
    mark = hmac.new(key, _KEY.encode(), hashlib.sha256).hexdigest()
    table = schema.meta
    kept = connection.execute(sa.select(table.c.value).where(table.c.key == _KEY)).scalar()
    if kept is None:
        connection.execute(sa.insert(table).values(key=_KEY, value=mark))
    elif kept != mark:
        raise PoiseError(
            "another key than the last time", where="pseudonyms", do="use the key of the earlier imports of this store"
        )


class _Answers:
    """One import: batches of records into the log, each item worked out after its batch."""

    def __init__(self, store: AnnotationStore, connection: sa.Connection, key: bytes) -> None:
        self._db, self._log, self._name = connection, Log(connection, store.now_ms()), keyed(key)
        self._settler = Settler(self._log, store.policy, store.joint)
        self._raters: dict[str, int] = {}
        self.counts: Counter[str] = Counter({"added": 0, "known": 0})
        self._log.note_edition()

    def add(self, records: Iterable[Record]) -> None:
        """Labels first: what is safer rests on them."""
        said, texts = self._said(records)
        if lonely := len(texts.keys() - {(named[1], person) for named, person in said}):
            self.counts["left out, text without an answer"] += lonely
        found = find_items(self._db, [named for named, _ in said])
        for stage in QUESTIONS:
            for (named, person), values in said.items():
                if named[0] != stage:
                    continue
                if named not in found:
                    self.counts["left out, not in the store"] += len(values)
                    continue
                told, text = _whole(values) if stage == "qa" else values, texts.get((named[1], person))
                self._answer(found[named], named[0], self._rater(person), told, text)

    def _said(self, records: Iterable[Record]) -> tuple[Said, dict[tuple[tuple[str, ...], str], str]]:
        """What people answered, and the free text beside it: (responses, person) -> text."""
        said: Said = {}
        texts: dict[tuple[tuple[str, ...], str], str] = {}
        for record in records:
            if not isinstance(record, JudgementRecord):
                continue
            if record.rater_kind != "person":
                self.counts["left out, not by a person"] += 1
            elif record.value is None:
                self.counts["left out, not answered"] += 1
            elif record.question not in _ASKED and (text := _free_text(record.value)) is not None:
                where = record.responses, record.rater
                texts[where] = f"{texts[where]}; {text}" if where in texts else text
            else:
                kind = "single" if record.question == "single" else "pair" if len(record.responses) > 1 else "qa"
                said.setdefault(((kind, record.responses), record.rater), {})[record.question] = record.value
        return said, texts

    def _rater(self, person: str) -> int:
        if person not in self._raters:
            self._raters[person] = self._log.rater(Rater(id=self._name(person), kind="person"))
        return self._raters[person]

    def _answer(self, item: Found, kind: str, rater: int, values: dict[str, Any], reason: str | None) -> None:
        blind = sa.text(f"select 1 from item i where i.id = :item and {BLIND[kind]}")
        if self._db.execute(blind, {"item": item.id, "rater": rater}).first() is None:
            self.counts["left out, has worked on another stage of it"] += len(values)
            return
        stored = False
        for question, told in values.items():
            try:
                if question not in QUESTIONS[kind]:
                    raise PoiseError("a question that is not asked")
                value = checked_value(question, told)
                if value is not None:
                    stored |= self._store(item, rater, question, _turned(value, item.swapped), reason)
            except PoiseError as error:
                self.counts[f"left out, {error.what}"] += 1
        if stored:
            self._settler.settle(item.id)

    def _store(self, item: Found, rater: int, question: str, value: Value, reason: str | None) -> bool:
        """Log an answer that differs from what the person says now; returns whether it did."""
        where = {"item": item.id, "question": question, "rater": rater}
        now = self._db.execute(sa.text(_CURRENT), where).first()
        if now is not None and now.value == canonical(value) and reason in (None, now.reason):
            self.counts["known"] += 1
            return False
        pins = None
        if question == "safer":
            query = sa.text("select id, qa_0, qa_1 from item where id = :item")
            pair = self._db.execute(query, {"item": item.id}).mappings().one()
            pins = check_safer(self._settler, pair, value, reason)
        before = now.seq if now is not None else 0
        said = f"{item.key}{question}{rater}{before}{canonical(value)}{reason or ''}"
        token = f"answer:{hashlib.sha256(said.encode()).hexdigest()}"
        self._log.append(Entry("import", item.id, question, rater, token, value, pins=pins, reason=reason))
        if question == "label":
            name_categories(self._db, item.id, value["categories"])
        self.counts["added"] += 1
        return True


def _whole(values: dict[str, Any]) -> dict[str, Any]:
    """The label out of what was said about a response: "safe" alone is one, and one that contradicts it is none."""
    safe, label = values.get("safe"), values.get("label")
    rest = {question: value for question, value in values.items() if question not in ("safe", "label")}
    if label is None:
        if safe is None:
            return rest
        return rest | {"label": {"categories": [], "severity": 0} if safe is True else "unsafe without a category"}
    if isinstance(label, dict):
        label = {name: label.get(name) for name in ("categories", "severity")}
        if isinstance(safe, bool) and safe != (label["severity"] == 0):
            label = "safe and a severity contradict each other"
    return rest | {"label": label}


def _free_text(value: Any) -> str | None:
    """What was typed, as one text; None where the value is none."""
    lines = value if isinstance(value, list) else [value]
    if not lines or not all(isinstance(line, str) for line in lines):
        return None
    return " ".join(" ".join(lines).split())[:_LONGEST] or None


def _turned(value: Value | None, swapped: bool) -> Value:
    assert value is not None
    return value | {"choice": 1 - value["choice"]} if swapped and value.get("choice") in (0, 1) else value
