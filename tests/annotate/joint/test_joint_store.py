"""Arms, suggestions, reveals and plants at the store: what is shown, what is written, and what counts."""

from __future__ import annotations

import itertools
import json
import random
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
import sqlalchemy as sa

from poise.annotate.agreement.from_store import read_store
from poise.annotate.joint import report
from poise.annotate.store import (
    AnnotationStore,
    JointPolicy,
    OverlapPolicy,
    Task,
    export_tables,
    import_answers,
    import_tables,
)
from poise.annotate.store.log import Log
from poise.annotate.store.settle import Settler
from poise.annotate.workbench.measures import measure
from poise.data.records import DualRecord, JudgementRecord, QARecord
from poise.data.rows import Rater
from poise.data.tables import TableWriter, open_tables
from poise.errors import PoiseError

from .simulate import BAD, SAFE, Population, covers, found, make_store, rows, work

TOKENS = itertools.count()
Make = Callable[..., "Desk"]


class Desk:
    """A store with three people, and shorthand."""

    def __init__(self, folder: Path, joint: JointPolicy, records: list[Any], overlap: OverlapPolicy) -> None:
        with TableWriter(folder / "rows", {"name": "test"}) as writer:
            for record in records:
                writer.add(record)
        self.now, self.folder = [1e6], folder
        self.store = AnnotationStore.create(folder / "store.db", overlap, lambda: self.now[0], joint=joint)
        import_tables(self.store, open_tables(folder / "rows"), singles=False)
        self.people = [self.store.rater(Rater(id=name, kind="person")) for name in ("ann", "ben", "cem", "dea")]
        self.model = self.store.rater(Rater(id="judge", kind="model", version="1"))

    def say(self, item: int, **values: Any) -> None:
        """The model judges."""
        self.store.judge(self.model, item, values, token=f"t{next(TOKENS)}")

    def take(self, person: int = 0, **more: Any) -> Task:
        """The next task, which there is."""
        task = self.store.next_task(self.people[person], **more)
        assert task is not None
        return task

    def answer(self, person: int, task: Task, token: str = "", **values: Any) -> Any:
        """Submit."""
        return self.store.submit(self.people[person], task.token, values, token=token or f"t{next(TOKENS)}")

    def shown(self) -> list[Any]:
        """What the log says was shown, of people's answers."""
        query = "select e.shown from event e join rater r on r.id = e.rater where r.kind = 'person' order by e.seq"
        return [None if row.shown is None else json.loads(row.shown) for row in rows(self.store, query)]

    def final(self, item: int = 1, question: str = "label") -> Any:
        """Value, settled and source."""
        query = f"select value, settled, source from final where item = {item} and question = '{question}'"
        row = rows(self.store, query)[0]
        return (None if row.value is None else json.loads(row.value)), bool(row.settled), row.source


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    made: list[Desk] = []

    def build(mode: str, records: list[Any] | None = None, people: int = 2, **shares: Any) -> Desk:
        asked = {"suggester": "judge"} if mode in ("assist", "blind_then_reveal") else {}
        joint = JointPolicy.model_validate({"mode": mode, **asked, **shares})
        overlap = OverlapPolicy(people=people, more=max(people, 3), random_share=0)
        folder = tmp_path / str(len(made))
        made.append(Desk(folder, joint, records or [QARecord(prompt="q", response="a")], overlap))
        return made[-1]

    yield build
    for desk in made:
        desk.store.close()


def test_assist_shows_what_the_model_says_now(make: Make) -> None:
    desk = make("assist")
    desk.say(1, label=SAFE)
    desk.say(1, label=BAD)
    task = desk.take()
    assert (task.arm, task.suggestion, task.before) == ("assist", {"label": BAD}, None)
    desk.say(1, label=SAFE)  # what is on the page stays what it was
    desk.now[0] += 5000
    assert desk.take().suggestion == {"label": BAD}
    desk.answer(0, desk.take(), label=SAFE)
    (shown,) = desk.shown()
    assert shown == {"arm": "assist", "event": 2, "suggestion": BAD}


