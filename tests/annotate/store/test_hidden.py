"""Hidden checks: gold, repeats and swaps look like tasks, take nobody's place, and become no data."""

from __future__ import annotations

import json
import random
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from poise.annotate.quality.golds import add_gold, decide_gold, gold_items, set_policy
from poise.annotate.quality.report import quality_report
from poise.annotate.store import (
    AnnotationStore,
    JointPolicy,
    OverlapPolicy,
    export_tables,
    export_tasks,
    import_answers,
    import_tables,
    status,
)
from poise.cli.main import main
from poise.data.adapters.label_studio import LABEL_STUDIO
from poise.data.records import DualRecord, JudgementRecord, PartialLabel, QARecord, Record, SingleRecord
from poise.data.rows import Rater
from poise.data.tables import open_tables
from poise.errors import PoiseError

from .conftest import BAD, SAFE, Bench, Make, pair_of, qa_rows, write_rows

ONE = OverlapPolicy(people=1, more=1, random_share=0)
VIOLENCE = PartialLabel(safe=False, categories=("Endangering National Security",), severity=2)
HARMLESS = PartialLabel(safe=True, categories=(), severity=0)


def gold_rows(count: int, label: PartialLabel = HARMLESS) -> list[Record]:
    """QA rows with a known label."""
    return [QARecord(prompt=f"gold {n}", response=f"known {n}", label=label) for n in range(count)]


def add(bench: Bench, tmp_path: Path, rows: list[Record], **policy: Any) -> dict[str, int]:
    """Add gold and set the policy."""
    number = len(list(tmp_path.glob("gold*")))
    counts = add_gold(bench.store, open_tables(write_rows(tmp_path / f"gold{number}", rows)))
    set_policy(bench.store, **({"gold_rate": 0.3} | policy))
    return counts


def work(bench: Bench, person: int, *stages: str, label: Any = SAFE, most: int = 10_000) -> list[Any]:
    """Answer until there is nothing left; returns the tasks."""
    tasks: list[Any] = []
    while len(tasks) < most and (task := bench.take(person, *stages)) is not None:
        told = {q: label(task) if callable(label) else label for q in task.asks} if "label" in task.asks else None
        bench.answer(person, task, told or {q: {"choice": 0, "strength": None} for q in task.asks})
        tasks.append(task)
    return tasks


def is_gold(task: Any) -> bool:
    return bool(task.prompt.startswith("gold"))


def test_a_gold_task_differs_in_nothing_from_a_task(make: Make, tmp_path: Path) -> None:
    bench = make(qa_rows(60), ONE)
    add(bench, tmp_path, gold_rows(20))
    tasks = work(bench, 0)
    kinds = {is_gold(task): task for task in tasks}
    own = ("token", "item", "prompt", "responses")
    told = [{name: value for name, value in asdict(task).items() if name not in own} for task in kinds.values()]
    assert len(told) == 2 and told[0] == told[1]
    assert {len(task.token) for task in tasks} == {22}


def test_the_rate_is_kept_by_hash_and_differs_by_person(make: Make, tmp_path: Path) -> None:
    bench = make(qa_rows(200), OverlapPolicy(people=2, random_share=0))
    add(bench, tmp_path, gold_rows(80), gold_rate=0.15)
    runs = [[is_gold(task) for task in work(bench, person)] for person in (0, 1)]
    assert all(0.08 < sum(run) / len(run) < 0.22 for run in runs)
    assert runs[0][:50] != runs[1][:50]


def test_an_item_comes_to_a_person_once_and_rests_at_its_cap(make: Make, tmp_path: Path) -> None:
    bench = make(qa_rows(100), OverlapPolicy(people=5, more=5, random_share=0))
    add(bench, tmp_path, gold_rows(10), cap=3)
    seen = [Counter(task.item for task in work(bench, person) if is_gold(task)) for person in range(5)]
    assert all(set(items.values()) <= {1} for items in seen)
    shown = sum(seen, Counter())
    assert set(shown.values()) == {3} and len(shown) == 10, "rotation uses all of them up to the cap"
    assert quality_report(bench.store)["gold"]["at_cap"] == 10
    assert seen[4] == Counter()


