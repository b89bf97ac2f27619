"""Stores on small tables, raters, and a clock that stands still.

Where POISE_TEST_POSTGRES names a server (postgresql://user@localhost/postgres), the tests of queue, stages, hidden
checks and inspections run on it too, each in a database of its own that is dropped afterwards; `benchmarks/postgres.py`
starts one for a command.
Tests that are about PostgreSQL start one by themselves where it is installed.
"""

from __future__ import annotations

import importlib.util
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from poise.annotate.store import AnnotationStore, OverlapPolicy, import_tables
from poise.data.records import DualRecord, QARecord, Record
from poise.data.rows import Rater
from poise.data.tables import TableWriter, open_tables

SAFE = {"categories": [], "severity": 0}
MILD = {"categories": ["S2"], "severity": 1}
BAD = {"categories": ["S1"], "severity": 2}
WORST = {"categories": ["S1"], "severity": 3}
PLAIN = OverlapPolicy(random_share=0)
SERVER = os.environ.get("POISE_TEST_POSTGRES")
_NUMBERS = itertools.count()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The URL of a server: the one that is named, else one of our own."""
    if SERVER is not None:
        yield SERVER
        return
    pytest.importorskip("psycopg")
    path = Path(__file__).parents[3] / "benchmarks" / "postgres.py"
    if not path.is_file():
        pytest.skip("benchmarks/postgres.py, which starts PostgreSQL, is not part of this copy")
    spec = importlib.util.spec_from_file_location("poise_benchmarks_postgres", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with ExitStack() as stack:
        try:
            url = stack.enter_context(module.server(durable=False))
        except module.NoServerError as error:
            pytest.skip(str(error))
        yield url


@pytest.fixture
def postgres(postgres_server: str) -> Iterator[str]:
    """The URL of a fresh database."""
    with fresh_database(postgres_server) as url:
        yield url


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """With a server, run what does not look into the file on it as well."""
    both = metafunc.module.__name__.endswith(("test_queue", "test_stages", "test_hidden", "test_inspection"))
    if SERVER and both and "make" in metafunc.fixturenames:
        metafunc.parametrize("make", ["sqlite", "postgres"], indirect=True)


@contextmanager
def fresh_database(server: str) -> Iterator[str]:
    """The URL of a new database on a server, which is dropped at the end."""
    url, name = sa.make_url(server), f"poise_test_{os.getpid()}_{next(_NUMBERS)}"
    engine = sa.create_engine(url.set(drivername="postgresql+psycopg"), isolation_level="AUTOCOMMIT")
    with engine.connect() as db:
        db.execute(sa.text(f"create database {name}"))
    yield url.set(database=name).render_as_string(hide_password=False)
    with engine.connect() as db:
        db.execute(sa.text(f"drop database {name} with (force)"))
    engine.dispose()


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
def make(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Make]:
    """Makes a bench: rows, policy, whether pairs become single preferences too."""
    made: list[AnnotationStore] = []
    stack, where = ExitStack(), str(tmp_path / "store.db")
    if getattr(request, "param", None) == "postgres":
        where = stack.enter_context(fresh_database(str(SERVER)))

    def build(rows: Sequence[Record], policy: OverlapPolicy = PLAIN, singles: bool = False) -> Bench:
        now = [1_000_000.0]
        store = AnnotationStore.create(where, policy, clock=lambda: now[0])
        made.append(store)
        import_tables(store, open_tables(write_rows(tmp_path / f"rows{len(made)}", rows)), singles=singles)
        people = [store.rater(Rater(id=name, kind="person")) for name in ("ann", "ben", "cem", "dea", "eli")]
        model = store.rater(Rater(id="judge", kind="model", version="prompt-1"))
        return Bench(store, now, people, model)

    yield build
    for store in made:
        store.close()
    stack.close()


def qa_rows(count: int, **more: Any) -> list[Record]:
    """QA rows without labels."""
    return [QARecord(prompt=f"question {n}", response=f"answer {n}", **more) for n in range(count)]
