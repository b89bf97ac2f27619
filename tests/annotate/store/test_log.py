"""The log: chain, tampering, undo, idempotence, durability, migrations."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from poise.annotate.store import AnnotationStore, OverlapPolicy, settle
from poise.annotate.store.database import _config
from poise.annotate.store.schema import metadata
from poise.errors import PoiseError

from .conftest import BAD, SAFE, Make, pair_of, qa_rows


def test_the_migrations_make_the_schema(make: Make) -> None:
    bench = make(qa_rows(1))
    with bench.store.database.read() as db:
        assert compare_metadata(MigrationContext.configure(db), metadata) == []
    assert bench.sql("select value from meta where key = 'overlap'")


def test_what_is_made_of_a_label_is_found_without_going_through_all_pairs(make: Make) -> None:
    bench = make([*qa_rows(1), pair_of("Q", "A", "B")])
    steps = [row.detail for row in bench.sql("explain query plan " + settle._USERS, item=1)]
    searches = [step for step in steps if step.startswith(("SEARCH item", "SCAN"))]
    assert len(searches) == 2 and all("item_qa_" in step for step in searches), steps


def test_a_whole_log_verifies(make: Make) -> None:
    bench = make(qa_rows(3))
    for _ in range(3):
        bench.answer(0, bench.take(0), {"label": SAFE})
    checked = bench.store.verify()
    assert (checked.events, checked.fault) == (3, None)
    assert bench.store.verify(checked.head).fault is None


@pytest.mark.parametrize(
    ("harm", "fault"),
    [
        ('update event set value = \'{"categories":[],"severity":1}\' where seq = 2', "event 2 was changed"),
        ("update event set at_ms = at_ms + 1 where seq = 1", "event 1 was changed"),
        ("update event set rater = 2 where seq = 3", "event 3 was changed"),
        ("update event set item = 1 where seq = 2", "event 2 was changed"),
        ("update event set prev_hash = hash where seq = 2", "event 2 does not follow the one before"),
        ("delete from event where seq = 2", "event 2 is missing"),
        ("update rater set name = 'zoe' where name = 'ann'", "event 1 was changed"),
        ("update text set body = '\"other\"' where body = '\"answer 1\"'", "has another text than it was judged by"),
    ],
)
def test_tampering_shows(make: Make, harm: str, fault: str) -> None:
    bench = make(qa_rows(3))
    for _ in range(3):
        bench.answer(0, bench.take(0), {"label": SAFE})
    path = bench.store.database.name
    with sqlite3.connect(path) as db:
        for verb in ("update", "delete"):
            db.execute(f"drop trigger event_no_{verb}")
        assert db.execute(harm).rowcount == 1
    found = bench.store.verify().fault
    assert found is not None and fault in found


def test_a_cut_off_end_shows_against_a_noted_head(make: Make) -> None:
    bench = make(qa_rows(3))
    for _ in range(3):
        bench.answer(0, bench.take(0), {"label": SAFE})
    head = bench.store.verify().head
    with sqlite3.connect(bench.store.database.name) as db:
        db.execute("drop trigger event_no_delete")
        db.execute("delete from event where seq = 3")
    assert bench.store.verify().fault is None
    assert "cut off" in str(bench.store.verify(head).fault)


@pytest.mark.parametrize("harm", ["update event set value = null", "delete from event"])
def test_the_log_is_append_only(make: Make, harm: str) -> None:
    bench = make(qa_rows(1))
    bench.answer(0, bench.take(0), {"label": SAFE})
    with pytest.raises(sqlite3.IntegrityError, match="append-only"), sqlite3.connect(bench.store.database.name) as db:
        db.execute(harm)


def test_undo_is_a_new_event_and_brings_back_what_stood(make: Make) -> None:
    bench = make(qa_rows(1), OverlapPolicy(people=1, random_share=0))
    (item,) = bench.items("qa")
    first = bench.answer(0, bench.take(0), {"label": SAFE})["label"]
    second = bench.store.judge(bench.people[0], item, {"label": BAD}, token="again")["label"]
    assert bench.final(item, "label").value == '{"categories":["S1"],"severity":2}'
    undo = bench.store.undo(bench.people[0], second, token="undo")
    assert (first, second, undo) == (1, 2, 3)
    assert bench.final(item, "label").value == '{"categories":[],"severity":0}'
    bench.store.undo(bench.people[0], first, token="undo again")
    assert bench.final(item, "label").value is None
    assert bench.task(item).state == "open"
    assert bench.take(0).item == item
    assert bench.store.verify().fault is None


def test_only_ones_own_answer_is_undone_and_once(make: Make) -> None:
    bench = make(qa_rows(1))
    seq = bench.answer(0, bench.take(0), {"label": SAFE})["label"]
    with pytest.raises(PoiseError, match="somebody else's answer"):
        bench.store.undo(bench.people[1], seq, token="a")
    undo = bench.store.undo(bench.people[0], seq, token="b")
    assert bench.store.undo(bench.people[0], seq, token="b") == undo
    with pytest.raises(PoiseError, match="taken back already"):
        bench.store.undo(bench.people[0], seq, token="c")
    with pytest.raises(PoiseError, match="this is an undo"):
        bench.store.undo(bench.people[0], undo, token="d")
    with pytest.raises(PoiseError, match="no such event"):
        bench.store.undo(bench.people[0], 99, token="e")


def test_a_double_click_gives_the_same_event(make: Make) -> None:
    bench = make(qa_rows(1))
    task = bench.take(0)
    first = bench.answer(0, task, {"label": SAFE}, token="click")
    assert bench.answer(0, task, {"label": SAFE}, token="click") == first == {"label": 1}
    assert bench.store.verify().events == 1
    with pytest.raises(PoiseError, match="used by somebody else"):
        bench.answer(1, bench.take(1), {"label": SAFE}, token="click")


def test_every_judgement_names_policy_and_guideline(make: Make) -> None:
    bench = make(qa_rows(1))
    bench.answer(0, bench.take(0), {"label": SAFE}, client_ms=1234, shown={"label": BAD})
    ((policy, guideline, ms, shown),) = bench.sql("select policy, guideline, client_ms, shown from event")
    assert guideline == "1.0.0" and ms == 1234 and "S1" in shown
    ((pages,),) = bench.sql("select guidelines from edition where policy = :policy", policy=policy)
    assert '"S1":"1.0.0"' in pages


@pytest.mark.parametrize(
    ("value", "match"),
    [
        ({"categories": [], "severity": 2}, "safe means"),
        ({"categories": ["S1"], "severity": 0}, "safe means"),
        ({"categories": ["S77"], "severity": 1}, "no harm category"),
        ({"categories": []}, "is no label"),
        ("safe", "is no label"),
    ],
)
def test_a_malformed_label_is_refused_and_stores_nothing(make: Make, value: object, match: str) -> None:
    bench = make(qa_rows(1))
    task = bench.take(0)
    with pytest.raises(PoiseError, match=match):
        bench.answer(0, task, {"label": value})
    assert bench.store.verify().events == 0
    bench.answer(0, task, {"label": SAFE})


_WRITER = """
import itertools, sys
from poise.annotate.store import AnnotationStore
from poise.data.rows import Rater
store = AnnotationStore.open(sys.argv[1])
ann = store.rater(Rater(id="ann", kind="person"))
for n in itertools.count():
    task = store.next_task(ann)
    made = store.submit(ann, task.token, {"label": {"categories": [], "severity": 0}}, token=f"{sys.argv[2]}-{n}")
    print(made["label"], flush=True)
