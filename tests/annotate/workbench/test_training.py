"""Training: what is drawn, what is fed back, when it is passed, and that it leaves no trace in the log."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from poise.annotate.store import AnnotationStore
from poise.annotate.workbench.training import Training, TrainingSettings, compare, draw, practice_items
from poise.data.rows import Rater, label_value
from poise.errors import PoiseError
from poise.harm import CATEGORIES, Category, Label

Bench = tuple[AnnotationStore, Training, int]


@pytest.fixture
def bench(anywhere: str) -> Iterator[Bench]:
    with AnnotationStore.create(anywhere) as store:
        yield store, Training(store), store.rater(Rater(id="ann", kind="person"))


def play(training: Training, rater: int, *, right: bool) -> None:
    training.begin(rater)
    while (item := training.next(rater)) is not None:
        other = {"categories": ["S3"], "severity": 3} if item.label.safe else {"categories": [], "severity": 0}
        training.answer(rater, item.id, label_value(item.label) if right else other)


def test_a_round_covers_categories_and_severities() -> None:
    labels = [practice_items()[item].label for item in draw(30, "ann", "1")]
    assert len(labels) == 30 and sum(label.safe for label in labels) == 10
    assert {category for label in labels for category in label.categories} == set(CATEGORIES)
    assert {int(label.severity) for label in labels} == {0, 1, 2, 3}
    assert draw(30, "ann", "1") != draw(30, "ann", "2")
    assert draw(30, "ann", "1") == draw(30, "ann", "1")


def test_opt_outs_are_kept_in_training(bench: Bench) -> None:
    store, training, ann = bench
    store.opt_out(ann, [category for category in CATEGORIES if category.code != "S6"])
    training.begin(ann)
    seen = set()
    while (item := training.next(ann)) is not None:
        seen |= item.label.categories
        training.answer(ann, item.id, label_value(item.label))
    assert seen <= {Category.parse("S6")}
    assert training.progress(ann).of == TrainingSettings().items


def test_feedback_names_the_difference_and_the_guideline() -> None:
    practice = next(
        one for one in practice_items().values() if len(one.label.categories) == 2 and one.label.severity == 2
    )
    kept, missed = sorted(practice.label.categories, key=lambda c: c.index)
    extra = next(c for c in CATEGORIES if c not in practice.label.categories)
    found = compare(practice, Label.of([kept, extra], 3))
    assert (found.missed, found.extra) == ((missed,), (extra,))
    assert found.category_points == pytest.approx(1 / 3)  # one shared of three named
    assert found.severity_points == 0.5  # one step off
    assert {note.why for note in found.notes} == {"missed", "not meant", "severity"}
    assert all(note.text and note.version for note in found.notes)
    assert not found.right and compare(practice, practice.label).right
    assert compare(practice, Label.of([], 0)).severity_points == 0


def test_a_round_is_passed_by_right_answers_only(bench: Bench) -> None:
    store, training, ann = bench
    training.set(TrainingSettings(required=True, items=6, pass_mark=0.8))
    play(training, ann, right=False)
    assert training.progress(ann).passed is False and not training.qualified(ann)
    play(training, ann, right=True)
    now = training.progress(ann)
    assert (now.number, now.done, now.of, now.passed, now.qualified) == (2, 6, 6, True, True)
    assert now.categories == now.severity == 1.0
    assert sum(tally.items for tally in now.by_severity) == 6
    assert training.qualified(ann)
    training.begin(ann)
    assert training.progress(ann).qualified and training.progress(ann).passed is None
    with store.database.read() as db:
        assert db.exec_driver_sql("select count(*) from event").scalar() == 0


def test_the_first_answer_stands_and_others_items_are_refused(bench: Bench) -> None:
    _, training, ann = bench
    training.begin(ann)
    item = training.next(ann)
    assert item is not None
    first = training.answer(ann, item.id, {"categories": ["S1"], "severity": 1})
    again = training.answer(ann, item.id, {"categories": [], "severity": 0})
    assert first == again and training.progress(ann).done == 1
    foreign = next(name for name in practice_items() if name not in draw(60, str(ann), "1"))
    with pytest.raises(PoiseError, match="not in the present round"):
        training.answer(ann, foreign, {"categories": [], "severity": 0})
    with pytest.raises(PoiseError, match="nothing is answered"):
        training.answer(ann, item.id, None)
    assert training.begin(ann) == 1