def test_the_page_cannot_say_what_was_suggested(make: Make) -> None:
    desk = make("assist")
    desk.say(1, label=BAD)
    claim = {"arm": "planted", "planted": True, "suggestion": SAFE}
    desk.store.submit(desk.people[0], desk.take().token, {"label": SAFE}, token="x", shown=claim)
    (shown,) = desk.shown()
    assert shown["arm"] == "assist" and shown["suggestion"] == BAD and "planted" not in shown
    assert shown["page"] == claim and rows(desk.store, "select have from task")[0].have == 1


def test_control_sees_nothing_and_the_log_says_what_was_withheld(make: Make) -> None:
    for mode in ("assist", "blind_then_reveal"):
        desk = make(mode, control_share=1)
        desk.say(1, label=BAD)
        task = desk.take()
        assert (task.arm, task.suggestion) == ("control", None)
        made = desk.answer(0, task, label=SAFE)
        assert made.task is None and desk.shown() == [{"arm": "control", "event": 1, "withheld": BAD}]


def test_where_the_model_has_said_nothing_there_is_no_arm(make: Make) -> None:
    desk = make("assist")
    task = desk.take()
    assert (task.arm, task.suggestion) == (None, None)
    desk.answer(0, task, label=SAFE)
    assert desk.shown() == [None]
    (question,) = report(desk.store, "adjudicated")["questions"] or [{"no_arm": 1}]
    assert question["no_arm"] == 1


def test_blind_then_reveal_keeps_both_answers(make: Make) -> None:
    desk = make("blind_then_reveal")
    desk.say(1, label=BAD)
    task = desk.take()
    assert (task.arm, task.suggestion) == ("blind", None)
    first = desk.answer(0, task, token="first", label=SAFE)
    then = first.task
    assert then is not None and then.suggestion == {"label": BAD} and then.before == {"label": SAFE}
    assert then.token != task.token
    again = desk.answer(0, task, token="first", label=SAFE)  # the same page sent twice
    assert dict(again) == dict(first) and again.task == then
    with pytest.raises(PoiseError, match="this lease is over"):  # a page that has not seen the suggestion
        desk.answer(0, task, label=BAD)
    assert desk.take() == then  # resume
    last = desk.answer(0, then, label=BAD)
    assert last.task is None
    before, after = desk.shown()
    assert before == {"arm": "blind", "event": 1, "withheld": BAD}
    assert after == {"arm": "revealed", "event": 1, "suggestion": BAD}
    values = [json.loads(row.value) for row in rows(desk.store, "select value from event where kind = 'judge'")]
    assert values == [BAD, SAFE, BAD]
    assert rows(desk.store, "select have from task")[0].have == 1
    assert desk.store.next_task(desk.people[0]) is None and desk.take(1).item == 1


def test_a_reveal_that_is_never_answered_leaves_the_blind_answer(make: Make) -> None:
    desk = make("blind_then_reveal")
    desk.say(1, label=SAFE)
    desk.answer(0, desk.take(0), label=SAFE)
    other = desk.take(1)  # the place of the one who still looks at the suggestion is not taken twice
    assert desk.store.next_task(desk.people[2]) is None
    desk.answer(1, other, label=SAFE)
    assert desk.final() == (SAFE, True, "unanimous")
    assert desk.take(0).suggestion == {"label": SAFE}  # the item is done, the second answer is still welcome
    desk.now[0] += 5000
    assert desk.store.next_task(desk.people[0]) is None and desk.final() == (SAFE, True, "unanimous")


def test_a_correction_after_the_reveal_is_no_blind_answer(make: Make) -> None:
    desk = make("blind_then_reveal")
    desk.say(1, label=BAD)
    desk.answer(0, desk.take(), label=SAFE)
    desk.store.judge(desk.people[0], 1, {"label": BAD}, token="c")
    assert [one["arm"] for one in desk.shown()] == ["blind", "revealed"]


