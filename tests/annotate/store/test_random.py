"""Random judgements, corrections, undos, adjudications, checks and inspections: no export breaks the order, nothing is
lost, and no label that an inspection found wrong stands."""

from __future__ import annotations

import itertools
import shutil
import tempfile
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from poise.annotate.quality.golds import add_gold, set_policy
from poise.annotate.quality.inspection import draw, inspections
from poise.annotate.store import AnnotationStore, OverlapPolicy, import_tables
from poise.annotate.store.exporting import records_of
from poise.annotate.store.overlap import cyclic
from poise.data.records import DualRecord, PartialLabel
from poise.data.rows import Rater
from poise.data.tables import open_tables
from poise.errors import PoiseError
from poise.harm import Label, violates_order

from .conftest import BAD, MILD, SAFE, WORST, pair_of, write_rows

PEOPLE = st.integers(0, 4)
LABELS = st.sampled_from([SAFE, SAFE, MILD, BAD, WORST])
CHOICES = st.sampled_from([0, 1, "tie"])
ROWS = [pair_of("p", "a", "b"), pair_of("p", "b", "c"), pair_of("p", "c", "a"), pair_of("q", "a", "b")]
HARM = PartialLabel(safe=False, categories=("Violence",), severity=2)
NONE = PartialLabel(safe=True, categories=(), severity=0)
GOLD = [
    pair_of("gold", "a", "b", labels=(HARM, HARM), better=0, safer=1),
    pair_of("gold", "c", "d", labels=(NONE, HARM), better=1),
    pair_of("q", "a", "gold", labels=(NONE, NONE), better=0),
]
"""Of the last one a response is data too."""
_TEMPLATE = Path(tempfile.mkdtemp(prefix="poise-"))


def _template() -> Path:
    path = _TEMPLATE / "store.db"
    if not path.exists():
        with AnnotationStore.create(path, OverlapPolicy(random_share=0.3, lease_s=60)) as store:
            import_tables(store, open_tables(write_rows(_TEMPLATE / "rows", ROWS)))
            add_gold(store, open_tables(write_rows(_TEMPLATE / "known", GOLD)))
            chief = store.rater(Rater(id="chief", kind="person"))
            with store.database.read() as db:
                query = "select i.id from item i join task t on t.item = i.id where i.kind = 'qa' order by i.id limit 3"
                some = db.execute(sa.text(query)).scalars().all()
            for item in some:
                store.adjudicate(chief, item, {"label": SAFE}, token=f"chief {item}")
            draw(store, "first", check=3, limit=0.1)
            set_policy(store, gold_rate=0.2, repeat_rate=0.2, swap_rate=0.1, repeat_after=1, doubters=1, good_answers=1)
    return path


