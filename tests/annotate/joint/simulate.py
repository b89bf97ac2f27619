"""People of known error and known bias, a model of known error, and an adjudicator who knows the truth, at a store."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from poise.annotate.store import AnnotationStore, JointPolicy, OverlapPolicy, Task, import_tables
from poise.data.records import QARecord
from poise.data.rows import Rater
from poise.data.tables import TableWriter, open_tables

SAFE: dict[str, Any] = {"categories": [], "severity": 0}
BAD: dict[str, Any] = {"categories": ["S1"], "severity": 2}


def flipped(value: dict[str, Any]) -> dict[str, Any]:
    """The other of two labels."""
    return BAD if value["severity"] == 0 else SAFE


@dataclass(frozen=True)
class Population:
    """People who take a suggestion unread with probability `bias`, and otherwise err with probability `error`.

    Then P(wrong | alone) = error, and a wrong suggestion is followed with probability bias + (1 - bias) error: an
    automation bias of bias (1 - error), a pull of bias.
    """

    error: float
    bias: float
    people: int = 6


def make_store(
    folder: Path, joint: JointPolicy, *, items: int, model_error: float, seed: int = 0, where: str | None = None
) -> tuple[AnnotationStore, dict[int, dict[str, Any]]]:
    """A store of items that the model has judged, and the truth about each; `where` is a database's URL."""
    draw = random.Random(f"model {seed}")
    with TableWriter(folder / "rows", {"name": "test"}) as writer:
        for n in range(items):
            writer.add(QARecord(prompt=f"question {seed} {n}", response="answer"))
    overlap = OverlapPolicy(people=2, more=3, random_share=0)
    store = AnnotationStore.create(where or folder / "store.db", overlap, lambda: 1e6, joint=joint)
    import_tables(store, open_tables(folder / "rows"))
    with store.database.read() as db:
        keys = db.execute(sa.text("select id from item order by id")).scalars().all()
    truth = {item: draw.choice((SAFE, BAD)) for item in keys}
    model = store.rater(Rater(id="judge", kind="model", version="1"))
    for item, value in truth.items():
        said = flipped(value) if draw.random() < model_error else value
        store.judge(model, item, {"label": said}, token=f"model {item}")
    return store, truth


def work(store: AnnotationStore, truth: dict[int, dict[str, Any]], population: Population, seed: int) -> list[Task]:
    """Everybody answers until there is nothing left, then the adjudicator decides; returns all tasks that were seen."""
    draw, tokens = random.Random(f"people {seed}"), itertools.count()
    people = [store.rater(Rater(id=f"person-{n}", kind="person")) for n in range(population.people)]
    judge = store.rater(Rater(id="lead", kind="person"))
    seen: list[Task] = []

    def answer(task: Task) -> dict[str, Any]:
        own = flipped(truth[task.item]) if draw.random() < population.error else truth[task.item]
        if task.suggestion is None:
            return own
        if draw.random() < population.bias:
            return dict(task.suggestion["label"])
        return own if task.before is None else dict(task.before["label"] or own)

    idle = 0
    while idle < len(people):
        rater = people[0]
        people.append(people.pop(0))
        task = store.next_task(rater, ["qa"])
        idle = idle + 1 if task is None else 0
        while task is not None:
            seen.append(task)
            task = store.submit(rater, task.token, {"label": answer(task)}, token=f"t{next(tokens)}").task
    while (task := store.next_task(judge, ["qa"], adjudicate=True)) is not None:
        assert task.arm is None and task.suggestion is None
        store.submit(judge, task.token, {"label": truth[task.item]}, token=f"a{next(tokens)}")
    return seen


def found(report: dict[str, Any], variable: str = "safe") -> dict[str, Any]:
    """One variable of the labels."""
    (question,) = [q for q in report["questions"] if q["question"] == "label"]
    (one,) = [v for v in question["variables"] if v["name"] == variable]
    return dict(one)


def covers(estimate: dict[str, Any], value: float) -> bool:
    """Whether an interval holds a value; without an interval it does not."""
    return estimate["low"] is not None and bool(estimate["low"] <= value <= estimate["high"])


def rows(store: AnnotationStore, query: str) -> Sequence[Any]:
    """Rows of a query."""
    with store.database.read() as db:
        return db.execute(sa.text(query)).all()