def test_without_work_there_is_no_gold(make: Make, tmp_path: Path) -> None:
    bench = make(qa_rows(1), ONE)
    add(bench, tmp_path, gold_rows(5), gold_rate=0.5)
    assert [is_gold(task) for task in work(bench, 0)][-1] is False
    assert bench.take(0) is None and bench.take(1) is None


def test_an_unanswered_check_comes_again_and_a_skipped_one_never(make: Make, tmp_path: Path) -> None:
    bench = make(qa_rows(40), ONE)
    add(bench, tmp_path, gold_rows(9), gold_rate=0.5)
    while not is_gold(task := bench.take(0)):
        bench.answer(0, task, {"label": SAFE})
    bench.store.save_draft(bench.people[0], task.token, {"half": 1})
    assert bench.take(0).token == task.token, "held"
    bench.now[0] += 10_000
    again = bench.take(0)
    assert (again.item, again.draft, again.token != task.token) == (task.item, {"half": 1}, True)
    before = quality_report(bench.store)["raters"]
    bench.store.release(bench.people[0], again.token, skip=True)
    bench.store.opt_out(bench.people[0], ["S4"])
    assert quality_report(bench.store)["raters"] == before, "what a person does not want to see is not in the report"
    assert task.item not in [later.item for later in work(bench, 0)]


def test_opt_outs_hold_for_gold(make: Make, tmp_path: Path) -> None:
    bench = make(qa_rows(40), ONE)
    add(bench, tmp_path, gold_rows(9, VIOLENCE), gold_rate=0.5)
    bench.store.opt_out(bench.people[0], VIOLENCE.categories or ())
    assert not any(is_gold(task) for task in work(bench, 0, most=20))
    assert any(is_gold(task) for task in work(bench, 1))


def test_no_answer_to_a_check_becomes_data(make: Make, tmp_path: Path) -> None:
    """The same work with and without checks gives the same rows and judgements but for numbers and times of events."""
    bench = make([*qa_rows(30), pair_of("p", "one", "two")], OverlapPolicy(people=2, random_share=0))
    for person in (0, 1, 0):
        work(bench, person)
    plain = export_tables(bench.store, tmp_path / "plain")
    before = bench.sql("select item, question, value, source from final order by 1, 2")
    add(bench, tmp_path, [*gold_rows(10, VIOLENCE), gold_pair(0)], gold_rate=0.25, repeat_rate=0.25, repeat_after=1)
    import_tables(bench.store, open_tables(write_rows(tmp_path / "late", qa_rows(60))), singles=False)
    for person in (0, 1, 2):
        work(bench, person, label=BAD)
    events = bench.sql("select count(*) from event where kind = 'check'")[0][0]
    assert events > 20
    made = export_tables(bench.store, tmp_path / "made")
    rows = {record.prompt: record for record in made["qa"].records() if isinstance(record, QARecord)}
    assert not any(prompt.startswith("gold") for prompt in rows)
    late = {f"question {n}" for n in range(30, 60)}
    assert {prompt: row for prompt, row in rows.items() if prompt not in late} == {
        record.prompt: record for record in plain["qa"].records() if isinstance(record, QARecord)
    }
    assert list(made["default"].records()) == list(plain["default"].records())
    old = [row for row in bench.sql("select item, question, value, source from final order by 1, 2") if row in before]
    assert old == before, "repeats with another answer move nothing"
    judged = made["judgements"].rows - plain["judgements"].rows
    assert judged == bench.sql("select count(*) from current_judgement")[0][0] - plain["judgements"].rows
    assert bench.sql("select 1 from task t join gold g on g.item = t.item where not g.data") == []
    assert bench.sql("select 1 from final t join gold g on g.item = t.item where not g.data") == []
    assert bench.store.verify().fault is None


def gold_pair(safer: int, labels: tuple[PartialLabel, PartialLabel] = (VIOLENCE, VIOLENCE)) -> DualRecord:
    return DualRecord(prompt="gold pair", responses=("left", "right"), labels=labels, better=1, safer=safer)


