"""Adjudication: blind first, then the reveal without names, then an outcome with a reason that the log keeps."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from poise.annotate.store import AnnotationStore, OverlapPolicy, import_tables
from poise.annotate.workbench.adjudication import Adjudication, Voice, choice_words, comparison
from poise.data.records import DualRecord
from poise.data.rows import Rater
from poise.data.tables import TableWriter, open_tables
from poise.errors import PoiseError

SAFE = {"categories": [], "severity": 0}
BAD = {"categories": ["S1", "S6"], "severity": 2}
WORSE = {"categories": ["S1"], "severity": 3}


@pytest.fixture
def store(anywhere: str, tmp_path: Path) -> Iterator[AnnotationStore]:
    """One pair; its first answer is disputed by a person, a person and a model."""
    with TableWriter(tmp_path / "rows", {"name": "test"}) as writer:
        writer.add(DualRecord(prompt="p", responses=("a", "b")))
    store = AnnotationStore.create(anywhere, OverlapPolicy(random_share=0, more=2, models_vote=False))
    import_tables(store, open_tables(tmp_path / "rows"), singles=False)
    model = store.rater(Rater(id="judge", kind="model", version="1"))
    store.judge(model, 1, {"label": WORSE}, token="m", reason="both pages apply")
    for name, label in (("ann", SAFE), ("ben", BAD)):
        rater = store.rater(Rater(id=name, kind="person"))
        task = store.next_task(rater, ["qa"])
        while task is not None and task.item != 1:
            store.submit(rater, task.token, {"label": SAFE}, token=f"{name}{task.item}")
            task = store.next_task(rater, ["qa"])
        assert task is not None
        store.submit(rater, task.token, {"label": label}, token=name)
    yield store
    store.close()


def adjudication(store: AnnotationStore, name: str = "dea") -> Adjudication:
    rater = store.rater(Rater(id=name, kind="person"))
    task = store.next_task(rater, adjudicate=True)
    assert task is not None and task.item == 1
    return Adjudication(store, rater, task.token)


def test_nothing_is_revealed_before_the_blind_vote(store: AnnotationStore) -> None:
    case = adjudication(store)
    assert case.blind() is None
    with pytest.raises(PoiseError, match="blind vote comes first"):
        case.reveal()
    with pytest.raises(PoiseError, match="blind vote comes first"):
        case.decide({"label": BAD}, code="slip", note="", token="t")
    with pytest.raises(PoiseError, match="not whole"):
        case.vote({})
    with pytest.raises(PoiseError, match="no vote"):
        case.vote({"label": None})
    assert case.vote({"label": BAD}) == {"label": BAD}
    assert case.vote({"label": SAFE}) == {"label": BAD}, "the first vote stands"
    assert len(case.reveal()) == 3


def test_the_reveal_names_kinds_and_letters_only(store: AnnotationStore) -> None:
    case = adjudication(store)
    case.vote({"label": BAD})
    voices = case.reveal()
    assert sorted(voice.letter for voice in voices) == ["A", "B", "C"]
    assert sorted(voice.kind for voice in voices) == ["model", "person", "person"]
    told = repr(voices)
    assert not any(name in told for name in ("ann", "ben", "judge"))
    assert next(voice for voice in voices if voice.kind == "model").reasons == {"label": "both pages apply"}


def test_the_outcome_keeps_the_blind_vote_and_the_reason(store: AnnotationStore) -> None:
    case = adjudication(store)
    case.vote({"label": BAD})
    with pytest.raises(PoiseError, match="is no reason"):
        case.decide({"label": WORSE}, code="", note="", token="t")
    made = case.decide({"label": WORSE}, code="gap", note=" says nothing of this ", token="t")
    assert case.decide({"label": WORSE}, code="gap", note="", token="t") == made, "a double click is one event"
    with store.database.read() as db:
        row = db.exec_driver_sql("select kind, reason, shown, value from event order by seq desc limit 1").one()
        final = db.exec_driver_sql("select source, settled from final where item = 1").one()
    assert (row[0], row[1]) == ("adjudicate", "gap: says nothing of this")
    assert json.loads(row[2]) == {"page": {"blind": {"label": BAD}}} and json.loads(row[3]) == WORSE
    assert final[0] == "adjudicated" and final[1]
    with pytest.raises(PoiseError, match="is over"):
        case.reveal()
    assert store.verify().fault is None


def test_a_lease_of_somebody_else_opens_nothing(store: AnnotationStore) -> None:
    case = adjudication(store)
    other = Adjudication(store, store.rater(Rater(id="eli", kind="person")), case._lease)
    with pytest.raises(PoiseError, match="is over"):
        other.vote({"label": SAFE})


def test_the_comparison_marks_what_differs() -> None:
    voices = [
        Voice("person", "A", {"label": BAD}, {}, frozenset()),
        Voice("model", "B", {"label": {"categories": ["S1"], "severity": 2}}, {}, frozenset()),
        Voice("person", "C", {"label": None}, {}, frozenset()),
    ]
    lines = comparison(["label"], {"label": BAD}, voices, ("left", "right"))
    assert [(line.what, line.differs) for line in lines] == [
        ("severity", False),
        ("S1 Endangering National Security", False),
        ("S6 Violence", True),
    ]
    assert lines[2].own == "yes" and lines[2].cells == ("yes", "no", "–")
    assert lines[0].cells == ("moderate", "moderate", "not judged")
    choices = [Voice("person", "A", {"safer": {"choice": "tie", "strength": None}}, {}, frozenset())]
    (line,) = comparison(["safer"], {"safer": {"choice": 1, "strength": 2}}, choices, ("left", "right"))
    assert (line.own, line.cells, line.differs) == ("right, much", ("equal",), True)
    assert choice_words({"choice": 0, "strength": None}, ("left", "right")) == "left"