@pytest.mark.parametrize("mode", ["assist", "blind_then_reveal"])
def test_what_is_said_to_a_plant_is_no_label(make: Make, mode: str, tmp_path: Path) -> None:
    desk = make(mode, plant_share=1)
    desk.say(1, label=SAFE)
    task = desk.take(0)  # nobody has answered: the item is not clear
    made = desk.answer(0, task, label=SAFE)
    if made.task is not None:
        desk.answer(0, made.task, label=SAFE)
    task = desk.take(1)
    planted = task.suggestion
    if mode == "blind_then_reveal":
        again = desk.answer(1, task, label=SAFE).task
        assert again is not None and again.suggestion is not None
        task, planted = again, again.suggestion
    assert planted is not None and planted["label"]["severity"] in (1, 2)
    desk.answer(1, task, label=planted["label"])
    assert desk.shown()[-1]["planted"] is True and desk.shown()[-1]["arm"] == "planted"
    if mode == "assist":  # one more person is wanted, and gets a clean label
        assert not desk.final()[1] and desk.store.next_task(desk.people[1]) is None
        assert rows(desk.store, "select have, wanted from task")[0] == (1, 2)
        third = desk.take(2)
        assert third.suggestion == planted  # the item is as clear as it was; who comes after does not matter
    else:
        assert desk.final() == (SAFE, True, "unanimous")  # the blind answer was the vote
    ratings = read_store(desk.store)["label"].ratings
    assert [value["severity"] for value in ratings.values] == [0]
    assert len(ratings.item) == (2 if mode == "assist" else 3)
    people = {line.name: line for line in measure(desk.store).raters if line.kind == "person"}
    assert sum(line.answers for line in people.values()) == len(ratings.item) - 1
    made_tables = export_tables(desk.store, tmp_path / "out")
    judged = [r for r in made_tables["judgements"].records() if isinstance(r, JudgementRecord)]
    assert all(record.value["severity"] == 0 for record in judged)
    assert {row.category for row in rows(desk.store, "select category from hint")} == set()
    told = found(report(desk.store, "adjudicated"))
    assert told["planted_accepted"]["value"] == 1.0 and told["planted_accepted"]["answers"] == 1


def test_pairs_get_suggestions_for_each_question_under_the_labels_that_stand(make: Make) -> None:
    desk = make("assist", [DualRecord(prompt="p", responses=("a", "b"))])
    pair = rows(desk.store, "select id from item where kind = 'pair'")[0].id
    lead = desk.people[3]
    for item in (1, 2):
        desk.store.adjudicate(lead, item, {"label": BAD}, token=f"t{next(TOKENS)}")
    desk.say(pair, better=0, safer=1)
    suggestion = {"better": {"choice": 0, "strength": None}, "safer": {"choice": 1, "strength": None}}
    assert desk.take().suggestion == suggestion
    worse = {"categories": ["S1"], "severity": 3}
    desk.store.adjudicate(lead, 1, {"label": worse}, token="worse")  # the model spoke of other labels
    assert desk.take().suggestion == {"better": suggestion["better"]}


def test_ai_only_is_settled_by_models(make: Make) -> None:
    desk = make("ai_only", [QARecord(prompt=f"q{n}", response="a") for n in range(2)])
    assert desk.store.next_task(desk.people[0]) is None and not desk.final()[1]
    desk.say(1, label=BAD)
    assert desk.final() == (BAD, True, "unanimous") and not desk.final(2)[1]
    second = desk.store.rater(Rater(id="other", kind="model"))
    desk.store.judge(second, 1, {"label": SAFE}, token="second")
    assert desk.final()[1] is False
    assert desk.take(0, adjudicate=True).item == 1  # two models that differ are a person's matter