def test_a_gold_pair_is_locked_as_any_pair(make: Make, tmp_path: Path) -> None:
    bench = make([pair_of(f"p{n}", "one", "two") for n in range(12)], ONE)
    for item in bench.items("qa"):
        bench.adjudicate(item, label=SAFE if item % 2 else BAD)
    counts = add(bench, tmp_path, [gold_pair(0, (HARMLESS, VIOLENCE))], gold_rate=0.5)
    assert counts == {"qa": 2, "pair": 1}
    tasks = work(bench, 0, "pair")
    gold = next(task for task in tasks if is_gold(task))
    plain = next(task for task in tasks if task.locked)
    assert gold.asks == plain.asks == ("better",)
    assert gold.locked == {"safer": {"choice": 0, "strength": None, "reason": "exactly one response is safe"}}
    assert set(gold.locked["safer"]) == set(plain.locked["safer"])


def test_a_gold_pair_asks_for_a_reason_as_any_pair(make: Make, tmp_path: Path) -> None:
    mild = PartialLabel(safe=False, categories=("Violence",), severity=1)
    bench = make([pair_of(f"p{n}", "one", "two") for n in range(12)], ONE)
    for item in bench.items("qa"):
        bench.adjudicate(item, label=SAFE)
    add(bench, tmp_path, [gold_pair(1, (VIOLENCE, mild))], gold_rate=0.5)
    while not is_gold(task := bench.take(0, "pair")):
        bench.answer(0, task, dict.fromkeys(task.asks, 0))
    with pytest.raises(PoiseError, match="the more severe one"):
        bench.answer(0, task, {"better": 1, "safer": 0})
    bench.answer(0, task, {"better": 1, "safer": 0}, reason="it says why")
    (told,) = [one for one in quality_report(bench.store)["raters"] if one["name"] == "ann"]
    assert (told["gold"]["exact"], told["gold"]["wrong"]) == (1, 1)


def test_undoing_and_correcting_a_check_stays_a_check(make: Make, tmp_path: Path) -> None:
    bench = make(qa_rows(40), ONE)
    add(bench, tmp_path, gold_rows(5), gold_rate=0.5)
    while not is_gold(task := bench.take(0)):
        bench.answer(0, task, {"label": SAFE})
    made = bench.answer(0, task, {"label": BAD})
    bench.store.judge(bench.people[0], task.item, {"label": SAFE}, token=bench.token())
    assert {row[0] for row in bench.sql("select kind from event where item = :i", i=task.item)} == {"check"}
    assert quality_report(bench.store)["raters"][0]["gold"]["exact"] == 1
    last = bench.sql("select max(seq) from event")[0][0]
    bench.store.undo(bench.people[0], last, token=bench.token())
    assert quality_report(bench.store)["raters"][0]["gold"]["wrong"] == 1
    bench.store.undo(bench.people[0], made["label"], token=bench.token())
    assert bench.take(0).item == task.item, "it was taken back, so it is asked again"
    assert bench.sql("select 1 from final where item = :i", i=task.item) == []
    with pytest.raises(PoiseError, match="its answer is known"):
        bench.adjudicate(task.item, label=SAFE)
    bench.store.judge(bench.model, task.item, {"label": SAFE}, token=bench.token())
    assert quality_report(bench.store)["raters"][-1]["gold"]["exact"] == 1


def test_a_repeat_comes_after_enough_others_and_once(make: Make) -> None:
    bench = make(qa_rows(120), ONE)
    set_policy(bench.store, repeat_rate=0.2, repeat_after=15)
    tasks, labels = [], {}

    def answer(task: Any) -> Any:
        tasks.append(task.item)
        labels.setdefault(task.item, []).append(BAD if len(tasks) % 3 == 0 else SAFE)
        return labels[task.item][-1]

    work(bench, 0, label=answer)
    again = [item for item, count in Counter(tasks).items() if count > 1]
    assert len(again) > 8 and max(Counter(tasks).values()) == 2
    for item in again:
        first = tasks.index(item)
        second = tasks.index(item, first + 1)
        assert len(set(tasks[first + 1 : second])) >= 15
    found = {row["question"]: row for row in quality_report(bench.store)["habits"]["repeats"]}
    same = sum(labels[item][0] == labels[item][1] for item in again)
    assert {row["n"] for row in found.values()} == {len(again)}
    assert {row["mean"] for row in found.values()} == {same / len(again)}
    for item in again:
        assert bench.final(item, "label").value is not None
        assert bench.sql("select value from current_judgement where item = :i", i=item)[0][0] is not None
        assert bench.task(item)[:3] == ("done", 1, 1)