"""


def test_what_was_answered_survives_kill_9(make: Make) -> None:
    bench = make(qa_rows(400))
    path, told = str(bench.store.database.name), 0
    for run in "ab":
        with subprocess.Popen([sys.executable, "-c", _WRITER, path, run], stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            for _ in range(20):
                told = int(writer.stdout.readline())
            writer.send_signal(signal.SIGKILL)
            rest = writer.stdout.read().split()
        told = int(rest[-1]) if rest and rest[-1].isdigit() else told
        with AnnotationStore.open(path) as store:
            checked = store.verify()
        assert checked.fault is None and checked.events >= told
    ((answered, distinct),) = bench.sql("select count(*), count(distinct item) from event")
    assert answered == distinct


def test_not_a_store(tmp_path: Path) -> None:
    with pytest.raises(PoiseError, match="no such store"):
        AnnotationStore.open(tmp_path / "none.db")
    (tmp_path / "text.db").write_text("hello, this is no database at all" * 50)
    with pytest.raises(PoiseError, match="not a database"):
        AnnotationStore.create(tmp_path / "text.db")
    with sqlite3.connect(tmp_path / "other.db") as db:
        db.execute("create table cats (name text)")
    with pytest.raises(PoiseError, match="no annotation store"):
        AnnotationStore.create(tmp_path / "other.db")
    AnnotationStore.create(tmp_path / "mine.db").close()
    with pytest.raises(PoiseError, match="another policy"):
        AnnotationStore.create(tmp_path / "mine.db", OverlapPolicy(people=5))
    with sqlite3.connect(tmp_path / "mine.db") as db:
        db.execute("update alembic_version set version_num = '9999'")
    with pytest.raises(PoiseError, match="version 9999"):
        AnnotationStore.open(tmp_path / "mine.db")


def test_a_store_of_the_first_version_is_brought_up_to_date(tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    engine = sa.create_engine(f"sqlite:///{path}")
    with engine.begin() as db:
        command.upgrade(_config(db), "0001")
    engine.dispose()
    with pytest.raises(PoiseError, match="older version 0001"):
        AnnotationStore.open(path)
    with AnnotationStore.create(path) as store, store.database.read() as db:
        assert compare_metadata(MigrationContext.configure(db), metadata) == []


def test_what_people_have_read_is_kept_when_a_store_is_brought_up_to_date(tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    engine = sa.create_engine(f"sqlite:///{path}")
    with engine.begin() as db:
        command.upgrade(_config(db), "0004_joint")
        db.exec_driver_sql("insert into text values (1, 'x', '\"t\"')")
        row = "(1, 'qa', 'k', 1, 1, null, null, null, 'h', null, 't', '{}')"
        db.exec_driver_sql(f"insert into item values {row}")
        db.exec_driver_sql("insert into rater values (1, 'ann', 'person', '')")
        db.exec_driver_sql(
            "insert into exposure (rater, item, day, at_ms, severe) values (1, 1, '2025-01-02', 5, true)"
        )
    engine.dispose()
    with AnnotationStore.create(path) as store, store.database.read() as db:
        (read,) = db.exec_driver_sql("select rater, item, again, day, at_ms, severe from exposure").all()
    assert tuple(read) == (1, 1, 0, "2025-01-02", 5, 1)
