"""A store on tables of four prompts with four answers each, raters, and a clock that stands still."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from poise.annotate.store import AnnotationStore, OverlapPolicy, import_tables
from poise.data.records import DualRecord, QARecord, Record, SingleRecord
from poise.data.rows import Rater
from poise.data.tables import TableWriter, open_tables

SAFE = {"categories": [], "severity": 0}
MILD = {"categories": ["S2"], "severity": 1}
BAD = {"categories": ["S1"], "severity": 2}
WORST = {"categories": ["S1"], "severity": 3}
PLAIN = OverlapPolicy(random_share=0)


def pair_of(prompt: str, first: str, second: str, **more: Any) -> DualRecord:
    """A dual row without labels."""
    return DualRecord(prompt=prompt, responses=(first, second), **more)


@dataclass
class Bench:
    """A store and shorthand for what tests do with it."""

    store: AnnotationStore
    now: list[float]
    people: list[int]
    model: int
    tokens: Iterator[int] = field(default_factory=itertools.count)

    def token(self) -> str:
        """A fresh one."""
        return f"t{next(self.tokens)}"

    def items(self, kind: str) -> list[int]:
        """Keys of all items of a kind."""
        return [row[0] for row in self.sql("select id from item where kind = :kind order by id", kind=kind)]

    def sql(self, query: str, **values: Any) -> Sequence[Any]:
        """Rows of a query."""
        with self.store.database.read() as db:
            return db.execute(sa.text(query), values).all()

    def final(self, item: int, question: str) -> Any:
        """What stands: value, source, version, settled, pins, cyclic."""
        query = "select value, source, version, settled, pins, cyclic from final where item = :i and question = :q"
        return self.sql(query, i=item, q=question)[0]

    def task(self, item: int) -> Any:
        """State, wanted, have, asks, stale, priority of a task."""
        return self.sql("select state, wanted, have, asks, stale, priority from task where item = :i", i=item)[0]

    def take(self, person: int, *stages: str, **more: Any) -> Any:
        """The next task of person number `person`."""
        return self.store.next_task(self.people[person], stages or ("qa", "pair", "single"), **more)

    def answer(self, person: int, task: Any, values: dict[str, Any], **more: Any) -> dict[str, int]:
        """Submit with a fresh token."""
        more = {"token": self.token()} | more
        return self.store.submit(self.people[person], task.token, values, **more)

    def adjudicate(self, item: int, person: int = 3, reason: str | None = None, **values: Any) -> dict[str, int]:
        """Decide an item."""
        return self.store.adjudicate(self.people[person], item, values, token=self.token(), reason=reason)

    def label_all(self, labels: Sequence[dict[str, Any]]) -> None:
        """Adjudicate a label for each QA item, in order."""
        for item, label in zip(self.items("qa"), labels, strict=True):
            self.adjudicate(item, label=label)


def write_rows(folder: Path, rows: Sequence[Record]) -> Path:
    """Tables of records."""
    with TableWriter(folder, {"name": "test"}) as writer:
        for row in rows:
            writer.add(row)
    return folder


Make = Callable[..., Bench]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Makes a bench: rows, policy, where."""
    made: list[AnnotationStore] = []

    def build(
        rows: Sequence[Record], policy: OverlapPolicy = PLAIN, where: str | Path | None = None, singles: bool = False
    ) -> Bench:
        now = [1_000_000.0]
        store = AnnotationStore.create(where or tmp_path / "store.db", policy, clock=lambda: now[0])
        made.append(store)
        import_tables(store, open_tables(write_rows(tmp_path / f"rows{len(made)}", rows)), singles=singles)
        people = [store.rater(Rater(id=name, kind="person")) for name in ("ann", "ben", "cem", "dea", "eli")]
        model = store.rater(Rater(id="judge", kind="model", version="prompt-1"))
        return Bench(store, now, people, model)

    yield build
    for store in made:
        store.close()


def qa_rows(count: int, **more: Any) -> list[Record]:
    """QA rows without labels."""
    return [QARecord(prompt=f"question {n}", response=f"answer {n}", **more) for n in range(count)]


def single_row(prompt: str, first: str, second: str) -> SingleRecord:
    """A pair for the single preference."""
    return SingleRecord(prompt=prompt, responses=(first, second))