def test_a_repeat_takes_nobodys_place(make: Make) -> None:
    bench = make(qa_rows(40), OverlapPolicy(people=2, random_share=0))
    set_policy(bench.store, repeat_rate=0.5, repeat_after=1)
    seen = set[int]()
    while (task := bench.take(0)).item not in seen:
        bench.answer(0, task, {"label": SAFE})
        seen.add(task.item)
    assert task.item in [later.item for later in work(bench, 1)]


def test_swapped_pairs_show_a_liking_for_one_side(make: Make) -> None:
    """Ann always chooses what stands on the left, Ben the response with the better name."""
    bench = make([pair_of(f"p{n}", f"a{n}", f"b{n}") for n in range(90)], OverlapPolicy(people=2, random_share=0))
    for item in bench.items("qa"):
        bench.adjudicate(item, label=SAFE)
    set_policy(bench.store, swap_rate=0.25, repeat_after=5)
    lefts: dict[tuple[int, int], list[int]] = {}
    for person in (0, 1):
        while (task := bench.take(person, "pair")) is not None:
            lefts.setdefault((person, task.item), []).append(task.left)
            choice = task.left if person == 0 else 0
            values = {q: {"choice": choice, "strength": None} for q in task.asks}
            bench.answer(person, task, values, shown={"left": task.left})
    pairs = [sides for sides in lefts.values() if len(sides) == 2]
    assert len(pairs) > 20 and all(first != second for first, second in pairs)
    report = quality_report(bench.store)
    left, swaps = (
        {(row["rater"], row["question"]): row for row in report["habits"][part]} for part in ("left", "swaps")
    )
    told = {one["name"]: [line.split(":")[0] for line in one["suggestions"]] for one in report["raters"]}
    assert left["ann", "better"]["mean"] == 1.0 and swaps["ann", "better"]["mean"] == 0.0
    assert swaps["ann", "better"]["left_twice"] == swaps["ann", "better"]["n"] > 10
    assert swaps["ben", "better"]["mean"] == 1.0
    assert left["ben", "better"]["low"] < 0.5 < left["ben", "better"]["high"]
    assert "look at sides" in told["ann"] and told["ben"] == []


def test_sides_are_drawn_evenly() -> None:
    drawn = [ONE.left(f"key {n}", "ann") for n in range(2000)]
    assert 900 < sum(drawn) < 1100 and set(drawn) == {0, 1}


