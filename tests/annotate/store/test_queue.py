"""Tasks: leases, drafts, overlap, routing, and that nothing is lost or given twice."""

from __future__ import annotations

import pytest

from poise.annotate.store import OverlapPolicy
from poise.annotate.store.overlap import Vote, combine_choices, combine_labels, cyclic, outcome
from poise.data.records import PartialLabel, PromptRecord, QARecord
from poise.data.rows import uniform_seed
from poise.errors import PoiseError

from .conftest import BAD, MILD, PLAIN, SAFE, WORST, Make, pair_of, qa_rows


def test_an_item_goes_to_two_people_and_never_twice_to_one(make: Make) -> None:
    bench = make(qa_rows(2))
    given = [(person, bench.take(person)) for person in (0, 1, 2)]
    assert [task.item for _, task in given] == [1, 1, 2]
    for person, task in given:
        bench.answer(person, task, {"label": SAFE})
    assert bench.take(0).item == 2
    assert bench.take(2) is None
    assert bench.task(1)[:3] == ("done", 2, 2)


def test_a_lease_is_resumed_renewed_and_ends(make: Make) -> None:
    bench = make(qa_rows(2), OverlapPolicy(people=1, random_share=0, lease_s=60))
    task = bench.take(0)
    assert bench.take(0).token == task.token
    bench.now[0] += 59
    assert bench.store.renew(bench.people[0], task.token) == round(bench.now[0] * 1000) + 60_000
    bench.now[0] += 59
    assert bench.take(1).item == 2
    bench.now[0] += 1
    for action in (
        lambda: bench.answer(0, task, {"label": SAFE}),
        lambda: bench.store.renew(bench.people[0], task.token),
        lambda: bench.store.save_draft(bench.people[0], task.token, {}),
    ):
        with pytest.raises(PoiseError, match="this lease is over: it expired"):
            action()
    again = bench.take(2)
    assert again.item == 1 and again.token != task.token
    bench.answer(2, again, {"label": SAFE})
    assert bench.task(1).state == "done"


def test_somebody_elses_lease_is_refused(make: Make) -> None:
    bench = make(qa_rows(1))
    task = bench.take(0)
    with pytest.raises(PoiseError, match="this lease is over"):
        bench.answer(1, task, {"label": SAFE})


def test_the_next_item_can_be_loaded_ahead(make: Make) -> None:
    bench = make(qa_rows(3))
    first = bench.take(0)
    second = bench.take(0, besides=[first.token])
    assert (first.item, second.item) == (1, 2)
    bench.answer(0, first, {"label": SAFE})
    assert bench.take(0).token == second.token


def test_a_draft_outlives_its_lease_and_ends_with_the_answer(make: Make) -> None:
    bench = make(qa_rows(1))
    task = bench.take(0)
    bench.store.save_draft(bench.people[0], task.token, {"note": "half", "a": 1})
    bench.now[0] += 10_000
    again = bench.take(0)
    assert again.draft == {"a": 1, "note": "half"}
    assert bench.take(1).draft is None
    bench.answer(0, again, {"label": SAFE})
    assert bench.sql("select * from draft") == []


def test_giving_back_and_skipping(make: Make) -> None:
    bench = make(qa_rows(1))
    bench.store.release(bench.people[0], bench.take(0).token)
    bench.store.release(bench.people[0], bench.take(0).token, skip=True)
    assert bench.take(0) is None
    assert bench.take(1).item == 1


def test_conflict_asks_a_third_and_then_an_adjudicator(make: Make) -> None:
    bench = make(qa_rows(2))
    for person, label in enumerate((SAFE, BAD)):
        task = bench.take(person)
        assert task.item == 1
        bench.answer(person, task, {"label": label})
    assert bench.task(1)[:3] == ("open", 3, 2)
    third = bench.take(2)
    assert third.item == 1, "a conflict goes before what is new"
    bench.answer(2, third, {"label": {"categories": ["S2"], "severity": 1}})
    assert bench.task(1).state == "adjudicate"
    assert bench.take(0, adjudicate=True) is None, "nobody decides on an own answer"
    dispute = bench.take(3, adjudicate=True)
    assert [told["value"]["severity"] for told in dispute.judgements] == [0, 2, 1]
    assert all("name" not in told and "rater" not in told for told in dispute.judgements)
    assert bench.take(4, adjudicate=True) is None
    bench.answer(3, dispute, {"label": BAD})
    assert bench.task(1).state == "done"
    assert bench.final(1, "label").source == "adjudicated"


@pytest.mark.parametrize(
    ("votes", "wanted"),
    [
        ([("person", SAFE), ("person", SAFE)], 2),
        ([("person", BAD), ("person", SAFE)], 3),
        ([("person", WORST), ("person", WORST)], 3),
        ([("person", {"categories": ["S19"], "severity": 1})], 3),
        ([("person", SAFE), ("model", SAFE)], 2),
        ([("person", SAFE), ("model", BAD)], 3),
        ([("model", BAD), ("model", SAFE)], 2),
    ],
)
def test_who_is_asked_how_often(make: Make, votes: list[tuple[str, dict[str, object]]], wanted: int) -> None:
    bench = make(qa_rows(1))
    for person, (kind, value) in enumerate(votes):
        if kind == "person":
            bench.answer(person, bench.take(person), {"label": value})
        else:
            model = bench.store.rater(bench_model(person))
            bench.store.judge(model, 1, {"label": value}, token=bench.token())
    assert bench.task(1).wanted == wanted


def bench_model(number: int):  # type: ignore[no-untyped-def]
    """A model rater of its own."""
    from poise.data.rows import Rater

    return Rater(id=f"model-{number}", kind="model", version="v")