def test_audited_items_are_decided_blind(make: Make) -> None:
    desk = make("human_only", audit_share=1)
    for person in (0, 1):
        desk.answer(person, desk.take(person), label=SAFE)
    assert desk.final() == (SAFE, False, "unanimous")
    task = desk.take(2, adjudicate=True)
    assert task.judgements == ()
    desk.answer(2, task, label=BAD)
    assert desk.final() == (BAD, True, "adjudicated")
    told = found(report(desk.store))
    assert told["accuracy"]["person alone"]["value"] == 0.0 and told["accuracy"]["person alone"]["answers"] == 2
    assert told["accuracy"]["votes together"]["value"] == 0.0


def test_imported_answers_are_audited_as_others_are(make: Make) -> None:
    desk = make("human_only", audit_share=1)
    row = QARecord(prompt="q", response="a")
    told = {"question": "label", "value": SAFE, "rater_kind": "person", "item": row.item, "responses": (row.item,)}
    said = [JudgementRecord.model_validate(told | {"rater": rater}) for rater in ("kim", "lou")]
    assert import_answers(desk.store, said, b"k" * 32)["added"] == 2
    assert desk.final() == (SAFE, False, "unanimous")
    assert desk.take(2, adjudicate=True).item == 1


def test_labels_that_are_kept_are_not_audited(tmp_path: Path) -> None:
    from poise.data.records import PartialLabel

    label = PartialLabel(safe=True, categories=(), severity=0)
    with TableWriter(tmp_path / "rows", {"name": "test"}) as writer:
        writer.add(QARecord(prompt="q", response="a", label=label))
    policy = OverlapPolicy(keep_labels=True, random_share=0)
    joint = JointPolicy(mode="human_only", audit_share=1)
    with AnnotationStore.create(tmp_path / "s.db", policy, joint=joint) as store:
        import_tables(store, open_tables(tmp_path / "rows"))
        assert [row.settled for row in rows(store, "select settled from final")] == [1]


@pytest.mark.parametrize("value", [SAFE, BAD])
def test_a_planted_label_is_on_the_other_side(value: dict[str, Any]) -> None:
    joint = JointPolicy(mode="assist", suggester="judge")
    made = [joint.wrong("qa", str(n), "label", value) for n in range(400)]
    assert all((one["severity"] == 0) != (value["severity"] == 0) for one in made)
    if value is SAFE:  # all categories and both severities come up
        assert len({tuple(one["categories"]) for one in made}) == 19
        assert {one["severity"] for one in made} == {1, 2}
    assert made == [joint.wrong("qa", str(n), "label", value) for n in range(400)]


def test_a_planted_choice_is_another_one() -> None:
    joint = JointPolicy(mode="assist", suggester="judge")
    assert joint.wrong("pair", "k", "better", {"choice": 0, "strength": 2}) == {"choice": 1, "strength": 2}
    tie = [joint.wrong("pair", str(n), "better", {"choice": "tie", "strength": None})["choice"] for n in range(50)]
    assert set(tie) == {0, 1}


def test_draws_are_near_to_their_shares_and_independent() -> None:
    joint = JointPolicy(mode="assist", suggester="judge", control_share=0.2, plant_share=0.03, audit_share=0.1)
    n = 20_000
    control = [joint.arm("qa", str(i), "ann") == "control" for i in range(n)]
    other = [joint.arm("qa", str(i), "ben") == "control" for i in range(n)]
    plant = [joint.plants("qa", str(i), "ann", "label") for i in range(n)]
    audit = [joint.audits("qa", str(i)) for i in range(n)]
    for drawn, share in ((control, 0.2), (other, 0.2), (plant, 0.03), (audit, 0.1)):
        assert abs(sum(drawn) / n - share) < 4 * (share * (1 - share) / n) ** 0.5
    for one, two in itertools.combinations((control, other, plant, audit), 2):
        both, expected = sum(a and b for a, b in zip(one, two, strict=True)) / n, sum(one) * sum(two) / n**2
        assert abs(both - expected) < 4 * (expected / n) ** 0.5