def test_gold_that_good_raters_doubt_goes_to_review(make: Make, tmp_path: Path) -> None:
    """Item "gold 0" has a wrong key. Four careful people and a careless one answer; only the careful ones count."""
    rows = [*gold_rows(1, VIOLENCE), *gold_rows(25)[1:]]
    bench = make(qa_rows(90), OverlapPolicy(people=5, more=5, random_share=0))
    add(bench, tmp_path, rows, gold_rate=0.5, doubters=3, good_answers=8)
    dice = random.Random(2)
    for person in (4, 0, 1, 2, 3):
        work(bench, person, label=lambda task: dice.choice([SAFE, BAD]) if person == 4 else SAFE)  # noqa: B023
    (doubt,) = gold_items(bench.store, "review")
    assert doubt.prompt == "gold 0" and doubt.history[-1]["why"]["good raters said"][:3] == [SAFE] * 3
    assert len(gold_items(bench.store)) == 25, "nothing is deleted"
    report = quality_report(bench.store)
    told = {one["name"]: one["gold"] for one in report["raters"]}
    assert [told[name]["accuracy"]["mean"] for name in ("ann", "ben", "cem")] == [1.0] * 3, "it counts for nobody"
    assert (
        told["ann"]["in_review"] + told["ben"]["in_review"] + told["cem"]["in_review"] + told["dea"]["in_review"] >= 3
    )
    assert told["eli"]["accuracy"]["high"] < 0.9
    assert report["gold"]["review"][0]["key"] == f"qa:{doubt.key}"
    query = (
        "select e.seq, e.item, e.rater from event e join item i on i.id = e.item where i.key = :k order by e.seq desc"
    )
    last = bench.sql(query, k=doubt.key)[0]
    bench.store.undo(last.rater, last.seq, token=bench.token())
    with bench.store.database.write() as db:
        again = bench.store.queue(db).take_this(last.rater, last.item)
    assert again is not None and again.prompt == "gold 0", "taking back is no different under review"
    bench.store.submit(last.rater, again.token, {"label": SAFE}, token=bench.token())
    with pytest.raises(PoiseError, match="0 gold items begin with 'zz'"):
        decide_gold(bench.store, "zz", "keep")
    assert (
        decide_gold(bench.store, doubt.key[:10], "keep", answers={"label": SAFE}, why="the key was wrong") == "active"
    )
    told = {one["name"]: one["gold"] for one in quality_report(bench.store)["raters"]}
    assert told["ann"]["in_review"] == 0 and told["ann"]["accuracy"]["mean"] == 1.0
    assert decide_gold(bench.store, f"qa:{doubt.key}", "retire") == "retired"
    assert [one["state"] for one in gold_items(bench.store, "retired")[0].history] == [
        "active",
        "review",
        "active",
        "retired",
    ]


def test_gold_that_comes_as_data_becomes_data(make: Make, tmp_path: Path) -> None:
    bench = make(qa_rows(20), ONE)
    add(bench, tmp_path, gold_rows(4), gold_rate=0.5)
    work(bench, 0)
    rows = [QARecord(prompt=f"gold {n}", response=f"known {n}", dataset="mine") for n in range(4)]
    counts = import_tables(bench.store, open_tables(write_rows(tmp_path / "late", rows)), singles=False)
    assert counts["qa"] == 4
    answered = {row[0] for row in bench.sql("select item from probe where kind = 'gold'")}
    assert answered
    mine = {task.item for task in work(bench, 0)}
    assert not mine & answered, "who answered it as gold is not asked again"
    others = {task.item for task in work(bench, 1)}
    assert answered <= others
    made = [r for r in export_tables(bench.store, tmp_path / "out")["qa"].records() if r.dataset == "mine"]
    assert len(made) == 4 and all(isinstance(row, QARecord) and row.label.safe for row in made)
    assert bench.store.verify().fault is None


def test_data_can_be_gold_for_those_who_have_not_seen_it(make: Make, tmp_path: Path) -> None:
    bench = make([*qa_rows(3), *[QARecord(prompt=f"new {n}", response="x") for n in range(30)]], ONE)
    for _ in range(3):
        bench.answer(0, bench.take(0), {"label": SAFE})
    known = [QARecord(prompt=f"question {n}", response=f"answer {n}", label=HARMLESS) for n in range(4)]
    counts = add(bench, tmp_path, known, gold_rate=0.5)
    assert counts == {"qa": 4}
    assert add(bench, tmp_path, known) == {}
    assert [task.prompt for task in work(bench, 0, most=20) if task.prompt.startswith("question")] == ["question 3"]
    prompts = [task.prompt for task in work(bench, 1) if task.prompt.startswith("question")]
    assert sorted(prompts) == [f"question {n}" for n in range(len(prompts))] and len(prompts) in (3, 4)
    rows = [r.prompt for r in export_tables(bench.store, tmp_path / "out")["qa"].records() if isinstance(r, QARecord)]
    assert len(rows) == 33 and "question 3" not in rows


