"""What follows from the log for one item: the label or choice that stands, its task, and what depends on it.

The stages hang together: a pair waits until both its QA labels are settled. Where exactly one of them is safe, "safer"
is decided by the rule and never asked. A "safer" rests on the versions of the two labels (its pins): when a label
changes, it counts no longer, the pair is stale, and it is decided again by the rule or asked again. "better" rests on
no label and stays. Choices that go round in a circle among the answers of one prompt go to adjudication, and so does a
label that an inspection contradicts (`batches`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa

from poise.annotate.store import schema
from poise.annotate.store.batches import contradicted
from poise.annotate.store.chain import canonical
from poise.annotate.store.joint import JointPolicy
from poise.annotate.store.log import ORDER, Entry, Log, parsed
from poise.annotate.store.overlap import (
    Outcome,
    OverlapPolicy,
    Vote,
    combine_choices,
    combine_labels,
    cyclic,
    is_careful,
    outcome,
)
from poise.data.rows import label_value
from poise.harm import Label, decided_safer

Pins = tuple[int, int]
QUESTIONS = {"qa": ("label",), "pair": ("better", "safer"), "single": ("single",)}
"""Kind of item -> what is asked about it, in this order."""
NORMAL, CONFLICT, STALE = 100, 60, 40
"""Places in the queue; the lowest goes first."""
BY_ORDER = "exactly one response is safe"

_VOTES = """
select j.value, j.pins, r.kind from counted_judgement j join rater r on r.id = j.rater
where j.item = :item and j.question = :question and j.value is not null order by j.seq
"""
_USERS = """
select id, kind from item where qa_0 = :item and not exists (select 1 from gold g where g.item = id and not g.data)
union select id, kind from item where qa_1 = :item
    and not exists (select 1 from gold g where g.item = id and not g.data) order by id