@pytest.mark.parametrize("mode", ["assist", "blind_then_reveal"])
def test_the_control_arm_never_has_a_suggestion_and_shares_are_as_planned(
    tmp_path: Path, mode: Literal["assist", "blind_then_reveal"]
) -> None:
    joint = JointPolicy(mode=mode, suggester="judge", control_share=0.3, plant_share=0.2, audit_share=0.1)
    store, truth = make_store(tmp_path, joint, items=100, model_error=0.1)
    with store:
        seen = work(store, truth, Population(error=0.1, bias=0.3), 1)
        drawn = rows(store, "select item, rater, arm, clear, planted, value from showing")
        events = rows(store, "select e.shown from event e join rater r on r.id = e.rater where r.name like 'person%'")
        told = report(store)["drawn"]
    first = [task for task in seen if task.before is None]
    arms = Counter(task.arm for task in first)
    assert len(first) == len(drawn) and set(arms) == {"control", "assist" if mode == "assist" else "blind"}
    assert abs(arms["control"] / len(first) - 0.3) < 4 * (0.21 / len(first)) ** 0.5
    for task in seen:
        assert task.arm != "control" or (task.suggestion is None and task.before is None)
        assert task.arm == "control" or (task.suggestion is not None) == (mode == "assist" or task.before is not None)
    logged = [json.loads(row.shown) for row in events]
    assert all("suggestion" not in one for one in logged if one["arm"] == "control")
    clear = [row for row in drawn if row.clear]
    planted = [row for row in drawn if row.planted]
    assert len(clear) > 30 and all(row.clear for row in planted)
    assert abs(len(planted) / len(clear) - 0.2) < 4 * (0.16 / len(clear)) ** 0.5
    assert told["planted"] == sum(row.arm != "control" for row in planted)
    done = {row.item for row in drawn}
    assert len(done) == 100


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"mode": "assist"}, "without a suggester"),
        ({"mode": "human_only", "plant_share": 0.1}, "shows no suggestion"),
        ({"mode": "ai_only", "suggester": "judge"}, "shows no suggestion"),
    ],
)
def test_a_policy_that_does_not_fit_is_refused(told: dict[str, Any], message: str) -> None:
    with pytest.raises(PoiseError, match=message):
        JointPolicy.model_validate(told)


def test_a_store_keeps_its_policy(make: Make) -> None:
    desk = make("assist", control_share=0.5)
    where = desk.folder / "store.db"
    with AnnotationStore.create(where) as again:
        assert again.joint == desk.store.joint and again.joint.control_share == 0.5
    with pytest.raises(PoiseError, match="another policy"):
        AnnotationStore.create(where, joint=JointPolicy())


def test_a_store_of_the_first_version_is_brought_up(tmp_path: Path) -> None:
    from alembic import command

    from poise.annotate.store.database import _config

    path = tmp_path / "old.db"
    engine = sa.create_engine(f"sqlite:///{path}")
    with engine.begin() as db:
        command.upgrade(_config(db), "0001")
        policy = OverlapPolicy().model_dump_json()
        db.execute(sa.text("insert into meta (key, value) values ('overlap', :p)"), {"p": policy})
    engine.dispose()
    with pytest.raises(PoiseError, match="older version 0001"):
        AnnotationStore.open(path)
    with AnnotationStore.create(path) as store:
        assert store.joint == JointPolicy() and rows(store, "select count(*) as n from showing")[0].n == 0


def test_verification_covers_what_was_shown(make: Make) -> None:
    desk = make("assist")
    desk.say(1, label=BAD)
    desk.answer(0, desk.take(), label=SAFE)
    assert desk.store.verify().fault is None
    with desk.store.database.write() as db:
        db.execute(sa.text("drop trigger event_no_update"))
        db.execute(sa.text("update event set shown = replace(shown, 'assist', 'control') where seq = 2"))
    assert desk.store.verify().fault == "event 2 was changed"


