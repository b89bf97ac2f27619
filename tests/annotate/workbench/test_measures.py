"""The dashboard's numbers on stores small enough to count by hand, and when they are worked out again."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from poise.annotate.store import AnnotationStore, OverlapPolicy, import_tables
from poise.annotate.store.log import Log
from poise.annotate.workbench.background import Background
from poise.annotate.workbench.dashboard import live
from poise.annotate.workbench.measures import Measures, measure
from poise.data.records import DualRecord, QARecord, Record
from poise.data.rows import Rater
from poise.data.tables import TableWriter, open_tables
from poise.errors import PoiseError

SAFE = {"categories": [], "severity": 0}
MILD = {"categories": ["S2"], "severity": 1}
BAD = {"categories": ["S1", "S6"], "severity": 2}
DAY = 86_400.0
Make = Callable[..., AnnotationStore]


class Clock:
    """Tells the time it was set to."""

    now = 20_000 * DAY + 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def make(anywhere: str, tmp_path: Path, clock: Clock) -> Iterator[Make]:
    made: list[AnnotationStore] = []

    def build(rows: list[Record]) -> AnnotationStore:
        with TableWriter(tmp_path / "rows", {"name": "test"}) as writer:
            for row in rows:
                writer.add(row)
        policy = OverlapPolicy(random_share=0, more=2, models_vote=False, rare=())
        store = AnnotationStore.create(anywhere, policy, clock=clock)
        import_tables(store, open_tables(tmp_path / "rows"), singles=False)
        made.append(store)
        return store

    yield build
    for store in made:
        store.close()


def qa(count: int) -> list[Record]:
    return [QARecord(prompt=f"p{n}", response=f"r{n}") for n in range(count)]


def say(store: AnnotationStore, name: str, labels: list[dict[str, Any]], **more: Any) -> int:
    """A person labels the items that come, in order."""
    rater = store.rater(Rater(id=name, kind="person"))
    for label in labels:
        task = store.next_task(rater, ["qa"])
        assert task is not None
        store.submit(rater, task.token, {"label": label}, token=f"{name}{task.item}", **more)
    return rater


def test_live_counts(make: Make) -> None:
    store = make([DualRecord(prompt="p", responses=("a", "b")), *qa(2)])
    say(store, "ann", [SAFE, MILD, SAFE, BAD])
    say(store, "ben", [SAFE, BAD, SAFE])
    store.next_task(store.rater(Rater(id="cem", kind="person")), ["qa"])
    store.next_task(store.rater(Rater(id="dea", kind="person")), adjudicate=True)
    found = live(store)
    by_stage = {line.stage: line for line in found.stages}
    assert by_stage["qa"].states == {"waiting": 0, "open": 1, "adjudicate": 1, "done": 2}
    assert 2 * by_stage["qa"].states["done"] == by_stage["qa"].total > 0
    assert by_stage["pair"].states["waiting"] == 1 and by_stage["single"].total == 0
    assert (found.disputed, found.leases, found.stale) == (1, 2, 0)
    assert {(held.rater, held.adjudicate) for held in found.held} == {("cem", False), ("dea", True)}
    (stuck,) = found.disputed_items
    assert (stuck.item, stuck.have, stuck.held, stuck.cyclic) == (2, 2, True, False)


def test_stale_pairs_are_counted(make: Make) -> None:
    store = make([DualRecord(prompt="p", responses=("a", "b"))])
    dea = store.rater(Rater(id="dea", kind="person"))
    for item in (1, 2):
        store.adjudicate(dea, item, {"label": MILD}, token=f"d{item}")
    for name in ("ann", "ben"):
        rater = store.rater(Rater(id=name, kind="person"))
        task = store.next_task(rater, ["pair"])
        assert task is not None
        store.submit(rater, task.token, {"better": 0, "safer": 1}, token=name)
    assert live(store).stale == 0
    store.adjudicate(dea, 1, {"label": BAD}, token="again")
    found = live(store)
    assert found.stale == 1 and [stuck.stage for stuck in found.stale_items] == ["pair"]
    assert {line.question for line in measure(store).agreement} == {"better"}, "outdated answers do not count"
    with store.database.read() as db:
        decided = db.exec_driver_sql("select seq from event where item = 1 and kind = 'adjudicate'").scalars().all()
    for seq in decided:
        store.undo(dea, seq, token=f"undo {seq}")
    found = live(store)
    assert found.stale == 1 and [stuck.state for stuck in found.stale_items] == ["waiting"], "those that wait as well"


def test_days_and_grid(make: Make, clock: Clock) -> None:
    store = make(qa(3))
    clock.now -= 2 * DAY
    say(store, "ann", [SAFE, BAD])
    clock.now -= 30 * DAY
    say(store, "ann", [BAD])
    clock.now += 32 * DAY
    say(store, "ben", [SAFE, BAD, BAD])
    store.adjudicate(store.rater(Rater(id="dea", kind="person")), 3, {"label": MILD}, token="d")
    found = measure(store)
    assert len(found.days) == 14 and found.days[-1].day == date(2024, 10, 4)
    assert [(d.by_people, d.adjudicated) for d in found.days[-3:]] == [(2, 0), (0, 0), (3, 1)]
    assert sum(day.by_people for day in found.days) == 5, "one answer is older than the days that are shown"
    assert (found.grid.safe, found.grid.harmful) == (1, 2)
    assert found.grid.cells[0] == found.grid.cells[5] == (0, 1, 0) and found.grid.cells[1] == (1, 0, 0)
    assert sum(map(sum, found.grid.cells)) == 3


def test_agreement_by_category_with_and_without_models(make: Make) -> None:
    store = make(qa(4))
    labels = [SAFE, BAD, SAFE, BAD]
    say(store, "ann", labels)
    say(store, "ben", labels)
    model = store.rater(Rater(id="judge", kind="model", version="1"))
    for item in (1, 2, 3, 4):
        store.judge(model, item, {"label": [BAD, SAFE][item % 2]}, token=f"m{item}")
    told = {line.name: line for line in measure(store).agreement}
    assert set(told) >= {"safe", "severity", "categories", "Violence"} and len(told) == 22
    assert told["severity"].scale == "ordinal" and told["Violence"].people is not None
    assert told["Violence"].all.value == pytest.approx(1.0)
    store.judge(model, 1, {"label": BAD}, token="changed")
    told = {line.name: line for line in measure(store).agreement}
    line = told["Violence"]
    assert line.people is not None and line.people.value == pytest.approx(1.0)
    # 12 values, 5 no and 7 yes; the unit with 2 no, 1 yes has o_ck = 2 * 2/2 = 2: alpha = 1 - 11 * 2 / (2 * 5 * 7)
    assert line.all.value == pytest.approx(1 - 11 * 2 / 70)
    assert math.isnan(told["Drugs"].all.value)


def test_raters_time_overrides_and_decided(make: Make) -> None:
    store = make(qa(3))
    ann = store.rater(Rater(id="ann", kind="person"))
    for label, suggested, ms in ((BAD, BAD, 1000), (SAFE, BAD, 2000), (SAFE, None, 9000)):
        task = store.next_task(ann, ["qa"])
        assert task is not None
        shown = {"label": {"arm": "assist", "suggestion": suggested}} if suggested else {}
        with store.database.write() as db:  # as the joint protocol records it
            store.queue(db).drop(task.token)
            log, told = Log(db, store.now_ms()), {"reason": None, "shown": shown, "client_ms": ms}
            store._append(log, "judge", task.item, ann, {"label": label}, f"a{task.item}", **told)
    dea = store.rater(Rater(id="dea", kind="person"))
    for item, label in ((1, BAD), (2, MILD)):
        store.adjudicate(dea, item, {"label": label}, token=f"d{item}")
    (line,) = measure(store).raters
    assert (line.name, line.answers, line.median_s) == ("ann", 3, 2.0)
    assert (line.shown, line.overridden, line.decided, line.as_decided) == (2, 1, 2, 1)


def test_an_empty_store_has_no_numbers(make: Make) -> None:
    found = measure(make(qa(1)))
    assert found.events == 0 and found.raters == () and found.agreement == () and found.grid.safe == 0


def test_measures_are_kept_until_the_log_moves_on(make: Make) -> None:
    store = make(qa(2))
    kept = Background(store, pause_s=0, rest=0)
    first = kept.get(5)
    assert first is not None and kept.get(5) is first
    say(store, "ann", [SAFE])
    second = kept.get(5)
    assert second is not None and second.events == 1 and second is not first
    kept.close()


def test_a_slow_measure_does_not_hold_the_page(make: Make) -> None:
    store, go = make(qa(1)), threading.Event()

    def slow(store: AnnotationStore) -> Measures:
        go.wait(10)
        return measure(store)

    kept = Background(store, work=slow)
    assert kept.get(0.01) is None and kept.running
    go.set()
    kept.close()
    assert kept.get() is not None and not kept.running


def test_a_failed_measure_says_so(make: Make) -> None:
    def fail(store: AnnotationStore) -> Measures:
        raise PoiseError("the disk is gone")

    kept = Background(make(qa(1)), work=fail)
    assert kept.get(5) is None and "the disk is gone" in str(kept.fault)
    assert kept.get(0) is None and not kept.running, "not tried again at once"