"""
"""What is made of a QA item, gold alone left out. Not asked by kind as well: SQLite would go through all pairs."""
_ADJUDICATED = "select value, pins from current_adjudication where item = :item and question = :question"
_FINAL = "select value, version, settled, source, pins, cyclic from final where item = :item and question = :question"


class Settler:
    """Keeps `final` and `task` in step with the log, inside the transaction that adds to it."""

    def __init__(self, log: Log, policy: OverlapPolicy, joint: JointPolicy | None = None) -> None:
        self._joint = joint or JointPolicy()
        self._log, self._db, self._policy = log, log.connection, self._joint.overlap(policy)

    def settle(self, item: int) -> None:
        """Work out an item again, and all that depends on it."""
        row = self._item(item)
        if row["kind"] == "qa":
            self._settle_qa(row)
        elif row["kind"] == "pair":
            self._settle_pair(row)
        else:
            self._settle_single(row)

    def labels(self, pair: sa.RowMapping) -> tuple[Label, Label] | None:
        """The settled labels of a pair, None while one is missing."""
        found = [self._final(pair[name], "label") for name in ("qa_0", "qa_1")]
        if any(row is None or not row["settled"] or row["value"] is None for row in found):
            return None
        first, second = (Label.of(**parsed(row["value"])) for row in found if row is not None)
        return first, second

    def pins(self, pair: sa.RowMapping) -> Pins | None:
        """The versions of the settled labels of a pair, None while one is missing."""
        if self.labels(pair) is None:
            return None
        first, second = (self._final(pair[name], "label") for name in ("qa_0", "qa_1"))
        assert first is not None and second is not None
        return first["version"], second["version"]

    def _item(self, item: int) -> sa.RowMapping:
        query = sa.text("select id, kind, key, qa_0, qa_1, thread from item where id = :item")
        return self._db.execute(query, {"item": item}).mappings().one()

    def _final(self, item: int | None, question: str) -> sa.RowMapping | None:
        if item is None:
            return None
        return self._db.execute(sa.text(_FINAL), {"item": item, "question": question}).mappings().first()

    def _votes(self, item: int, question: str, pins: str | None = None) -> list[Vote]:
        rows = self._db.execute(sa.text(_VOTES), {"item": item, "question": question}).mappings()
        votes = [Vote(row["kind"], parsed(row["value"])) for row in rows if pins is None or row["pins"] == pins]
        return self._joint.voting(votes)

    def _adjudicated(self, item: int, question: str, pins: str | None = None) -> Any:
        row = self._db.execute(sa.text(_ADJUDICATED), {"item": item, "question": question}).mappings().first()
        return None if row is None or (pins is not None and row["pins"] != pins) else parsed(row["value"])

    def _settle_qa(self, row: sa.RowMapping) -> None:
        item, votes = row["id"], self._votes(row["id"], "label")
        careful = is_careful(self._policy, row["key"], [vote.value for vote in votes])
        found = outcome(
            self._policy,
            votes,
            combine_labels,
            adjudicated=self._adjudicated(item, "label"),
            careful=careful,
            audit=self._joint.audits("qa", row["key"]),
        )
        if found.state == "settled" and found.value is not None and contradicted(self._db, item, found.value):
            found = found._replace(state="adjudicate")
        changed = self._write_final(item, "label", found)
        self._write_task(row, {"label": found})
        if changed:
            for user, kind in self._db.execute(sa.text(_USERS), {"item": item}).all():
                if kind == "pair":
                    self._settle_pair(self._item(user))

    def _settle_single(self, row: sa.RowMapping) -> None:
        found = self._choice(row, "single", careful=self._policy.drawn(row["key"]))
        self._write_final(row["id"], "single", found)
        self._write_task(row, {"single": found})

    def _settle_pair(self, row: sa.RowMapping) -> None:
        found, pins = self._pair_outcomes(row)
        told = None if pins is None else canonical(pins)
        changed = [
            question
            for question, one in found.items()
            if self._write_final(row["id"], question, one, told if question == "safer" else None)
        ]
        self._write_task(row, found, waiting=pins is None)
        for question in changed:
            self._mark_cycles(row, question)

    def _pair_outcomes(self, row: sa.RowMapping) -> tuple[dict[str, Outcome], Pins | None]:
        """What stands for "better" and "safer", and the label versions that "safer" rests on."""
        labels, pins = self.labels(row), self.pins(row)
        careful = is_careful(self._policy, row["key"], [label_value(label) for label in labels or ()])
        better = self._choice(row, "better", careful=careful)
        if labels is None or pins is None:
            return {"better": better, "safer": Outcome(None, "waiting", "open", self._policy.people, 0)}, None
        decided = decided_safer(*labels)
        if decided is None:
            safer = self._choice(row, "safer", careful=careful, pins=canonical(pins))
        else:
            self._by_order(row["id"], decided, pins)
            safer = Outcome({"choice": decided, "strength": None}, "order", "settled", 0, 0)
        return {"better": better, "safer": safer}, pins

    def _choice(self, row: sa.RowMapping, question: str, *, careful: bool, pins: str | None = None) -> Outcome:
        votes = self._votes(row["id"], question, pins)
        adjudicated = self._adjudicated(row["id"], question, pins)
        audit = self._joint.audits(row["kind"], row["key"])
        return outcome(self._policy, votes, combine_choices, adjudicated=adjudicated, careful=careful, audit=audit)

    def _by_order(self, pair: int, decided: int, pins: Pins) -> None:
        """Log what the rule decides, once for each state of the labels."""
        rule = self._log.rater(ORDER)
        token = f"order:{pair}:{pins[0]}:{pins[1]}"
        known = self._db.execute(sa.text("select 1 from event where token = :token"), {"token": token}).first()
        if known is None:
            value = {"choice": decided, "strength": None}
            self._log.append(Entry("judge", pair, "safer", rule, token, value, pins=pins, reason=BY_ORDER))

    def _write_final(self, item: int, question: str, found: Outcome, pins: str | None = None) -> bool:
        """Keep what stands; returns whether it differs from before."""
        value = None if found.value is None else canonical(found.value)
        now = {"value": value, "source": found.source, "settled": found.state == "settled", "pins": pins}
        old = self._final(item, question)
        if old is None:
            fresh = now | {"item": item, "question": question, "version": self._log.seq, "cyclic": False}
            self._db.execute(sa.insert(schema.final).values(**fresh))
            return True
        if all(old[name] == now[name] for name in now):
            return False
        moved = old["value"] != value or old["pins"] != pins
        version = self._log.seq if moved else old["version"]
        table = schema.final
        self._db.execute(
            sa.update(table).where(table.c.item == item, table.c.question == question).values(**now, version=version)
        )
        return True

    def _write_task(self, row: sa.RowMapping, found: dict[str, Outcome], *, waiting: bool = False) -> None:
        item = row["id"]
        asks = [question for question, one in found.items() if one.state == "open"]
        stuck = any(one.state == "adjudicate" for one in found.values()) or self._is_cyclic(item)
        state = "waiting" if waiting else "adjudicate" if stuck else "open" if asks else "done"
        stale = "safer" in found and found["safer"].state != "settled" and self._outdated(item)
        missing = [found[question] for question in asks] or list(found.values())
        fewest = min(missing, key=lambda one: one.have - one.wanted)
        conflict = any(one.have and one.source != "unanimous" and one.state == "open" for one in found.values())
        values = {
            "state": state,
            "stage": row["kind"],
            "priority": STALE if stale else CONFLICT if conflict else NORMAL,
            "wanted": fewest.wanted,
            "have": fewest.have,
            "asks": canonical(asks),
            "stale": stale,
        }
        table = schema.task
        if not self._db.execute(sa.update(table).where(table.c.item == item).values(**values)).rowcount:
            self._db.execute(sa.insert(table).values(item=item, **values))

    def _is_cyclic(self, item: int) -> bool:
        query = sa.text("select 1 from final where item = :item and cyclic and settled")
        return self._db.execute(query, {"item": item}).first() is not None

    def _outdated(self, item: int) -> bool:
        """Whether anybody has said which is safer under other labels than those that stand now."""
        final = self._final(item, "safer")
        pins = None if final is None else final["pins"]
        query = sa.text(
            "select pins from current_judgement where item = :item and question = 'safer' and pins is not null"
        )
        return any(found != pins for found in self._db.execute(query, {"item": item}).scalars())

    def _mark_cycles(self, row: sa.RowMapping, question: str) -> None:
        """Find the cycles among the settled choices of a prompt's answers; the pairs on them go to adjudication."""
        query = sa.text(
            "select i.id, i.qa_0, i.qa_1, f.value, f.settled, f.cyclic from item i join final f on f.item = i.id "
            "where i.thread = :thread and i.kind = 'pair' and f.question = :question order by i.id"
        )
        pairs = self._db.execute(query, {"thread": row["thread"], "question": question}).mappings().all()
        edges = {pair["id"]: edge for pair in pairs if (edge := _edge(pair)) is not None}
        on_cycle = cyclic(list(edges.values()))
        table = schema.final
        for pair in pairs:
            flag = edges.get(pair["id"]) in on_cycle
            if flag != bool(pair["cyclic"]):
                here = table.c.item == pair["id"], table.c.question == question
                self._db.execute(sa.update(table).where(*here).values(cyclic=flag))
                changed = self._item(pair["id"])
                found, pins = self._pair_outcomes(changed)
                self._write_task(changed, found, waiting=pins is None)


def _edge(pair: sa.RowMapping) -> tuple[int, int] | None:
    """(winner, loser) of a settled strict choice."""
    value = parsed(pair["value"]) if pair["settled"] else None
    if value is None or value["choice"] not in (0, 1):
        return None
    sides = pair["qa_0"], pair["qa_1"]
    return sides[value["choice"]], sides[1 - value["choice"]]


def name_categories(db: sa.Connection, item: int, codes: Iterable[str]) -> None:
    """Remember that somebody has named these categories for an item, for the opt-outs."""
    for code in codes:
        values = {"item": item, "category": code}
        if not db.execute(sa.text("select 1 from hint where item = :item and category = :category"), values).first():
            db.execute(sa.insert(schema.hint).values(**values))