class Annotating(RuleBasedStateMachine):
    """Five people and a model at one store; every step may fail with a `PoiseError`, and then changes nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.folder, self.now, self.tokens = Path(tempfile.mkdtemp(prefix="poise-")), [1000.0], itertools.count()
        shutil.copy(_template(), self.folder / "store.db")
        self.store = AnnotationStore.open(self.folder / "store.db", lambda: self.now[0])
        self.people = [self.store.rater(Rater(id=f"person-{n}", kind="person")) for n in range(5)]
        self.model = self.store.rater(Rater(id="judge", kind="model", version="1"))
        with self.store.database.read() as db:
            self.items = dict(db.execute(sa.text("select id, kind from item order by id")).all())
            self.hidden = set(db.execute(sa.text("select item from gold where not data")).scalars())
        assert len(self.hidden) == 8 and len(self.items) > 20
        self.done: list[tuple[int, int]] = []
        self.held: dict[tuple[int, int], Any] = {}

    def teardown(self) -> None:
        """Verify the chain, then throw the store away."""
        try:
            assert self.store.verify().fault is None
        finally:
            self.store.close()
            shutil.rmtree(self.folder)

    def _token(self) -> str:
        return f"t{next(self.tokens)}"

    def _values(self, asks: Any, label: dict[str, Any], choice: object) -> dict[str, Any]:
        return {question: label if question == "label" else choice for question in asks}

    @rule(person=PEOPLE, label=LABELS, choice=CHOICES, expire=st.booleans(), times=st.integers(1, 6))
    def work(self, person: int, label: dict[str, Any], choice: object, expire: bool, times: int) -> None:
        """Take and answer some tasks; the last may expire instead."""
        for left in reversed(range(times)):
            task = self.store.next_task(self.people[person])
            if task is None:
                return
            with self.store.database.read() as db:
                free = db.execute(sa.text("select wanted - have from task where item = :i"), {"i": task.item}).scalar()
                probe = db.execute(sa.text("select probe from lease where token = :t"), {"t": task.token}).scalar()
                taken = db.execute(
                    sa.text("select count(*) from lease where item = :i and not adjudicate and probe is null"),
                    {"i": task.item},
                ).scalar()
            if probe is None:
                assert free is not None and taken is not None and taken <= free, "given to more people than wanted"
            assert (task.item in self.hidden) <= (probe == "gold")
            if expire and not left:
                self.now[0] += 61
                return
            values = self._values(task.asks, label, choice)
            made = self.store.submit(self.people[person], task.token, values, token=self._token(), reason="r")
            self.done += [(self.people[person], seq) for seq in made.values()]

    @rule(person=PEOPLE, label=LABELS, choice=CHOICES)
    def decide(self, person: int, label: dict[str, Any], choice: object) -> None:
        """Adjudicate what is disputed."""
        task = self.store.next_task(self.people[person], adjudicate=True)
        if task is not None:
            values = self._values(task.asks, label, choice)
            made = self.store.submit(self.people[person], task.token, values, token=self._token(), reason="r")
            self.done += [(self.people[person], seq) for seq in made.values()]

    @rule(person=PEOPLE, label=LABELS, measure=st.sampled_from(["verdict", "exact"]), times=st.integers(0, 4))
    def inspect(self, person: int, label: dict[str, Any], measure: str, times: int) -> None:
        """Draw a batch where labels stand, and inspect some labels of any batch."""
        try:
            draw(self.store, self._token(), check=3, limit=0.1, measure=measure)
        except PoiseError as error:
            assert "no label stands" in str(error)
        for _ in range(times):
            task = self.store.next_task(self.people[person], ["qa"], inspect=True)
            if task is None:
                return
            made = self.store.submit(self.people[person], task.token, {"label": label}, token=self._token())
            self.done += [(self.people[person], seq) for seq in made.values()]

    @rule(data=st.data(), label=LABELS, choice=CHOICES, who=st.integers(0, 5), adjudicate=st.booleans())
    def change(self, data: st.DataObject, label: dict[str, Any], choice: object, who: int, adjudicate: bool) -> None:
        """Correct, judge by the model, or adjudicate any item."""
        item = data.draw(st.sampled_from(sorted(self.items)))
        asks = {"qa": ["label"], "pair": ["safer"], "single": ["single"]}[self.items[item]]
        rater = ([*self.people, self.model])[who]
        act = self.store.adjudicate if adjudicate and who < 5 else self.store.judge
        before = self.store.verify().events
        try:
            made = act(rater, item, self._values(asks, label, choice), token=self._token(), reason="r")
            self.done += [(rater, seq) for seq in made.values()]
        except PoiseError:
            assert self.store.verify().events == before

    @rule(data=st.data())
    def undo(self, data: st.DataObject) -> None:
        """Take something back."""
        if self.done:
            rater, seq = data.draw(st.sampled_from(self.done))
            try:
                self.store.undo(rater, seq, token=self._token())
            except PoiseError as error:
                assert "taken back already" in str(error)

    @invariant()
    def what_is_exported_keeps_the_order(self) -> None:
        """No violation, no stale choice, no cycle; where the labels decide, `safer` is there."""
        with self.store.database.read() as db:
            pairs = [record for record in records_of(db) if isinstance(record, DualRecord)]
            stale = db.execute(
                sa.text(
                    "select count(*) from item i join final f on f.item = i.id and f.question = 'safer' and f.settled "
                    "join final a on a.item = i.qa_0 and a.question = 'label' "
                    "join final b on b.item = i.qa_1 and b.question = 'label' "
                    "where f.pins <> '[' || a.version || ',' || b.version || ']' or not a.settled or not b.settled"
                )
            ).scalar()
        assert stale == 0
        edges: list[tuple[int, int]] = []
        for record in pairs:
            if all(label.safe is not None for label in record.labels):
                first, second = (Label.of(label.categories or (), label.severity) for label in record.labels)
                assert record.safer is None or not violates_order(first, second, record.safer)
                assert record.safer is not None or first.safe == second.safe
            else:
                assert record.safer is None
            if record.better is not None:
                names = [hash((record.prompt, text)) for text in record.responses]
                edges.append((names[record.better], names[1 - record.better]))
        assert cyclic(edges) == set()

    @invariant()
    def the_queue_agrees_with_the_log(self) -> None:
        """Working everything out again from the log changes nothing."""
        with self.store.database.write() as db:
            from poise.annotate.store.log import Log
            from poise.annotate.store.settle import Settler

            query = sa.text("select * from final order by item, question"), sa.text("select * from task order by item")
            before = [db.execute(one).all() for one in query]
            log = Log(db, 0)
            seq = log.seq
            for item in self.items.keys() - self.hidden:
                Settler(log, self.store.policy).settle(item)
            assert log.seq == seq
            assert [db.execute(one).all() for one in query] == before

    @invariant()
    def what_an_inspection_contradicts_does_not_stand(self) -> None:
        """Every label found wrong was decided by an adjudicator since, stands corrected, or does not stand."""
        wrong = {one.item for batch in inspections(self.store) for one in batch.wrong if one.state == "to adjudicate"}
        with self.store.database.read() as db:
            query = "select i.key from item i join final f on f.item = i.id where f.question = 'label' and f.settled"
            assert wrong.isdisjoint(db.execute(sa.text(query)).scalars())

    @invariant()
    def checks_become_no_data(self) -> None:
        """Nothing stands about gold alone, nothing of it is exported, and no answer to a check is a judgement."""
        queries = (
            "select count(*) from task t join gold g on g.item = t.item where not g.data",
            "select count(*) from final t join gold g on g.item = t.item where not g.data",
            "select count(*) from event e join gold g on g.item = e.item where not g.data "
            "and e.kind not in ('check', 'undo')",
            "select count(*) from event e where e.kind = 'check' and (e.seq in (select seq from current_judgement) "
            "or e.seq in (select seq from counted_judgement) or e.seq in (select seq from current_adjudication))",
        )
        with self.store.database.read() as db:
            assert [db.execute(sa.text(query)).scalar() for query in queries] == [0] * len(queries)
            prompts = [(record.prompt, record.responses) for record in records_of(db) if isinstance(record, DualRecord)]
        assert len(prompts) == len(ROWS) and not any("gold" in (prompt, *texts) for prompt, texts in prompts)


TestAnnotating = Annotating.TestCase
TestAnnotating.settings = settings(
    max_examples=12, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
