"""Settling many new items at once: those on which nothing depends yet, from what was said about each of them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from poise.annotate.store import schema
from poise.annotate.store.chain import canonical
from poise.annotate.store.joint import JointPolicy
from poise.annotate.store.log import parsed
from poise.annotate.store.overlap import (
    Outcome,
    OverlapPolicy,
    Vote,
    combine_choices,
    combine_labels,
    is_careful,
    outcome,
)
from poise.annotate.store.settle import CONFLICT, NORMAL, QUESTIONS

_CHUNK = 500
Said = Mapping[int, Sequence[tuple[str, int, int]]]
"""Item -> (question, rater, event) of what each rater said last."""


def settle_new(
    db: sa.Connection,
    policy: OverlapPolicy,
    items: Sequence[tuple[int, str]],
    kind: str,
    said: Said,
    disputed: Collection[int],
    joint: JointPolicy,
) -> list[int]:
    """Write `final` and `task` of new items; returns those that have to be worked out one by one.

    These are the disputed ones, pairs whose labels are settled, and judged pairs among three answers or more, where
    choices can go round in a circle.
    """
    hard = {item for item, _ in items if item in disputed}
    touched = sa.text("select item from task where stage = :kind")  # worked out already, since a label was
    hard |= set(db.execute(touched, {"kind": kind}).scalars())
    if kind == "pair":
        hard |= set(db.execute(sa.text(_LABELLED)).scalars())
        hard |= set(db.execute(sa.text(_SEVERAL)).scalars()) & said.keys()
    easy = [(item, key) for item, key in items if item not in hard]
    for at in range(0, len(easy), _CHUNK):
        _write(db, policy, kind, easy[at : at + _CHUNK], said, joint)
    return [item for item, _ in items if item in hard]


_LABELLED = """
select i.id from item i join final a on a.item = i.qa_0 and a.settled and a.value is not null
join final b on b.item = i.qa_1 and b.settled and b.value is not null where i.kind = 'pair'
"""
_SEVERAL = """
select id from item where kind = 'pair' and thread in
    (select thread from item where kind = 'pair' group by thread having count(*) > 2)
"""


def _write(
    db: sa.Connection,
    policy: OverlapPolicy,
    kind: str,
    items: Sequence[tuple[int, str]],
    said: Said,
    joint: JointPolicy,
) -> None:
    events = [seq for item, _ in items for *_, seq in said.get(item, ())]
    table, query = schema.event, sa.select(schema.event.c.seq, schema.event.c.value, schema.rater.c.kind)
    query = query.join(schema.rater, schema.rater.c.id == table.c.rater)
    votes: dict[int, Vote] = {}
    for at in range(0, len(events), _CHUNK):
        for seq, value, of in db.execute(query.where(table.c.seq.in_(events[at : at + _CHUNK]))):
            if value is not None:
                votes[seq] = Vote(of, parsed(value))
    finals, tasks = [], []
    for item, key in items:
        told: dict[str, list[int]] = {question: [] for question in QUESTIONS[kind]}
        for question, _, seq in said.get(item, ()):
            told[question].append(seq)
        found = {
            question: _outcome(policy, kind, question, key, [votes[s] for s in sorted(heard) if s in votes], joint)
            for question, heard in told.items()
        }
        finals += [_final(item, question, one, max(told[question], default=0)) for question, one in found.items()]
        tasks.append(_task(item, kind, found))
    db.execute(sa.insert(schema.final), finals)
    db.execute(sa.insert(schema.task), tasks)


def _outcome(
    policy: OverlapPolicy, kind: str, question: str, key: str, votes: Sequence[Vote], joint: JointPolicy
) -> Outcome:
    policy = joint.overlap(policy)
    if question == "safer":
        return Outcome(None, "waiting", "open", policy.people, 0)
    labels = [vote.value for vote in votes] if question == "label" else []
    combine = combine_labels if question == "label" else combine_choices
    careful, audit = is_careful(policy, key, labels), joint.audits(kind, key)
    return outcome(policy, joint.voting(votes), combine, careful=careful, audit=audit)


def _final(item: int, question: str, found: Outcome, version: int) -> dict[str, Any]:
    return {
        "item": item,
        "question": question,
        "value": None if found.value is None else canonical(found.value),
        "source": found.source,
        "version": version,
        "pins": None,
        "settled": found.state == "settled",
        "cyclic": False,
    }


def _task(item: int, kind: str, found: Mapping[str, Outcome]) -> dict[str, Any]:
    asks = [question for question, one in found.items() if one.state == "open"]
    stuck = any(one.state == "adjudicate" for one in found.values())
    missing = [found[question] for question in asks] or list(found.values())
    fewest = min(missing, key=lambda one: one.have - one.wanted)
    conflict = any(one.have and one.source != "unanimous" and one.state == "open" for one in found.values())
    return {
        "item": item,
        "stage": kind,
        "state": "waiting" if kind == "pair" else "adjudicate" if stuck else "open" if asks else "done",
        "priority": CONFLICT if conflict else NORMAL,
        "wanted": fewest.wanted,
        "have": fewest.have,
        "asks": canonical(asks),
        "stale": False,
    }