def test_rows_without_an_answer_are_no_gold(make: Make, tmp_path: Path) -> None:
    bench = make(qa_rows(1), ONE)
    rows: list[Record] = [
        *qa_rows(2),
        QARecord(prompt="x", response="y", label=PartialLabel(safe=False)),
        DualRecord(prompt="p", responses=("a", "b"), labels=(HARMLESS, VIOLENCE), better=0, safer=1),
        DualRecord(prompt="p", responses=("c", "d"), labels=(VIOLENCE, VIOLENCE)),
        SingleRecord(prompt="p", responses=("a", "b")),
        SingleRecord(prompt="p", responses=("c", "d"), better=1),
    ]
    assert add(bench, tmp_path, rows) == {
        "left out, label incomplete": 3,
        "left out, breaks the order": 1,
        "left out, no choice known": 2,
        "qa": 4,
        "single": 1,
    }
    other = QARecord(prompt="p", response="a", label=VIOLENCE)
    assert add(bench, tmp_path, [other]) == {"left out, gold with another answer already": 1}
    with pytest.raises(PoiseError, match="more than half of the tasks"):
        set_policy(bench.store, gold_rate=0.3, repeat_rate=0.3)
    with pytest.raises(PoiseError, match="gold_rate"):
        set_policy(bench.store, gold_rate=2.0)


def test_gold_is_reached_by_no_other_way(make: Make, tmp_path: Path) -> None:
    """Neither judgements in tables, nor answers from another tool, nor tasks for one, nor counts know of it."""
    bench = make(qa_rows(12), ONE)
    add(bench, tmp_path, gold_rows(3), gold_rate=0.5)
    folder = export_tables(bench.store, tmp_path / "plain").folder
    known = QARecord(prompt="gold 0", response="known 0")
    said = JudgementRecord(
        item=known.item,
        question="label",
        value={"categories": [], "severity": 0, "safe": True},
        rater="eve",
        rater_kind="person",
        responses=(known.item,),
    )
    rows = write_rows(tmp_path / "more", [*qa_rows(12), said])
    counts = import_tables(bench.store, open_tables(rows), singles=False)
    assert counts["left out, item or value unknown"] == 1 and "qa" not in counts
    assert import_answers(bench.store, [said], b"k" * 32) == {"added": 0, "known": 0, "left out, not in the store": 1}
    assert export_tasks(bench.store, tmp_path / "tasks.json", "qa", LABEL_STUDIO) == 12
    assert "known 0" not in (tmp_path / "tasks.json").read_text()
    work(bench, 0)
    told = status(bench.store)
    assert told.judgements == {("person", "label"): 12} and sum(told.tasks.values()) == 12
    assert bench.sql("select count(*) from event where kind = 'check'") == [(3,)]
    assert open_tables(folder)["qa"].rows == export_tables(bench.store, tmp_path / "later")["qa"].rows == 12


def test_people_are_numbered_by_their_first_judgement(make: Make, tmp_path: Path) -> None:
    """Ben only answers and takes back a check before Cem judges; the export numbers as if he had not."""
    bench = make(qa_rows(30), OverlapPolicy(people=3, more=3, random_share=0))
    add(bench, tmp_path, gold_rows(9), gold_rate=0.5)
    firsts = {person: bench.take(person) for person in range(5)}
    person = next(person for person, task in firsts.items() if is_gold(task))
    other = next(person for person, task in firsts.items() if not is_gold(task))
    made = bench.answer(person, firsts[person], {"label": SAFE})
    bench.store.undo(bench.people[person], made["label"], token=bench.token())
    bench.answer(other, firsts[other], {"label": SAFE})
    rows = export_tables(bench.store, tmp_path / "out")["judgements"].records()
    assert [row.rater for row in rows if isinstance(row, JudgementRecord)] == ["person-1"]


