"""Out of a store what the joint report needs: answers with their arms, suggestions, models' judgements, and the truth.

The truth about an item is what an adjudicator decided. The reference is the audited items, drawn by hash before anybody
answered. Items that are adjudicated because raters disagreed are no fair sample: where a wrong suggestion was taken
over by all, nobody disagrees. They can be asked for, and the report then says so.

An answer belongs to the arm that the log names. People's answers without an arm (the model had said nothing, so nothing
was drawn) count only in a store without suggestions, where all of them are given alone.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import sqlalchemy as sa

from poise.annotate.joint.estimands import Trial
from poise.annotate.store import AnnotationStore
from poise.annotate.store.log import parsed
from poise.annotate.store.overlap import OverlapPolicy, Value, Vote, combine_choices, combine_labels, outcome
from poise.annotate.store.settle import QUESTIONS
from poise.errors import PoiseError

Reference = Literal["audited", "adjudicated"]

_ANSWERS = """
select e.item, e.question, e.rater, e.value, e.pins, e.shown from event e join rater r on r.id = e.rater
where e.kind = 'judge' and r.kind = 'person'
and not exists (select 1 from event undone where undone.target = e.seq) order by e.seq
"""
_MODELS = """
select j.item, j.question, j.value, j.pins, r.name, r.version from current_judgement j join rater r on r.id = j.rater
where r.kind = 'model' and j.value is not null order by j.seq
"""
_VOTES = """
select j.item, j.question, j.value, j.pins, r.kind from counted_judgement j join rater r on r.id = j.rater
where r.kind in ('person', 'model', 'import') and j.value is not null order by j.seq
"""
_TRUTHS = """
select a.item, a.question, a.value, a.pins, i.kind, i.key from current_adjudication a join item i on i.id = a.item
where a.value is not null order by a.item
"""
VARIABLES: dict[str, dict[str, Callable[[Value], Hashable]]] = {
    "label": {
        "safe": lambda value: value["severity"] == 0,
        "severity": lambda value: value["severity"],
        "categories": lambda value: tuple(sorted(value["categories"])),
    }
} | {question: {question: lambda value: value["choice"]} for question in ("better", "safer", "single")}
"""Question -> variable -> what of a value is compared; severity and category set count as right only when exact."""


@dataclass(frozen=True)
class Answer:
    """A person's answer to a question: see `Trial` for the fields."""

    item: int
    rater: int
    shown: bool
    planted: bool
    value: Value
    suggestion: Value | None
    before: Value | None


@dataclass
class Question:
    """All that is known about one question.

    Args:
        truth: item -> what was decided, for items of the reference.
        models: name of a model rater -> item -> its latest judgement.
        together: item of the reference -> what the votes come to without the adjudicator, None where they decide
            nothing.
        unjudged: answers that said nothing. no_arm: answers that belong to no arm.
    """

    answers: list[Answer] = field(default_factory=list)
    truth: dict[int, Value] = field(default_factory=dict)
    models: dict[str, dict[int, Value]] = field(default_factory=lambda: defaultdict(dict))
    together: dict[int, Value | None] = field(default_factory=dict)
    unjudged: int = 0
    no_arm: int = 0

    def trial(self, of: Callable[[Value], Hashable]) -> Trial:
        """The answers to one variable of the question."""
        codes: dict[Hashable, int] = {}

        def numbers(values: Sequence[Value | None]) -> Any:
            return np.array([-1 if v is None else codes.setdefault(of(v), len(codes)) for v in values], dtype=np.int64)

        rows = self.answers
        return Trial(
            item=np.array([row.item for row in rows], dtype=np.int64),
            rater=np.array([row.rater for row in rows], dtype=np.int64),
            shown=np.array([row.shown for row in rows], dtype=bool),
            planted=np.array([row.planted for row in rows], dtype=bool),
            answer=numbers([row.value for row in rows]),
            suggestion=numbers([row.suggestion for row in rows]),
            before=numbers([row.before for row in rows]),
            truth=numbers([self.truth.get(row.item) for row in rows]),
        )


@dataclass(frozen=True)
class Read:
    """A store as the report sees it.

    Args:
        questions: those that people or models have answered.
        raters: key -> name of the people.
        showings: (arm, clear, planted) -> what was drawn, one for each item, rater and question.
    """

    questions: dict[str, Question]
    raters: dict[int, str]
    showings: dict[tuple[str, bool, bool], int]