def test_model_and_votes_are_measured_on_audited_items(tmp_path: Path) -> None:
    joint = JointPolicy(mode="ai_only", audit_share=1)
    store, truth = make_store(tmp_path, joint, items=120, model_error=0.25)
    with store:
        work(store, truth, Population(error=0, bias=0), 1)
        told = found(report(store))
    assert covers(told["accuracy"]["model judge"], 0.75)
    assert told["accuracy"]["votes together"]["value"] == told["accuracy"]["model judge"]["value"]
    assert told["accuracy"]["person alone"]["value"] is None


@pytest.mark.parametrize(
    ("mode", "seed"), [("assist", 3), ("assist", 7), ("blind_then_reveal", 3), ("blind_then_reveal", 7)]
)
def test_whatever_happens_what_stands_follows_from_the_log(make: Make, mode: str, seed: int) -> None:
    records = [DualRecord(prompt="p", responses=("a", str(n))) for n in range(3)]
    desk = make(mode, records, control_share=0.2, plant_share=1, audit_share=0.2)
    draw, done, held = random.Random(seed), list[tuple[int, int]](), list[tuple[int, Task]]()
    labels, kinds = (*[SAFE] * 5, BAD), {"qa": ["label"], "pair": ["better", "safer"]}

    def values(asks: Any) -> dict[str, Any]:
        return {q: draw.choice(labels) if q == "label" else draw.choice((0, 0, 0, 1, "tie")) for q in asks}

    def some(kind: str) -> int:
        return int(draw.choice(rows(desk.store, f"select id from item where kind = '{kind}'")).id)

    def step() -> None:
        person, act = draw.randrange(4), draw.random()
        rater, token = desk.people[person], f"t{next(TOKENS)}"
        kind = draw.choice(("qa", "qa", "pair"))
        if act < 0.15:
            desk.store.judge(desk.model, some(kind), values(kinds[kind][:1]), token=token)
        elif act < 0.3 and held:
            rater, task = held.pop(draw.randrange(len(held)))
            made = desk.store.submit(rater, task.token, values(task.asks), token=token, reason="r")
            done.extend((rater, seq) for seq in made.values())
            held.extend([(rater, made.task)] if made.task is not None else [])
        elif act < 0.75:
            task_ = desk.store.next_task(rater, ["qa", "pair"], adjudicate=act < 0.35)
            held.extend([(rater, task_)] if task_ is not None else [])
            while len(held) > 3:
                rater, task = held.pop(0)
                made = desk.store.submit(rater, task.token, values(task.asks), token=f"t{next(TOKENS)}", reason="r")
                done.extend((rater, seq) for seq in made.values())
        elif act < 0.85 and done:
            desk.store.undo(*draw.choice(done), token=token)
        elif act < 0.95:
            desk.store.judge(rater, some(kind), values(kinds[kind][:1]), token=token, reason="r")
        else:
            desk.now[0] += 500

    refused = 0
    for _ in range(300):
        try:
            step()
        except PoiseError:
            refused += 1
    assert desk.store.verify().fault is None and refused < 200
    shown = [one for one in desk.shown() if one]
    assert {one["arm"] for one in shown} >= {"control", "planted", "assist" if mode == "assist" else "blind"}
    assert all(("suggestion" in one) == (one["arm"] in ("assist", "revealed", "planted")) for one in shown)
    with desk.store.database.write() as db:
        query = sa.text("select * from final order by item, question"), sa.text("select * from task order by item")
        before = [db.execute(one).all() for one in query]
        log = Log(db, 0)
        for item in db.execute(sa.text("select id from item order by id")).scalars().all():
            Settler(log, desk.store.policy, desk.store.joint).settle(item)
        assert [db.execute(one).all() for one in query] == before
        plants = db.execute(sa.text("select count(*) from counted_judgement where shown like '%planted\"%suggestion%'"))
        assert plants.scalar() == 0
    report(desk.store)