def test_a_drawn_share_always_gets_three(make: Make) -> None:
    bench = make(qa_rows(200), OverlapPolicy(random_share=0.05, seed=7))
    keys = dict(bench.sql("select id, key from item"))
    drawn = {item for item, key in keys.items() if uniform_seed(7, key, "overlap") < 0.05 * 2**63}
    assert drawn == {item for item, wanted in bench.sql("select item, wanted from task") if wanted == 3}
    assert 2 <= len(drawn) <= 25


def test_opted_out_categories_are_not_given(make: Make) -> None:
    rows = [
        PromptRecord(prompt="question 0", category="S19"),
        *qa_rows(1),
        QARecord(prompt="q", response="a", label=PartialLabel(safe=False, categories=("Violence",), severity=1)),
        *qa_rows(3)[2:],
        pair_of("question 0", "answer 0", "another"),
    ]
    bench = make(rows, OverlapPolicy(people=1, random_share=0))
    bench.store.opt_out(bench.people[0], ["Animal Abuse", "S6"])
    seen = []
    while (task := bench.take(0)) is not None:
        seen.append(task.prompt + task.responses[0])
        bench.answer(0, task, {"label": SAFE})
    assert seen == ["question 2answer 2"]
    assert bench.take(1).prompt == "question 0"


def test_single_preference_goes_to_others_than_the_rest(make: Make) -> None:
    bench = make([pair_of("p", "one", "two")], OverlapPolicy(people=1, random_share=0), singles=True)
    first = bench.take(0, "single")
    assert (first.asks, first.locked, first.responses) == (("single",), {}, ("one", "two"))
    assert bench.take(0, "qa", "pair") is None
    label = bench.take(1, "qa")
    assert bench.take(1, "single", besides=[label.token]) is None
    bench.answer(0, first, {"single": 1})
    bench.answer(1, label, {"label": SAFE})
    bench.answer(1, bench.take(1), {"label": SAFE})
    assert bench.take(0, "pair") is None
    assert bench.take(2, "pair").asks == ("better", "safer")


def test_all_questions_are_answered_and_no_other(make: Make) -> None:
    bench = make(qa_rows(1))
    task = bench.take(0)
    with pytest.raises(PoiseError, match="no answer to label"):
        bench.answer(0, task, {})
    with pytest.raises(PoiseError, match="better was not asked"):
        bench.answer(0, task, {"label": SAFE, "better": 1})
    with pytest.raises(PoiseError, match="has not answered the item before"):
        bench.store.judge(bench.people[0], 1, {"label": SAFE}, token="x")
    with pytest.raises(PoiseError, match="is no stage"):
        bench.take(0, "qq")


def test_an_unjudged_answer_does_not_count_as_one(make: Make) -> None:
    bench = make(qa_rows(1))
    bench.answer(0, bench.take(0), {"label": None})
    assert bench.task(1)[:3] == ("open", 2, 0)
    assert bench.take(0) is None
    assert bench.final(1, "label").value is None


def test_no_item_is_lost(make: Make) -> None:
    """Five people take, answer, let expire and give back in turn: in the end each item has its two answers."""
    bench = make(qa_rows(12))
    for step in range(400):
        person = step % 5
        task = bench.take(person)
        if task is None:
            continue
        if step % 7 == 3:
            bench.store.release(bench.people[person], task.token)
        elif step % 11 == 5:
            bench.now[0] += 1000
        else:
            bench.answer(person, task, {"label": SAFE})
    counts = bench.sql("select item, count(*), count(distinct rater) from event group by item order by item")
    assert counts == [(item, 2, 2) for item in range(1, 13)]
    assert {row[0] for row in bench.sql("select state from task")} == {"done"}


def test_labels_are_combined_part_by_part() -> None:
    """S1 has 3 of 3, S2 1 of 3; at least 1: 3 of 3, at least 2: 2 of 3, at least 3: 1 of 3."""
    both = {"categories": ["S1", "S2"], "severity": 1}
    assert combine_labels([BAD, both, WORST]) == BAD
    assert combine_labels([SAFE, SAFE, BAD]) == SAFE
    assert combine_labels([SAFE, BAD]) is None
    assert combine_labels([BAD, WORST]) is None
    assert combine_labels([MILD, BAD, {"categories": ["S3"], "severity": 1}]) is None, "unsafe, but no category"


def test_choices_need_more_than_half() -> None:
    def choice(value: object, strength: int | None = None) -> dict[str, object]:
        return {"choice": value, "strength": strength}

    assert combine_choices([choice(0, 2), choice(0, 1), choice(1)]) == choice(0, 1)
    assert combine_choices([choice(0), choice(1)]) is None
    assert combine_choices([choice("tie"), choice("tie"), choice(1)]) == choice("tie")
    assert combine_choices([choice("tie"), choice(0), choice(1)]) is None


def test_models_that_do_not_vote_still_call_for_a_third() -> None:
    policy = OverlapPolicy(models_vote=False, random_share=0)
    votes = [Vote("person", SAFE), Vote("person", SAFE), Vote("model", BAD), Vote("model", BAD)]
    found = outcome(policy, votes, combine_labels)
    assert (found.value, found.state, found.wanted) == (SAFE, "open", 3)
    assert outcome(PLAIN, [], combine_labels).state == "open"


def test_cycles() -> None:
    assert cyclic([(1, 2), (2, 3), (3, 1), (1, 4)]) == {(1, 2), (2, 3), (3, 1)}
    assert cyclic([(1, 2), (2, 3), (1, 3)]) == set()
