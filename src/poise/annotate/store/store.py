"""The store as its users see it: raters take tasks, answer, correct, undo; adjudicators decide; anybody can verify.

    store = AnnotationStore.create("annotations.db")
    ann = store.rater(Rater(id="ann", kind="person"))
    task = store.next_task(ann, ["qa", "pair"])
    store.submit(ann, task.token, {"label": {"categories": [], "severity": 0}}, token="from the page")

Every call is one transaction: it happens as a whole or not at all, and what is stored is in the log when it returns.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import sqlalchemy as sa

from poise.annotate.store import answers, batches, chain, known, probes, schema
from poise.annotate.store.chain import Checked
from poise.annotate.store.database import Database
from poise.annotate.store.joint import JointPolicy
from poise.annotate.store.log import Entry, Log, stored, undo_entry
from poise.annotate.store.overlap import OverlapPolicy
from poise.annotate.store.queue import STAGES, Answered, Queue, Task
from poise.annotate.store.settle import Settler, name_categories
from poise.annotate.store.showing import Showing, shown_plant
from poise.data.rows import Rater
from poise.errors import PoiseError
from poise.harm import Category

Clock = Callable[[], float]
"""Seconds since 1970, UTC."""


class AnnotationStore:
    """An open store; close it, or open it with `with`.

    Args:
        database: its connections.
        clock: tells the time.
    """

    def __init__(self, database: Database, clock: Clock = time.time) -> None:
        self.database, self._clock = database, clock
        with database.read() as connection:
            kept = _kept(connection)
        if "overlap" not in kept:
            raise PoiseError("an empty store", where=database.name, do="fill it with `poise annotate init`")
        self.policy = OverlapPolicy.model_validate_json(kept["overlap"])
        self.joint = JointPolicy.model_validate_json(kept["joint"]) if "joint" in kept else JointPolicy()

    @classmethod
    def create(
        cls,
        where: str | Path,
        policy: OverlapPolicy | None = None,
        clock: Clock = time.time,
        *,
        joint: JointPolicy | None = None,
    ) -> Self:
        """Make a store, or open one that is there.

        Args:
            where: path of a SQLite file, or a postgresql:// URL.
            policy, joint: of a new store; None means the default, or that of the store that is there. A store that was
                made without a joint policy has the default one, `human_only`.

        Raises:
            PoiseError: something else is there, or a store with another policy.
        """
        database = Database(where, create=True)
        with database.write() as connection:
            kept = _kept(connection)
            if "overlap" not in kept:
                parts = {"overlap": policy or OverlapPolicy(), "joint": joint or JointPolicy()}
                rows = [{"key": key, "value": part.model_dump_json()} for key, part in parts.items()]
                connection.execute(sa.insert(schema.meta), rows)
            elif policy not in (None, OverlapPolicy.model_validate_json(kept["overlap"])) or joint not in (
                None,
                JointPolicy.model_validate_json(kept.get("joint", "{}")),
            ):
                raise PoiseError("a store with another policy", where=database.name, do="leave the policy as it is")
        return cls(database, clock)

    @classmethod
    def open(cls, where: str | Path, clock: Clock = time.time) -> Self:
        """Open a store that is there.

        Raises:
            PoiseError: there is none, or not of this version.
        """
        return cls(Database(where), clock)

    def close(self) -> None:
        """Close the connections."""
        self.database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def now_ms(self) -> int:
        """The time, milliseconds since 1970 UTC."""
        return round(self._clock() * 1000)

    def rater(self, rater: Rater) -> int:
        """The key of a rater, who is added when new."""
        with self.database.write() as connection:
            return Log(connection, self.now_ms()).rater(rater)

    def opt_out(self, rater: int, categories: Collection[object]) -> None:
        """Never give a rater items of these categories, known or likely; replaces what was chosen before."""
        codes = sorted({Category.parse(category).code for category in categories})
        with self.database.write() as connection:
            connection.execute(sa.text("delete from opt_out where rater = :rater"), {"rater": rater})
            for code in codes:
                connection.execute(sa.insert(schema.opt_out).values(rater=rater, category=code))

    def next_task(
        self,
        rater: int,
        stages: Sequence[str] = STAGES,
        *,
        adjudicate: bool = False,
        besides: Collection[str] = (),
        inspect: bool = False,
    ) -> Task | None:
        """See `Queue.take`."""
        with self.database.write() as connection:
            return self.queue(connection).take(rater, stages, adjudicate=adjudicate, besides=besides, inspect=inspect)

    def renew(self, rater: int, lease: str) -> int:
        """See `Queue.renew`."""
        with self.database.write() as connection:
            return self.queue(connection).renew(lease, rater)

    def release(self, rater: int, lease: str, *, skip: bool = False) -> None:
        """See `Queue.release`."""
        with self.database.write() as connection:
            self.queue(connection).release(lease, rater, skip=skip)

    def save_draft(self, rater: int, lease: str, body: Any) -> None:
        """See `Queue.save_draft`."""
        with self.database.write() as connection:
            self.queue(connection).save_draft(lease, rater, body)

    def submit(
        self,
        rater: int,
        lease: str,
        values: Mapping[str, Any],
        *,
        token: str,
        reason: str | None = None,
        shown: Any = None,
        client_ms: int | None = None,
    ) -> Answered:
        """Answer a task; returns question -> number of the event, with the suggestion after a blind answer.

        What was suggested is taken from the store, never from the page. A "safer" that was answered while a label
        changed is kept with the versions it was answered under; it does not count, and the pair is asked again.

        Args:
            values: an answer to every question asked (an adjudicator: to one at least), see `answers.checked_value`.
            token: chosen by the page; sent twice, it gives the same events and stores nothing new.
            reason: needed where the more severe response is called safer.
            shown: how the page showed the item (sides, order), JSON; kept as `page` beside what was suggested.
            client_ms: how long it took.

        Raises:
            PoiseError: the lease is over, an answer is missing, malformed, was not asked, or breaks the order.
        """
        with self.database.write() as connection:
            queue, log = self.queue(connection), Log(connection, self.now_ms())
            if stood := self._known(connection, token, rater):
                item = connection.execute(sa.text("select item from event where token = :t"), {"t": token}).scalar()
                return Answered(stood, queue.revealed(item or 0, rater))
            held = queue.lease(lease, rater)
            asked = json.loads(held["asks"])
            kind = "check" if held["probe"] else "adjudicate" if held["adjudicate"] else "judge"
            answers.check_asked(asked, values, adjudicate=held["adjudicate"])
            pins = _pins(held["pins"])
            showing = Showing(connection, self.joint)
            blind = showing.is_blind(held)
            told = showing.recorded(held, before=blind, page=shown)
            if held["probe"] == batches.INSPECT:
                told = batches.recorded(connection, held["item"], rater, told)
            extra = {"reason": reason, "shown": told, "client_ms": client_ms}
            made = self._append(log, kind, held["item"], rater, values, token, leased_pins=pins, **extra)
            queue.drop_draft(held["item"], rater)
            if blind:
                return Answered(made, queue.task(queue.reveal(lease)))
            queue.drop(lease)
            return Answered(made)

    def judge(
        self,
        rater: int,
        item: int,
        values: Mapping[str, Any],
        *,
        token: str,
        reason: str | None = None,
        client_ms: int | None = None,
    ) -> dict[str, int]:
        """Answer without a lease: a model, a rule, or a person who corrects an earlier answer.

        Raises:
            PoiseError: as `submit`, or a person who has not answered this item before.
        """
        with self.database.write() as connection:
            if stood := self._known(connection, token, rater):
                return stood
            answers.check_may_correct(connection, rater, item)
            log, kind = Log(connection, self.now_ms()), probes.kind_of_answer(connection, rater, item)
            if kind == "check":
                told = batches.recorded(connection, item, rater, {})
            else:
                told = Showing(connection, self.joint).corrected(item, rater)
            return self._append(log, kind, item, rater, values, token, reason=reason, client_ms=client_ms, shown=told)

    def adjudicate(
        self, rater: int, item: int, values: Mapping[str, Any], *, token: str, reason: str | None = None
    ) -> dict[str, int]:
        """Decide an item without a lease, whether or not it is disputed.

        Raises:
            PoiseError: as `submit`.
        """
        with self.database.write() as connection:
            if stood := self._known(connection, token, rater):
                return stood
            log = Log(connection, self.now_ms())
            return self._append(log, "adjudicate", item, rater, values, token, reason=reason)

    def undo(self, rater: int, event: int, *, token: str, reason: str | None = None) -> int:
        """Take back one's own event with a new one; returns its number. What was said before it stands again.

        Raises:
            PoiseError: see `log.undo_entry`.
        """
        with self.database.write() as connection:
            if stood := self._known(connection, token, rater):
                return next(iter(stood.values()))
            entry = undo_entry(connection, event, rater, token, reason)
            log = Log(connection, self.now_ms())
            log.note_edition()
            seq = log.append(entry)
            undone = connection.execute(sa.text("select kind from event where seq = :seq"), {"seq": event}).scalar()
            self._follow(log, str(undone), entry.item, rater)
            return seq

    def verify(self, head: str | None = None) -> Checked:
        """See `chain.verify`."""
        with self.database.read() as connection:
            return chain.verify(connection, head)

    def queue(self, connection: sa.Connection) -> Queue:
        """The tasks at this moment, inside the caller's transaction."""
        return Queue(connection, self.policy, self.now_ms(), self.joint)

    def _append(
        self,
        log: Log,
        kind: str,
        item: int,
        rater: int,
        values: Mapping[str, Any],
        token: str,
        *,
        leased_pins: tuple[int, int] | None = None,
        **extra: Any,
    ) -> dict[str, int]:
        """Check and store answers, then work out what follows."""
        query = sa.text("select id, kind, qa_0, qa_1 from item where id = :item")
        row = log.connection.execute(query, {"item": item}).mappings().first()
        if row is None or not values:
            raise PoiseError("nothing is answered", where=f"item {item}", do="answer a question about an item")
        settler, made, gold = Settler(log, self.policy, self.joint), {}, known.hidden(log.connection, item)
        if gold is not None and kind == "adjudicate":
            raise PoiseError("its answer is known", where=f"item {item}", do="review it with `annotate gold-review`")
        shown = extra.pop("shown", {})
        log.note_edition()
        entries = []
        for question, given in values.items():
            answers.check_question(row["kind"], question)
            value = answers.checked_value(question, given, f"item {item}, {question}")
            if value is None and kind == "adjudicate":
                raise PoiseError("no decision", where=f"item {item}, {question}", do="decide it, or leave it out")
            pins = None
            if question == "safer" and gold is not None:
                answers.check_gold_safer(known.gold_labels(gold), value, extra.get("reason"), f"pair {item}")
            elif question == "safer":
                overtaken = leased_pins is not None and settler.pins(row) != leased_pins
                pins = leased_pins if overtaken else answers.check_safer(settler, row, value, extra.get("reason"))
            told = shown.get(question)
            entries.append(Entry(kind, item, question, rater, token, value, pins=pins, shown=told, **extra))
        for entry in entries:
            made[entry.question] = log.append(entry)
            vote = kind != "check" and not shown_plant(entry.shown)
            if entry.question == "label" and entry.value is not None and vote:
                name_categories(log.connection, item, entry.value["categories"])
        self._follow(log, kind, item, rater)
        return made

    def _follow(self, log: Log, kind: str, item: int, rater: int) -> None:
        """What follows from an event of a kind, or from its being taken back."""
        inspected = kind == "check" and batches.is_inspection(log.connection, item, rater)
        if kind == "check":
            probes.follow(log.connection, item, rater, log.now_ms)
        if kind != "check" or inspected:
            Settler(log, self.policy, self.joint).settle(item)
        if inspected:
            batches.open_again(log.connection, item)

    @staticmethod
    def _known(connection: sa.Connection, token: str, rater: int) -> dict[str, int]:
        if not token:
            raise PoiseError("an answer without a token", where="submit", do="send a new random one with each answer")
        known = stored(connection, token)
        if any(row["rater"] != rater for row in known.values()):
            raise PoiseError("the token was used by somebody else", where="submit", do="send a new random one")
        return {question: row["seq"] for question, row in known.items()}


def _kept(connection: sa.Connection) -> dict[str, str]:
    return {row.key: row.value for row in connection.execute(sa.text("select key, value from meta"))}


def _pins(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    first, second = json.loads(text)
    return first, second
