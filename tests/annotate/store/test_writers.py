"""Two processes that write at once: both are heard, the chain stays whole, and nothing is given or stored twice."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa

from poise.annotate.store import AnnotationStore, OverlapPolicy, import_tables
from poise.data.rows import Rater
from poise.data.tables import open_tables

from .conftest import qa_rows, write_rows

ITEMS, EACH = 30, 20
WRITER = """
import sys, time
import sqlalchemy as sa
from poise.annotate.store import AnnotationStore
from poise.data.rows import Rater
where, name, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
with AnnotationStore.open(where) as store:
    me = store.rater(Rater(id=name, kind="person"))
    store.rater(Rater(id="shared", kind="person"))
    both = 0
    while both < 2:  # begin together
        with store.database.read() as db:
            both = db.execute(sa.text("select count(*) from rater where name in ('ann', 'ben')")).scalar()
    for number in range(count):
        task = store.next_task(me)
        token = f"{name}-{number}"
        value = {"label": {"categories": [], "severity": 0}}
        made = store.submit(me, task.token, value, token=token)
        assert store.submit(me, task.token, value, token=token) == made
        time.sleep(0.005)
    print("done")
"""


@pytest.fixture(params=["sqlite", "postgres"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty place for a store in either database."""
    return str(tmp_path / "store.db") if request.param == "sqlite" else request.getfixturevalue("postgres")


def test_two_processes_write_at_once(where: str, tmp_path: Path) -> None:
    policy = OverlapPolicy(people=2, more=2, random_share=0)
    with AnnotationStore.create(where, policy) as store:
        import_tables(store, open_tables(write_rows(tmp_path / "rows", qa_rows(ITEMS))))
        command = [sys.executable, "-c", WRITER, where]
        writers = [
            subprocess.Popen([*command, name, str(EACH)], stdout=subprocess.PIPE, text=True) for name in ("ann", "ben")
        ]
        assert [writer.communicate(timeout=60)[0].strip() for writer in writers] == ["done", "done"]
        checked = store.verify()
        assert (checked.events, checked.fault) == (2 * EACH, None)
        with store.database.read() as db:
            said = db.execute(sa.text("select name, item from event e join rater r on r.id = e.rater order by seq"))
            names = [tuple(row) for row in said]
            assert db.execute(sa.text("select count(*) from rater where name = 'shared'")).scalar() == 1
            assert db.execute(sa.text("select count(*) from lease")).scalar() == 0
            assert {have for (have,) in db.execute(sa.text("select have from task"))} <= {0, 1, 2}
    assert len(set(names)) == len(names) == 2 * EACH
    order = [name for name, _ in names]
    assert sum(one != two for one, two in itertools.pairwise(order)) > 2, "they did not run side by side"
    with AnnotationStore.open(where) as store:
        assert store.next_task(store.rater(Rater(id="cem", kind="person"))) is not None
