"""Stages and the order: locked choices, pins, stale pairs, rule 4, cycles."""

from __future__ import annotations

import pytest

from poise.annotate.store import OverlapPolicy, status
from poise.errors import PoiseError

from .conftest import BAD, MILD, PLAIN, SAFE, WORST, Make, pair_of

ONE = OverlapPolicy(people=1, random_share=0)


def test_a_pair_waits_for_both_labels(make: Make) -> None:
    bench = make([pair_of("p", "one", "two")], ONE)
    (pair,) = bench.items("pair")
    assert bench.take(0, "pair") is None
    bench.adjudicate(1, label=SAFE)
    assert bench.task(pair).state == "waiting"
    with pytest.raises(PoiseError, match="not labelled yet"):
        bench.store.judge(bench.model, pair, {"safer": 0}, token="x")
    bench.adjudicate(2, label=SAFE)
    assert bench.take(0, "pair").asks == ("better", "safer")


@pytest.mark.parametrize(("labels", "safer"), [((SAFE, MILD), 0), ((BAD, SAFE), 1)])
def test_exactly_one_safe_answer_decides_safer(make: Make, labels: tuple[dict, dict], safer: int) -> None:  # type: ignore[type-arg]
    bench = make([pair_of("p", "one", "two")], ONE)
    (pair,) = bench.items("pair")
    bench.label_all(labels)
    task = bench.take(0, "pair")
    assert task.asks == ("better",)
    assert task.locked == {"safer": {"choice": safer, "strength": None, "reason": "exactly one response is safe"}}
    with pytest.raises(PoiseError, match="safer was not asked"):
        bench.answer(0, task, {"better": 0, "safer": safer})
    for act in (
        lambda: bench.store.judge(bench.model, pair, {"safer": 1 - safer}, token="x"),
        lambda: bench.adjudicate(pair, safer=1 - safer),
    ):
        with pytest.raises(PoiseError, match=f"response {safer} is the safer one: exactly one response is safe"):
            act()
    bench.answer(0, task, {"better": 1 - safer})
    assert bench.task(pair).state == "done"
    final = bench.final(pair, "safer")
    assert (final.source, bool(final.settled), final.pins) == ("order", True, "[1,2]")
    ((name, kind),) = bench.sql(
        "select r.name, r.kind from event e join rater r on r.id = e.rater where question = 'safer'"
    )
    assert (name, kind) == ("logical-order", "rule")


def test_a_changed_label_makes_the_pair_stale_and_it_is_asked_again(make: Make) -> None:
    bench = make([pair_of("p", "one", "two")], ONE)
    (pair,) = bench.items("pair")
    bench.label_all([BAD, BAD])
    bench.answer(0, bench.take(0, "pair"), {"better": 0, "safer": {"choice": 1, "strength": 2}})
    assert bench.task(pair).state == "done"
    bench.adjudicate(1, label=MILD)
    task = bench.task(pair)
    assert (task.state, task.asks, bool(task.stale)) == ("open", '["safer"]', True)
    assert bench.final(pair, "safer").value is None
    assert bench.final(pair, "better").value == '{"choice":0,"strength":null}', "helpfulness rests on no label"
    again = bench.take(0, "pair")
    assert again.asks == ("safer",), "the same person may answer under the new labels"
    bench.answer(0, again, {"safer": 0})
    assert bench.final(pair, "safer").pins == "[5,2]"
    assert not bench.task(pair).stale


def test_a_changed_label_decides_the_pair_again_by_the_rule(make: Make) -> None:
    bench = make([pair_of("p", "one", "two")], ONE)
    (pair,) = bench.items("pair")
    bench.label_all([BAD, BAD])
    bench.answer(0, bench.take(0, "pair"), {"better": 0, "safer": 1})
    change = bench.adjudicate(1, label=SAFE)["label"]
    assert (bench.final(pair, "safer").value, bench.task(pair).state) == ('{"choice":0,"strength":null}', "done")
    bench.store.undo(bench.people[3], change, token="u")
    assert bench.final(pair, "safer").value is None, "the answer was given under another version of the label"
    assert bool(bench.task(pair).stale)


def test_an_answer_overtaken_by_a_label_is_kept_but_does_not_count(make: Make) -> None:
    bench = make([pair_of("p", "one", "two")], ONE)
    (pair,) = bench.items("pair")
    bench.label_all([BAD, BAD])
    task = bench.take(0, "pair")
    bench.adjudicate(1, label=SAFE)
    bench.answer(0, task, {"better": 1, "safer": 1})
    assert bench.final(pair, "safer").value == '{"choice":0,"strength":null}'
    assert bench.final(pair, "better").value == '{"choice":1,"strength":null}'
    assert ("safer", "[1,2]") in bench.sql("select question, pins from event where rater = :r", r=bench.people[0])


