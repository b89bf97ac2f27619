"""Batches under inspection: blind, no votes, bounds as by hand, and no label found wrong stays current."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from poise.annotate.agreement.from_store import read_store
from poise.annotate.quality.acceptance import batch_bounds
from poise.annotate.quality.golds import set_policy
from poise.annotate.quality.inspection import draw, draw_more, inspections
from poise.annotate.quality.report import quality_report
from poise.annotate.store import AnnotationStore, OverlapPolicy, export_tables
from poise.annotate.workbench.adjudication import Adjudication, voices
from poise.cli.main import main
from poise.data.records import QARecord
from poise.errors import PoiseError

from .conftest import BAD, MILD, SAFE, Bench, Make, pair_of, qa_rows

ONE = OverlapPolicy(people=1, more=1, random_share=0, lease_s=60, models_vote=False)
INSPECTORS = (3, 4)


def labelled(make: Make, count: int, label: Callable[[str], Any] = lambda prompt: SAFE, **rows: Any) -> Bench:
    """A store in which Ann has labelled everything."""
    bench = make(qa_rows(count, **rows), ONE)
    while (task := bench.take(0)) is not None:
        bench.answer(0, task, {"label": label(task.prompt)})
    return bench


def inspect(
    bench: Bench, person: int = 3, label: Callable[[str], Any] = lambda prompt: SAFE, most: int = 999
) -> list[Any]:
    """Inspect until there is nothing left; returns the tasks."""
    tasks: list[Any] = []
    while len(tasks) < most and (task := bench.take(person, "qa", inspect=True)) is not None:
        bench.answer(person, task, {"label": label(task.prompt)})
        tasks.append(task)
    return tasks


def number(prompt: str) -> int:
    return int(prompt.rsplit(maxsplit=1)[-1])


def test_a_batch_is_drawn_inspected_and_judged_as_by_hand(make: Make) -> None:
    """5 of 80 labels are wrong; 30 are inspected, and the bounds are those of what they find."""
    bench = labelled(make, 80)
    found = draw(bench.store, "may", check=30, limit=0.2, measure="verdict")
    assert (found.plan.size, found.drawn, found.inspected, found.verdict) == (80, 30, 0, "inspect on")
    assert (found.lower, found.upper) == (0.0, 1.0)
    tasks = inspect(bench, label=lambda prompt: BAD if number(prompt) < 16 else SAFE)
    errors = sum(number(task.prompt) < 16 for task in tasks)
    assert len(tasks) == 30 and errors > 0
    (found,) = inspections(bench.store)
    bounds = batch_bounds(errors, 30, 80, 0.95)
    assert (found.inspected, found.errors, len(found.wrong)) == (30, errors, errors)
    assert found.lower == pytest.approx(bounds.lower) and found.upper == pytest.approx(bounds.upper)
    assert found.screen.error_rate.mean == pytest.approx(errors / 30)
    assert {wrong.state for wrong in found.wrong} == {"to adjudicate"}
    assert bench.store.verify().fault is None


def test_the_verdict_does_not_wait_for_what_cannot_change_it(make: Make) -> None:
    bench = labelled(make, 60)
    draw(bench.store, "may", check=40, limit=0.1)
    verdicts = []
    while inspect(bench, label=lambda prompt: BAD, most=1):
        verdicts.append(inspections(bench.store)[0].verdict)
    first = next(n for n in range(41) if batch_bounds(n, 40, 60).lower > 0.1)
    assert verdicts == ["inspect on"] * (first - 1) + ["reject"] * (40 - first + 1)


def test_an_inspection_is_blind_and_looks_like_a_task(make: Make) -> None:
    bench = labelled(make, 20, lambda prompt: BAD)
    draw(bench.store, "may", check=20, limit=0.1)
    assert bench.take(4) is None, "it goes to those alone who may inspect"
    task = bench.take(4, inspect=True)
    assert (task.asks, task.judgements, task.locked, task.suggestion, task.draft) == (("label",), (), {}, None, None)
    assert not task.adjudicate and len(task.token) == 22
    assert bench.take(0, inspect=True) is None, "nobody inspects what they have labelled"
    with bench.store.database.read() as db:
        assert bench.store.queue(db).waiting(bench.people[3], "qa", inspect=True) == 19
        assert bench.store.queue(db).waiting(bench.people[3], "qa") == 0


def test_an_inspection_is_no_vote(make: Make, tmp_path: Path) -> None:
    """Inspections that agree move nothing: rows, judgements, agreement and the report on raters stay as they were."""
    bench = labelled(make, 30)
    before = export_tables(bench.store, tmp_path / "before")
    finals, agreed = bench.sql("select * from final order by 1, 2"), read_store(bench.store)
    draw(bench.store, "may", check=30, limit=0.1)
    inspect(bench)
    assert bench.sql("select kind, count(*) from event group by kind order by 1") == [("check", 30), ("judge", 30)]
    after = export_tables(bench.store, tmp_path / "after")
    assert list(before["qa"].records()) == list(after["qa"].records())
    assert list(before["judgements"].records()) == list(after["judgements"].records())
    assert bench.sql("select * from final order by 1, 2") == finals
    again = read_store(bench.store)
    assert [len(again[q].ratings.value) for q in again] == [len(agreed[q].ratings.value) for q in agreed] == [30]
    assert [one["gold"]["accuracy"]["n"] for one in quality_report(bench.store)["raters"]] == [0, 0]
    (found,) = inspections(bench.store)
    assert (found.verdict, found.upper) == ("accept", 0.0), "a batch that was inspected whole is known"


def test_what_is_found_wrong_goes_to_somebody_else_to_decide(make: Make, tmp_path: Path) -> None:
    bench = make([pair_of("p 0", "one", "two")], ONE)
    while (task := bench.take(0, "qa")) is not None:
        bench.answer(0, task, {"label": SAFE})
    pair = bench.items("pair")[0]
    assert bench.task(pair)[0] == "open"
    draw(bench.store, "may", check=2, limit=0.1)
    task = bench.take(3, inspect=True)
    bench.answer(3, task, {"label": BAD})
    assert bench.final(task.item, "label").settled in (0, False)
    assert (bench.task(task.item)[0], bench.task(pair)[0]) == ("adjudicate", "waiting")
    rows = export_tables(bench.store, tmp_path / "out")["qa"].records()
    assert sorted(str(row.label.safe) for row in rows if isinstance(row, QARecord)) == ["None", "True"]
    assert bench.take(3, "qa", adjudicate=True) is None, "the inspector does not decide"
    held = bench.take(2, "qa", adjudicate=True)
    case = Adjudication(bench.store, bench.people[2], held.token)
    case.vote({"label": BAD})
    assert sorted(voice.kind for voice in case.reveal()) == ["inspector", "person"]
    case.decide({"label": BAD}, code="slip", note="", token="d")
    assert bench.final(task.item, "label").value == json.dumps(BAD, separators=(",", ":"))
    assert bench.task(pair)[0] == "open", "now the order decides what is safer"
    (found,) = inspections(bench.store)
    assert [wrong.state for wrong in found.wrong] == ["confirmed"] and found.errors == 1
    shown = bench.sql("select shown from event where kind = 'check'")[0].shown
    assert json.loads(shown)["inspects"] == {"batch": "may", "label": SAFE, "version": 1}


def test_an_adjudicator_who_upholds_a_label_ends_it(make: Make) -> None:
    bench = labelled(make, 3)
    draw(bench.store, "may", check=3, limit=0.1)
    task = bench.take(3, inspect=True)
    bench.answer(3, task, {"label": BAD})
    held = bench.take(2, adjudicate=True)
    bench.answer(2, held, {"label": SAFE}, reason="slip")
    (found,) = inspections(bench.store)
    assert [wrong.state for wrong in found.wrong] == ["upheld"] and found.errors == 0
    assert bench.task(task.item)[0] == "done"


def test_an_adjudicated_label_and_one_that_was_kept_can_be_found_wrong(make: Make) -> None:
    """A second adjudication begins with a new blind vote, also of somebody who has decided the item before."""
    bench = labelled(make, 2)
    first, second = bench.items("qa")
    bench.adjudicate(first, person=2, label=MILD)
    with bench.store.database.write() as db:
        db.exec_driver_sql(f"insert into blind_vote values ({first}, {bench.people[2]}, 'label', '{{}}', 1)")
    draw(bench.store, "may", check=2, limit=0.1)
    inspect(bench)
    assert [bench.task(item)[0] for item in (first, second)] == ["adjudicate", "done"]
    held = bench.take(2, adjudicate=True)
    case = Adjudication(bench.store, bench.people[2], held.token)
    assert held.item == first and case.blind() is None


@pytest.mark.parametrize(("measure", "wrong"), [("verdict", 0), ("exact", 6)])
def test_what_counts_as_wrong_is_part_of_the_plan(make: Make, measure: str, wrong: int) -> None:
    bench = labelled(make, 6, lambda prompt: BAD)
    draw(bench.store, "may", check=6, limit=0.1, measure=measure)
    inspect(bench, label=lambda prompt: MILD)
    assert inspections(bench.store)[0].errors == wrong
    assert {bench.task(item)[0] for item in bench.items("qa")} == {"adjudicate" if wrong else "done"}


def test_taking_back_and_correcting_an_inspection(make: Make) -> None:
    bench = labelled(make, 4)
    draw(bench.store, "may", check=4, limit=0.1)
    task = bench.take(3, inspect=True)
    made = bench.answer(3, task, {"label": BAD})
    assert bench.task(task.item)[0] == "adjudicate"
    bench.store.judge(bench.people[3], task.item, {"label": SAFE}, token="correct")
    assert bench.task(task.item)[0] == "done" and inspections(bench.store)[0].errors == 0
    assert json.loads(bench.sql("select shown from event where token = 'correct'")[0].shown)["inspects"]
    last = bench.sql("select max(seq) from event")[0][0]
    bench.store.undo(bench.people[3], last, token="u1")
    assert bench.task(task.item)[0] == "adjudicate" and inspections(bench.store)[0].errors == 1
    bench.store.undo(bench.people[3], made["label"], token="u2")
    assert bench.task(task.item)[0] == "done" and inspections(bench.store)[0].inspected == 0
    assert bench.take(3, inspect=True).item == task.item, "it is asked again"


def test_no_inspection_is_lost_and_none_is_made_twice(make: Make) -> None:
    """A lease that expires, and a skip, leave the label to the other inspector."""
    bench = labelled(make, 10)
    draw(bench.store, "may", check=10, limit=0.1)
    first = bench.take(3, inspect=True)
    assert bench.take(4, inspect=True).item != first.item
    bench.now[0] += 61
    taken = bench.take(4, "qa", inspect=True)
    while taken.item != first.item:
        bench.answer(4, taken, {"label": SAFE})
        taken = bench.take(4, "qa", inspect=True)
    with pytest.raises(PoiseError, match="lease is over"):
        bench.answer(3, first, {"label": BAD})
    bench.store.release(bench.people[4], taken.token, skip=True)
    assert inspect(bench, 4) and inspections(bench.store)[0].inspected == 9
    assert [task.item for task in inspect(bench)] == [first.item], "back to the first, who has not skipped it"
    assert inspections(bench.store)[0].inspected == 10
    assert bench.sql("select count(*) from event where kind = 'check'")[0][0] == 10


def test_opt_outs_hold(make: Make) -> None:
    bench = labelled(make, 4, lambda prompt: BAD)
    draw(bench.store, "may", check=4, limit=0.1)
    bench.store.opt_out(bench.people[3], ["S1"])
    assert inspect(bench) == [] and len(inspect(bench, 4, lambda prompt: BAD)) == 4


def test_an_inspector_has_no_part_in_the_item_later(make: Make) -> None:
    """When the only answer is taken back the item is open again, and not for its inspector."""
    bench = make(qa_rows(1), ONE)
    made = bench.answer(0, bench.take(0), {"label": SAFE})
    draw(bench.store, "may", check=1, limit=0.1)
    inspect(bench)
    bench.store.undo(bench.people[0], made["label"], token="u")
    assert bench.take(3, "qa") is None and bench.take(1, "qa") is not None


def test_a_screen_tells_its_precision_and_recall(make: Make) -> None:
    """The model doubts 10 of 100 labels, 6 of them rightly; of the others 9 are wrong. All are inspected: no doubt."""
    bench = labelled(make, 100)
    for item in bench.items("qa"):
        label = BAD if item <= 10 else SAFE
        bench.store.judge(bench.model, item, {"label": label}, token=f"m{item}")
    items = {
        row.item: row.body
        for row in bench.sql(
            "select i.id as item, t.body from item i join text t on t.id = i.prompt where i.kind = 'qa'"
        )
    }
    found = draw(bench.store, "may", check=90, top=10, model="judge", limit=0.5, confidence=0.9)
    assert (found.drawn, found.plan.size) == (100, 100)
    wrong = {json.loads(items[item]) for item in (*range(1, 7), *range(20, 29))}
    inspect(bench, label=lambda prompt: BAD if prompt in wrong else SAFE)
    found = inspections(bench.store)[0]
    assert found.screen.precision == (0.6, 0.6, 0.6, 10)
    assert found.screen.recall.mean == pytest.approx(6 / 15) == found.screen.recall.low
    assert (found.lower, found.upper) == (pytest.approx(0.15), pytest.approx(0.15))
    assert found.verdict == "accept"


def test_a_screen_that_was_inspected_in_part_has_intervals(make: Make) -> None:
    """Half of the doubts are right, and one of the 30 others that are inspected is wrong: it stands for 170 / 30."""
    bench = labelled(make, 180)
    for item in bench.items("qa"):
        bench.store.judge(bench.model, item, {"label": BAD if item <= 10 else SAFE}, token=f"m{item}")
    draw(bench.store, "may", check=30, top=10, model="judge", limit=0.5)
    others, wrong = [], {1, 2, 3, 4, 5}
    while (task := bench.take(3, "qa", inspect=True)) is not None:
        others += [task.item] if task.item > 10 else []
        bad = task.item in wrong or others == [task.item]
        bench.answer(3, task, {"label": BAD if bad else SAFE})
    (found,) = inspections(bench.store)
    screen = found.screen
    assert len(others) == 30 and screen.precision.mean == 0.5
    assert screen.recall.mean == pytest.approx(5 / (5 + 170 / 30))
    assert screen.recall.low < screen.recall.mean < screen.recall.high < 1
    assert screen.error_rate.mean == pytest.approx((5 + 170 / 30) / 180)
    bounds = batch_bounds(1, 30, 170)
    assert found.upper == pytest.approx((5 + 170 * bounds.upper) / 180)
    assert found.lower == pytest.approx((5 + 170 * bounds.lower) / 180)


def test_what_the_model_did_not_judge_comes_first(make: Make) -> None:
    bench = labelled(make, 12)
    for item in bench.items("qa")[:10]:
        bench.store.judge(bench.model, item, {"label": SAFE}, token=f"m{item}")
    found = draw(bench.store, "may", check=1, top=2, model="judge", limit=0.5)
    top = bench.sql("select item from batch_item where part = 'top' order by item")
    assert (found.plan.unknown, [row.item for row in top]) == (2, [11, 12])
    with pytest.raises(PoiseError, match="no labels by a model 'nobody'"):
        draw(bench.store, "june", check=1, top=1, model="nobody", limit=0.5)


def test_a_batch_is_what_stood_and_fits(make: Make) -> None:
    bench = labelled(make, 12, dataset="one")
    times = [row.at_ms for row in bench.sql("select at_ms from event order by seq")]
    assert len(set(times)) == 1
    bench.now[0] += 1000
    bench.adjudicate(bench.items("qa")[0], label=MILD)
    later = draw(bench.store, "late", check=5, limit=0.1, since_ms=times[0] + 1)
    assert (later.plan.size, later.drawn) == (1, 1)
    assert draw(bench.store, "early", check=5, limit=0.1, until_ms=times[0] + 1).plan.size == 11
    assert draw(bench.store, "ann", check=5, limit=0.1, rater="ann", dataset="one").plan.size == 12
    for more in ({"rater": "ben"}, {"dataset": "two"}):
        with pytest.raises(PoiseError, match="no label stands that fits"):
            draw(bench.store, "none", check=5, limit=0.1, **more)


def test_more_is_drawn_as_often_as_was_planned(make: Make) -> None:
    bench = labelled(make, 80)
    draw(bench.store, "may", check=20, limit=0.05, looks=2)
    first = {task.item for task in inspect(bench)}
    found = inspections(bench.store)[0]
    assert (found.verdict, found.upper) == ("check more", pytest.approx(batch_bounds(0, 20, 80, 0.975).upper))
    more = draw_more(bench.store, "may", found.more or 0)
    second = {task.item for task in inspect(bench)}
    assert (more.verdict, first & second, len(second)) == ("inspect on", set(), found.more)
    assert inspections(bench.store)[0].verdict == "accept"
    with pytest.raises(PoiseError, match="2 looks were planned and taken"):
        draw_more(bench.store, "may", 5)


def test_what_was_left_unjudged_counts_against_the_batch(make: Make) -> None:
    bench = labelled(make, 40)
    draw(bench.store, "may", check=40, limit=0.02)
    inspect(bench, label=lambda prompt: None if number(prompt) == 7 else SAFE)
    found = inspections(bench.store)[0]
    assert (found.inspected, found.unjudged, found.errors) == (40, 1, 0)
    assert (found.lower, found.upper, found.verdict) == (0.0, pytest.approx(1 / 40), "check more")


def test_with_other_checks_beside_them(make: Make) -> None:
    """Repeats are drawn as before, and inspections are never repeated or doubted."""
    bench = labelled(make, 30)
    set_policy(bench.store, repeat_rate=0.5, repeat_after=1)
    draw(bench.store, "may", check=30, limit=0.1)
    assert len(inspect(bench)) == 30
    kinds = bench.sql("select kind, count(*) from probe group by kind")
    assert kinds == [("inspect", 30)]


def test_commands(make: Make, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    bench = labelled(make, 40, lambda prompt: BAD if number(prompt) < 4 else SAFE)
    where = bench.store.database.name

    def told(*words: str) -> str:
        assert main(["annotate", *words]) == 0
        return capsys.readouterr().out

    assert told("inspected", where) == f"{where}: no batch was drawn\n"
    out = told("inspect", where, "may", "--limit", "0.1", "--check", "40", "--since", "1970-01-01")
    assert out.splitlines()[:2] == ["may: inspect on, limit 10.00% of 40 labels", "    inspected 0 of 40"]
    inspect(bench)
    assert told("inspected", where).splitlines() == [
        "may: accept, limit 10.00% of 40 labels",
        "    inspected 40 of 40",
        "    found wrong 4: 4 to adjudicate, 0 upheld",
        "    wrong in the batch at least 10.00%, at most 10.00%",
    ]
    (found,) = json.loads(told("inspected", where, "may", "--json"))
    assert (found["verdict"], len(found["wrong"]), found["plan"]["size"]) == ("accept", 4, 40)
    for words, what in (
        (("inspect", where, "may", "--limit", "0.1", "--check", "4"), "a batch of this name is there"),
        (("inspect", where, "june", "--check", "4"), "not clear what to draw"),
        (("inspect", where, "june", "--limit", "0.1", "--k", "4"), "not clear what to draw"),
        (("inspect", where, "june", "--limit", "1.5", "--check", "4"), "limit: Input should be less than 1"),
        (("inspect", where, "june", "--more", "4"), "no such batch"),
        (("inspect", where, "may", "--more", "4", "--check", "4"), "--more with a new draw"),
        (("inspected", where, "june"), "no such batch"),
    ):
        assert main(["annotate", *words]) == 2
        assert what in capsys.readouterr().err
    assert AnnotationStore.open(where).verify().fault is None
    with bench.store.database.read() as db:
        assert voices(db, bench.items("qa")[0])