def test_with_suggestions_a_check_comes_without_and_only_beside_a_control_arm(make: Make, tmp_path: Path) -> None:
    joint = JointPolicy(mode="assist", suggester="judge", control_share=0.5)
    with AnnotationStore.create(tmp_path / "joint.db", ONE, joint=joint) as store:
        import_tables(store, open_tables(write_rows(tmp_path / "rows", qa_rows(60))))
        ann = store.rater(Rater(id="ann", kind="person"))
        model = store.rater(Rater(id="judge", kind="model", version="1"))
        with store.database.read() as db:
            items = db.exec_driver_sql("select id from item").scalars().all()
        for item in items:
            store.judge(model, item, {"label": SAFE}, token=f"model {item}")
        add_gold(store, open_tables(write_rows(tmp_path / "gold", gold_rows(10))))
        set_policy(store, gold_rate=0.2, repeat_rate=0.3, repeat_after=1)
        arms, control = Counter[Any](), set[int]()
        while (task := store.next_task(ann)) is not None:
            first = task.item not in control and not is_gold(task)
            arms[task.arm, task.suggestion is not None, first] += 1
            if task.arm == "control":
                control.add(task.item)
            store.submit(ann, task.token, {"label": SAFE}, token=task.token)
        with store.database.read() as db:
            checks = db.exec_driver_sql("select shown from event where kind = 'check'").scalars().all()
        repeats = sum(count for (arm, _, first), count in arms.items() if arm is None and not first)
        assert repeats == len(checks) > 10 and set(checks) == {None}
        assert set(arms) == {("assist", True, True), ("control", False, True), (None, False, False)}
    told = JointPolicy(mode="assist", suggester="judge")
    with AnnotationStore.create(tmp_path / "bare.db", ONE, joint=told) as store:
        with pytest.raises(PoiseError, match="by the missing suggestion"):
            set_policy(store, gold_rate=0.1)
        assert set_policy(store, cap=3).cap == 3


def test_the_commands(make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bench = make(qa_rows(30), ONE)
    store = bench.store.database.name
    if not bench.store.database.sqlite:
        pytest.skip("the commands are tried on the file")
    tables = str(write_rows(tmp_path / "known", [*gold_rows(1, VIOLENCE), *gold_rows(4)[1:]]))
    assert main(["annotate", "gold", store, tables, "--rate", "0.3"]) == 0
    assert "qa 4" in capsys.readouterr().out
    assert main(["annotate", "checks", store, "--repeat", "0.05", "--goal", "0.9", "--doubters", "1"]) == 0
    assert "gold_rate 0.3, repeat_rate 0.05" in capsys.readouterr().out
    assert main(["annotate", "checks", store, "--good-answers", "1", "--good-accuracy", "0.5"]) == 0
    assert main(["annotate", "gold", store, tables]) == 0
    assert "nothing new" in (said := capsys.readouterr().out) and "gold_rate 0.3, repeat_rate 0.05" in said
    for person in (0, 1):
        work(bench, person)
        import_tables(
            bench.store, open_tables(write_rows(tmp_path / f"m{person}", qa_rows(60 + person))), singles=False
        )
    assert main(["annotate", "quality", store]) == 0
    out = capsys.readouterr().out
    assert "ann: 1.000 [" in out and "under review" in out and "same answer again" in out
    assert main(["annotate", "quality", store, "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)) == {"policy", "raters", "habits", "gold"}
    assert main(["annotate", "gold-review", store, "--all"]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("qa:") for line in listed) == 4
    assert main(["annotate", "gold-review", store, "--texts"]) == 0
    assert "    'gold 0'\n    'known 0'\n" in capsys.readouterr().out
    assert main(["annotate", "gold-review", store]) == 0
    doubts = [line for line in capsys.readouterr().out.splitlines() if line.startswith("qa:")]
    assert len(doubts) == 1 and '"severity": 2' in doubts[0]
    key = doubts[0].split()[0]
    answer = 'label={"categories": [], "severity": 0}'
    assert main(["annotate", "gold-review", store, key, "--keep", "--answer", answer, "--why", "wrong key"]) == 0
    assert capsys.readouterr().out == f"{key}: active\n"
    for words, fault in (
        (["gold-review", store, "qa:", "--keep", "--retire"], "say --keep or --retire"),
        (["gold-review", store, "x", "--keep", "--answer", "label=?"], "write label="),
        (["gold-review", store, key, "--retire", "--answer", answer], "say --keep with --answer"),
        (["gold-review", store, "x", "--keep"], "0 gold items begin with 'x'"),
        (["quality", store, "--cut", "0"], "give numbers above 0"),
        (["checks", store, "--gold", "0.9"], "gold_rate"),
    ):
        assert main(["annotate", *words]) == 2
        assert fault in capsys.readouterr().err
