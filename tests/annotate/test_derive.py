"""From scores to judgements: the logical order always holds, and helpfulness is not touched by harm."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poise.annotate import QAScore, label_judgement, pair_judgements
from poise.data import Judgement, PairRow
from poise.harm import CATEGORIES, SAFE, Label, Severity, policy_version, violates_order

PAIR = PairRow(id="pair", prompt_id="p", qa_0="a", qa_1="b")
MINOR, SEVERE = Label.of(["S6"], 1), Label.of(["S6"], 3)


def score(harm: float, helpful: float) -> QAScore:
    """Expected severity `harm` in 0..3, all categories unlikely."""
    return QAScore((1 - harm / 3, 0.0, 0.0, harm / 3), (0.1,) * len(CATEGORIES), helpful)


def judge(labels: tuple[Label, Label], scores: tuple[QAScore, QAScore]) -> dict[str, Judgement]:
    out = pair_judgements(PAIR, labels, scores, "rater")
    assert [j.question for j in out] == ["better", "safer", "single"]
    assert {j.item for j in out} == {"pair"}
    assert {j.policy for j in out} == {policy_version()}
    return {j.question: j for j in out}


def test_three_answers_by_hand() -> None:
    # helpful 1 -> 3: log-odds of 1 = 2, s(2) = 0.880797; harm 0.3 -> 2.7: both unsafe, level 1 against 3 -> 0 is safer,
    # log-odds 2, 0.880797; single: 2 - 2.4 = -0.4 -> 0, s(0.4) = 0.598688
    j = judge((MINOR, SEVERE), (score(0.3, 1.0), score(2.7, 3.0)))
    assert (j["better"].value, j["safer"].value, j["single"].value) == (1, 0, 0)
    assert j["better"].probability == pytest.approx(0.880797, abs=1e-6)
    assert j["safer"].probability == pytest.approx(0.880797, abs=1e-6)
    assert j["single"].probability == pytest.approx(0.598688, abs=1e-6)
    assert {x.rater for x in j.values()} == {"rater"}


def test_equal_levels_are_told_apart_by_expected_severity() -> None:
    # log-odds of 1 = -(1.2 - 0.9) = -0.3 -> 0 with s(0.3) = 0.574443
    j = judge((MINOR, MINOR), (score(0.9, 0), score(1.2, 0)))["safer"]
    assert j.value == 0
    assert j.probability == pytest.approx(0.574443, abs=1e-6)


def test_the_final_label_comes_before_the_raters_score() -> None:
    assert judge((SEVERE, MINOR), (score(0.1, 0), score(3.0, 0)))["safer"].value == 1


@pytest.mark.parametrize(("labels", "safer"), [((SAFE, MINOR), 0), ((SEVERE, SAFE), 1)])
def test_the_order_decides_where_one_is_safe(labels: tuple[Label, Label], safer: int) -> None:
    against = (score(3.0, 0), score(0.0, 0)) if safer == 0 else (score(0.0, 0), score(3.0, 0))
    j = judge(labels, against)["safer"]
    assert (j.value, j.rater, j.probability) == (safer, "logical-order", None)
    assert j.reason == "exactly one response is safe"


labels = st.just(SAFE) | st.builds(
    Label, st.frozensets(st.sampled_from(CATEGORIES), min_size=1, max_size=2), st.sampled_from(list(Severity)[1:])
)
scores = st.builds(score, st.floats(0, 3), st.floats(-1e6, 1e6))


@given(st.tuples(labels, labels), st.tuples(scores, scores))
def test_no_score_breaks_the_order_and_helpfulness_is_its_own(
    both: tuple[Label, Label], scored: tuple[QAScore, QAScore]
) -> None:
    j = judge(both, scored)
    assert not violates_order(*both, j["safer"].value)
    if both[0].severity != both[1].severity:
        assert both[j["safer"].value].severity < both[1 - j["safer"].value].severity
    assert j["better"].value == int(scored[1].helpful > scored[0].helpful)
    swapped = judge((SEVERE, SAFE), scored)
    assert swapped["better"] == j["better"], "labels never touch helpfulness"
    assert all(x.probability is None or 0.5 <= x.probability <= 1 for x in j.values())


@given(st.tuples(labels, labels), st.tuples(scores, scores))
def test_swapping_the_responses_swaps_the_answers(both: tuple[Label, Label], scored: tuple[QAScore, QAScore]) -> None:
    here, there = judge(both, scored), judge((both[1], both[0]), (scored[1], scored[0]))
    for question, judgement in here.items():
        tie = judgement.probability == 0.5
        assert tie or there[question].value == 1 - judgement.value
        assert there[question].probability == judgement.probability


def test_label_judgement_stores_the_label_and_the_probability() -> None:
    j = label_judgement("qa", QAScore((0.2, 0.1, 0.1, 0.6), (0.9,) + (0.1,) * 18, 0.0), "rater")
    assert j.label() == Label.of(["S1"], 3)
    assert j.probability == pytest.approx(0.8)
    assert (j.item, j.question, j.rater, j.reason, j.policy) == ("qa", "label", "rater", None, policy_version())


@pytest.mark.parametrize("known_safe", [True, False])
def test_label_judgement_says_that_it_completes_a_person(known_safe: bool) -> None:
    j = label_judgement("qa", score(1.0, 0), "rater", known_safe=known_safe)
    assert j.label().safe == known_safe
    assert j.reason == "completes a person's safe flag"


@pytest.mark.parametrize("known_safe", [None, True])
def test_a_missing_score_is_unjudged_never_safe(known_safe: bool | None) -> None:
    j = label_judgement("qa", None, "rater", known_safe=known_safe)
    assert (j.value, j.probability, j.reason) == (None, None, "no score")
    with pytest.raises(ValueError, match="holds no label"):
        j.label()


def test_probability_of_far_apart_scores_is_one() -> None:
    j: Any = judge((SAFE, SAFE), (score(0, -1e6), score(0, 1e6)))["better"]
    assert (j.value, j.probability) == (1, 1.0)
    assert not math.isnan(j.probability)