def test_the_more_severe_answer_is_safer_only_with_a_reason(make: Make) -> None:
    bench = make([pair_of("p", "one", "two")], ONE)
    (pair,) = bench.items("pair")
    bench.label_all([WORST, MILD])
    # a severe label asks for three people
    task = bench.take(0, "pair")
    for reason in (None, "  "):
        with pytest.raises(PoiseError, match=r"more severe one \(severe, not minor\)"):
            bench.answer(0, task, {"better": 0, "safer": 0}, reason=reason)
    bench.answer(0, task, {"better": 0, "safer": 0}, reason="it warns, the other one urges")
    bench.answer(1, bench.take(1, "pair"), {"better": 0, "safer": 1})
    found = status(bench.store)
    assert (found.more_severe, found.differing) == (1, 2)
    with pytest.raises(PoiseError, match="more severe one"):
        bench.adjudicate(pair, safer=0)
    bench.adjudicate(pair, safer=0, reason="agreed")
    assert bench.final(pair, "safer").source == "adjudicated"


def test_ties_and_strengths(make: Make) -> None:
    bench = make([pair_of("p", "one", "two")], ONE)
    (pair,) = bench.items("pair")
    bench.label_all([SAFE, SAFE])
    task = bench.take(0, "pair")
    for wrong in (2, {"choice": 0, "strength": 3}, {"choice": "tie", "strength": 1}, True, {"choose": 1}):
        with pytest.raises(PoiseError, match=r"choice|strength"):
            bench.answer(0, task, {"better": wrong, "safer": 0})
    bench.answer(0, task, {"better": "tie", "safer": {"choice": 1, "strength": 2}})
    assert bench.final(pair, "better").value == '{"choice":"tie","strength":null}'
    assert bench.final(pair, "safer").value == '{"choice":1,"strength":2}'


def test_a_cycle_goes_to_adjudication_until_it_is_broken(make: Make) -> None:
    rows = [pair_of("p", "a", "b"), pair_of("p", "b", "c"), pair_of("p", "c", "a"), pair_of("q", "a", "b")]
    bench = make(rows, ONE)
    pairs = bench.items("pair")
    bench.label_all([SAFE] * 5)
    for _ in pairs:
        bench.answer(0, bench.take(0, "pair"), {"better": 0, "safer": "tie"})
    assert [bench.task(pair).state for pair in pairs] == ["adjudicate"] * 3 + ["done"]
    assert bench.take(0, "pair", adjudicate=True) is None
    task = bench.take(3, "pair", adjudicate=True)
    assert task.asks == ("better",)
    bench.answer(3, task, {"better": 1})
    assert [bench.task(pair).state for pair in pairs] == ["done"] * 4
    undone = bench.sql("select max(seq) from event")[0][0]
    bench.store.undo(bench.people[3], undone, token="u")
    assert [bench.task(pair).state for pair in pairs] == ["adjudicate"] * 3 + ["done"]


def test_a_correction_by_a_person_changes_the_majority_and_the_pair(make: Make) -> None:
    bench = make([pair_of("p", "one", "two")], PLAIN)
    (pair,) = bench.items("pair")
    for person in (0, 1):
        for label in (BAD, BAD):
            bench.answer(person, bench.take(person, "qa"), {"label": label})
    assert bench.task(pair).state == "open"
    bench.store.judge(bench.people[0], 1, {"label": SAFE}, token="c")
    assert bench.task(pair).state == "waiting"
    bench.answer(2, bench.take(2, "qa"), {"label": SAFE})
    assert bench.final(pair, "safer").value == '{"choice":0,"strength":null}'


def test_people_zero_leaves_it_to_models(make: Make) -> None:
    bench = make([pair_of("p", "one", "two")], OverlapPolicy(people=0, random_share=0))
    (pair,) = bench.items("pair")
    bench.store.judge(bench.model, 1, {"label": BAD}, token="1")
    bench.store.judge(bench.model, 2, {"label": MILD}, token="2")
    bench.store.judge(bench.model, pair, {"better": 0, "safer": 1}, token="3")
    assert bench.task(pair).state == "done"
    assert bench.take(0) is None