def read(store: AnnotationStore, reference: Reference) -> Read:
    """Read one state of the store.

    Raises:
        PoiseError: audited items are asked for and the store audits none.
    """
    if reference == "audited" and not store.joint.audit_share:
        raise PoiseError(
            "this store audits no items",
            where=store.database.name,
            do="use --reference adjudicated; disputed items are no fair sample",
        )
    questions: dict[str, Question] = defaultdict(Question)
    with store.database.read() as db:
        pins = _truths(db, store, questions, reference)
        _answers(db, questions, pins, alone=not store.joint.suggests)
        for row in _rows(db, _MODELS):
            if _fits(row, pins):
                questions[row["question"]].models[row["name"]][row["item"]] = parsed(row["value"])
        _together(db, store, questions, pins)
        people = db.execute(sa.text("select id, name from rater where kind = 'person'"))
        raters = {row.id: row.name for row in people}
        drawn = db.execute(sa.text("select arm, clear, planted, count(*) as n from showing group by 1, 2, 3"))
        showings = {(row.arm, bool(row.clear), bool(row.planted)): row.n for row in drawn}
    asked = [question for kind in QUESTIONS.values() for question in kind]
    found = {name: questions[name] for name in asked if name in questions}
    return Read({name: q for name, q in found.items() if q.answers or q.models}, raters, showings)


Pins = dict[tuple[int, str], str]
"""(item, "safer") -> the label versions under which it was adjudicated."""


def _rows(db: sa.Connection, query: str) -> Any:
    return db.execution_options(yield_per=2000).execute(sa.text(query)).mappings()


def _fits(row: sa.RowMapping, pins: Pins) -> bool:
    """Whether an answer is about the labels under which the item was decided, where it rests on labels."""
    return bool(pins.get((row["item"], row["question"]), row["pins"]) == row["pins"])


def _truths(db: sa.Connection, store: AnnotationStore, questions: dict[str, Question], reference: Reference) -> Pins:
    pins = {}
    for row in _rows(db, _TRUTHS):
        if reference == "adjudicated" or store.joint.audits(row["kind"], row["key"]):
            questions[row["question"]].truth[row["item"]] = parsed(row["value"])
            if row["pins"] is not None:
                pins[row["item"], row["question"]] = row["pins"]
    return pins


def _answers(db: sa.Connection, questions: dict[str, Question], pins: Pins, *, alone: bool) -> None:
    """The last answer of each person, and in `blind_then_reveal` the last before and the last after the reveal."""
    last: dict[tuple[int, str, int, bool], tuple[sa.RowMapping, dict[str, Any]]] = {}
    for row in _rows(db, _ANSWERS):
        told = parsed(row["shown"]) or {}
        if not alone and "arm" not in told:
            questions[row["question"]].no_arm += 1
        elif _fits(row, pins):
            last[row["item"], row["question"], row["rater"], "suggestion" in told] = row, told
    for (item, question, rater, shown), (row, told) in last.items():
        found = questions[question]
        if row["value"] is None:
            found.unjudged += 1
            continue
        blind = last.get((item, question, rater, False)) if shown else None
        found.answers.append(
            Answer(
                item=item,
                rater=rater,
                shown=shown,
                planted=bool(told.get("planted")),
                value=json.loads(row["value"]),
                suggestion=told.get("suggestion", told.get("withheld")),
                before=None if blind is None else parsed(blind[0]["value"]),
            )
        )


def _together(db: sa.Connection, store: AnnotationStore, questions: dict[str, Question], pins: Pins) -> None:
    votes: dict[tuple[str, int], list[Vote]] = defaultdict(list)
    for row in _rows(db, _VOTES):
        if row["item"] in questions[row["question"]].truth and _fits(row, pins):
            votes[row["question"], row["item"]].append(Vote(row["kind"], parsed(row["value"])))
    policy: OverlapPolicy = store.joint.overlap(store.policy)
    for (question, item), given in votes.items():
        combine = combine_labels if question == "label" else combine_choices
        found = outcome(policy, store.joint.voting(given), combine)
        questions[question].together[item] = found.value
