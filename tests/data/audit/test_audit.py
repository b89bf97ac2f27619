"""Every statistic on a corpus small enough to be counted by hand; `conftest` has the rows."""

from __future__ import annotations

from collections.abc import Callable
from math import log2, sqrt

import numpy as np
import pytest

from poise.data.audit import audit
from poise.data.audit.answers import shortcut
from poise.data.audit.labels import K, Labels
from poise.data.records import CorrectionRecord, JudgementRecord, PartialLabel, PromptRecord, QARecord, Turn
from poise.errors import PoiseError
from poise.metrics import wilson_interval

from .conftest import ANSWERS, PAIRS, SAFE, UNKNOWN, C, D, P, V, choice, harm, pair, text


def parts(found: dict | None) -> tuple[int, int]:
    """Numerator and denominator of a share."""
    assert found is not None
    return found["count"], found["of"]


def test_rows_prompts_and_responses(found: dict) -> None:
    assert found["rows"] == {
        "default": {"train": 12},
        "single-dimension": {"train": 8},
        "qa": {"not split": 1, "test": 2},
    }
    # Single: prompts 3, 5, 7, 1, 4, "another", 10, 2. In all: 1 to 12 and "another".
    assert found["prompts"] == {"default": 12, "single-dimension": 8, "qa": 2}
    assert found["prompts_in_all"] == 13
    # The two QA rows of prompt 1 are one response.
    assert found["responses"] == {"default": 24, "single-dimension": 16, "qa": 2}


def test_sources(found: dict) -> None:
    assert found["subsets"]["default"] == {"A": 5, "B": 4, "A / B": 2, "not told": 1}
    assert found["prompt_sources"]["qa"] == {"X": 2, "not told": 1}


def test_answers(found: dict) -> None:
    told = found["answers"]["default"]
    # 22 of 24 answers are labelled. Safe: 2 of pairs 1, 2 and 10, one of 3, 4 and 9.
    assert told["answers"] == 24
    assert parts(told["safe"]) == (9, 22) and parts(told["unsafe"]) == (13, 22)
    # 1: 7, 8, 10. 3: 4, 7. 2: 3, 5, 5, 6, 6, 8, 9, 11, 11.
    assert told["severity"] == {"0": 8, "1": 3, "2": 9, "3": 2}
    # Pair 10 has a safe answer with a severity, pair 11 an unsafe one without a category.
    assert told["contradictions"] == {"count": 2, "of": 22}
    assert told["contradiction_kinds"] == {
        "safe, with a severity": 1,
        "safe, with a category": 0,
        "severity 0, with a category": 0,
        "unsafe, with severity 0": 0,
        "unsafe, without a category": 1,
        "a severity, without a category": 2,
    }
    assert parts(found["answers"]["qa"]["safe"]) == (2, 3)


def test_a_share_comes_with_its_wilson_interval(found: dict) -> None:
    safe = found["answers"]["default"]["safe"]
    expected = wilson_interval(9, 22)
    assert (safe["share"], safe["low"], safe["high"]) == (9 / 22, expected.low, expected.high)


def test_categories(found: dict) -> None:
    assert found["population"] == "default"
    by_name = {entry["category"]: entry for entry in found["categories"]}
    # Violence: pairs 3, 4, 5, 5, 6, 6, 9, 11; beside Physical Harm in 4 and 6.
    violence = by_name[V]
    assert parts(violence["share"]) == (8, 22) and violence["answers"] == 8
    assert violence["severity"] == {"1": 0, "2": 7, "3": 1} and violence["severity_0"] == 0
    assert violence["majority"]["severity"] == 2 and parts(violence["majority"]) == (7, 8)
    assert parts(violence["alone"]) == (6, 8)
    assert parts(by_name[P]["alone"]) == (0, 2) and parts(by_name[C]["alone"]) == (2, 2)
    assert by_name[D]["severity"] == {"1": 1, "2": 0, "3": 1}
    # A category that no answer has: counted 0 because every answer says so, but no share of nothing.
    animals = by_name["Animal Abuse"]
    assert animals["answers"] == 0 and animals["alone"] is None and animals["majority"] is None


def test_categories_together(found: dict) -> None:
    together = found["co_occurrence"]
    v, p, d = (together["categories"].index(name) for name in (V, P, D))
    assert (together["population"], together["answers"], together["all_answers"]) == ("unsafe answers", 13, 22)
    assert together["both"][v][p] == 2 and together["both"][v][v] == 8
    # P(row | column)
    assert together["conditional"][v][p] == 1.0 and together["conditional"][p][v] == 2 / 8
    # Pearson on 0/1, from the 2 x 2 table: (n * both - a * b) / sqrt(a (n - a) b (n - b)).
    assert together["phi"][v][p] == pytest.approx((13 * 2 - 8 * 2) / sqrt(8 * 5 * 2 * 11))
    assert together["phi_all_answers"][v][p] == pytest.approx((22 * 2 - 8 * 2) / sqrt(8 * 14 * 2 * 20))
    assert together["phi"][v][d] == pytest.approx(-8 * 2 / sqrt(8 * 5 * 2 * 11))
    assert together["phi"][v][0] is None and together["conditional"][v][0] is None


def test_pairs(found: dict) -> None:
    pairs = found["pairs"]
    assert (found["paired"], pairs["pairs"], pairs["judged_better"], pairs["judged_safer"]) == ("default", 12, 11, 11)
    assert parts(pairs["states"]["both_safe"]) == (3, 11)  # 1, 2, 10
    assert parts(pairs["states"]["mixed"]) == (3, 11)  # 3, 4, 9
    assert parts(pairs["states"]["both_unsafe"]) == (5, 11)
    assert parts(pairs["better_is_not_safer"]) == (3, 10)  # 3, 5, 7 of all but 10 and 11
    assert pairs["order_violations"] == {"count": 1, "of": 3}  # 9
    assert pairs["repeated_pairs"] == {"count": 0, "of": 12}


def test_ladder(found: dict) -> None:
    rungs = found["ladder"]
    assert [rung["rung"] for rung in rungs][-1] == "one is safe, one is not"
    # Nothing: 1, 2, 5. Categories: 6, 11. Severity: 7, 8, 10. Boundary: 3, 4, 9. Unknown: 12.
    assert [parts(rung) for rung in rungs] == [(3, 11), (2, 11), (3, 11), (3, 11)]
    assert [rung["to_expected"] for rung in rungs[:2]] == [None, None]
    assert parts(rungs[2]["to_expected"]) == (1, 3)  # 7; not 8 and 10
    assert parts(rungs[3]["to_expected"]) == (2, 3)  # 3, 4; not 9


def test_overall_choice_beside_better_and_safer(found: dict) -> None:
    single = found["dual_and_single"]
    # Pairs 3, 5, 7, 1, 4 have all three judgements; 10 has no better, 2 no choice, one pair is not among the dual ones.
    assert (single["matched"], single["conflicts"]) == (5, 3)
    assert parts(single["conflict_share"]) == (3, 5)
    assert parts(single["follows_better"]) == (1, 3)  # 7
    assert parts(single["follows_safer"]) == (2, 3)  # 3, and 5 the other way round
    assert parts(single["picks_safe_at_boundary"]) == (1, 1)  # 3
    assert parts(single["contradicts_both"]) == (1, 2)  # 1; not 4


def test_probes(found: dict) -> None:
    probes = found["probes"]
    # Longer: 1 0 1 - 1 0 1 1 0 0 0 1 for pairs 1 to 12 ("1" = response 1, "-" = a tie).
    assert parts(probes["longer_is_better"]) == (4, 10)  # 3, 6, 7, 9
    assert parts(probes["longer_is_safer"]) == (3, 10)  # 5, 6, 9
    assert parts(probes["first_is_better"]) == (6, 11)  # 1, 5, 6, 8, 9, 12
    assert parts(probes["first_is_safer"]) == (7, 11)  # 1, 3, 6, 7, 8, 9, 12
    assert parts(probes["first_is_single"]) == (4, 7)
    assert parts(probes["longer_is_single"]) == (5, 6)  # all but the first; the fifth is a tie
    # Exactly one disclaimer of two unsafe: 5 (response 1), 6 and 11 (response 0). 8 has two, 3 has a safe response.
    assert parts(probes["disclaimer_is_better_of_two_unsafe"]) == (1, 3)  # 6
    assert parts(probes["disclaimer_is_safer_of_two_unsafe"]) == (2, 2)
    assert parts(probes["refusals_among_unsafe"]) == (1, 13)  # 7; its other response says it later, 1 is safe


def test_lengths(found: dict) -> None:
    groups = {(row["unit"], row["source"], row["state"]): row for row in found["lengths"]}
    # Safe responses of A in pairs 1 to 4 and 10: 10, 20, 30, 10, 5, 8, 4, sorted 4 5 8 10 10 20 30.
    safe = groups["default", "A", "safe"]
    assert safe["answers"] == 7 and safe["mean"] == pytest.approx(87 / 7)
    assert [safe[q] for q in ("q10", "q25", "median", "q75", "q90")] == [4, 5, 10, 20, 30]
    assert groups["default", "not told", "unlabelled"]["answers"] == 2
    assert sum(row["answers"] for row in found["lengths"] if row["unit"] == "single-dimension") == 16


def test_length_counts_characters_not_bytes(make: Callable) -> None:
    found = audit(make([QARecord(prompt="a", response="日本語", label=SAFE)]))
    assert found["lengths"][0]["median"] == 3


def test_shortcut_from_category_set_to_severity() -> None:
    # Answers by category, severity and half: V 2: 3 + 2, V 3: 1 + 1, D 1: 2 + 1, D 2: 0 + 1, C 3: 0 + 1.
    cells = [
        (5, 2, 0, 3),
        (5, 2, 1, 2),
        (5, 3, 0, 1),
        (5, 3, 1, 1),
        (6, 1, 0, 2),
        (6, 1, 1, 1),
        (6, 2, 1, 1),
        (4, 3, 1, 1),
    ]
    category, severity, half, n = np.array(cells).T
    known = np.ones(len(cells), dtype=np.bool_)
    labels = Labels(np.arange(K)[None, :] == category[:, None], severity, ~known, known, known, known)
    found = shortcut(labels, half, n)
    assert found is not None and found["answers"] == 12
    # Learnt on half 0: V is 2, D is 1, C is not there and gets the most common, 2: right in 2 + 1 of 6.
    # Learnt on half 1: V is 2, D is 1 (first of a tie): right in 3 + 2 of 6. The constant is 2: right in 3 + 3.
    assert parts(found["category_set"]["accuracy"]) == (8, 12)
    assert parts(found["constant"]["accuracy"]) == (6, 12)
    # F1 of the set: minor 2 * 3 / (3 + 4), moderate 2 * 5 / (6 + 8), severe 0. Of the constant: 0, 2 * 6 / (6 + 12), 0.
    assert found["category_set"]["macro_f1"] == pytest.approx((6 / 7 + 5 / 7) / 3)
    assert found["constant"]["macro_f1"] == pytest.approx(2 / 9)
    # Of 12: severity 3, 6, 3, which is 1.5 bits; V 7 (5 of 2, 2 of 3), D 4 (3 of 1, 1 of 2), C 1.
    shared = 5 * log2(10 / 7) + 2 * log2(8 / 7) + 3 * log2(3) + log2(1 / 2) + log2(4)
    assert found["normalised_mutual_information"] == pytest.approx(shared / 12 / 1.5)


def test_shortcut_needs_both_halves() -> None:
    known = np.ones(1, dtype=np.bool_)
    labels = Labels(np.eye(K, dtype=np.bool_)[:1], np.array([2]), ~known, known, known, known)
    assert shortcut(labels, np.array([0]), np.array([5])) is None


def test_one_split_alone(make: Callable) -> None:
    tables = make([*PAIRS, *ANSWERS])
    found = audit(tables, split="test")
    assert found["split"] == "test" and found["rows"] == {"qa": {"test": 2}} and found["pairs"] is None
    with pytest.raises(PoiseError, match="no row is in split 'dev'"):
        audit(tables, split="dev")


def test_progress_tells_all_rows(make: Callable) -> None:
    seen: list[tuple[int, str]] = []
    audit(make([*PAIRS, *ANSWERS]), progress=lambda rows, unit: seen.append((rows, unit)))
    assert seen == [(12, "default"), (3, "qa")]


def test_repeated_pairs_match_in_either_order(make: Callable) -> None:
    again = PAIRS[2].model_copy(update={"responses": PAIRS[2].responses[::-1], "labels": PAIRS[2].labels[::-1]})
    found = audit(make([PAIRS[0], PAIRS[2], again, PAIRS[2]]))
    assert found["pairs"]["repeated_pairs"] == {"count": 2, "of": 4}


def test_a_pair_of_equal_responses_matches_nothing(make: Callable) -> None:
    same = pair(1, (text(3), text(3)), (SAFE, SAFE), 0, 0)
    found = audit(make([same, choice(same, 1)]))
    assert found["dual_and_single"] is None and found["pairs"]["repeated_pairs"] is None


def test_data_that_tells_only_safe_and_another_taxonomy(make: Callable) -> None:
    def answer(number: int, safe: bool, *names: str) -> QARecord:
        label = PartialLabel(safe=safe, categories=names, taxonomy="beavertails-14")
        return QARecord(prompt="p", response=text(number), label=label)

    found = audit(make([answer(1, True), answer(2, False, "a,b", "c"), answer(3, False, "a,b"), answer(4, False)]))
    told = found["answers"]["qa"]
    assert parts(told["unsafe"]) == (3, 4)
    assert told["severity"] is None and told["contradictions"] is None
    assert found["categories"] is None and found["co_occurrence"] is None and found["shortcut"] is None
    foreign = [(entry["taxonomy"], entry["category"], *parts(entry)) for entry in found["foreign_categories"]]
    assert foreign == [("beavertails-14", "a,b", 2, 4), ("beavertails-14", "c", 1, 4)]
    assert parts(found["probes"]["refusals_among_unsafe"]) == (0, 3)
    assert found["probes"]["longer_is_better"] is None and found["ladder"] is None


def test_foreign_categories_of_both_responses_of_a_pair(make: Callable) -> None:
    labels = tuple(PartialLabel(safe=False, categories=(name,), taxonomy="t") for name in ("a", "b"))
    found = audit(
        make([pair(1, (text(1), text(2)), labels, 0, 0), pair(2, (text(1), text(2)), (labels[0], UNKNOWN), 0, 0)])
    )
    assert [(entry["category"], *parts(entry)) for entry in found["foreign_categories"]] == [("a", 2, 3), ("b", 1, 3)]


def test_undecided_categories_are_not_counted_as_absent(make: Callable) -> None:
    part = PartialLabel(safe=False, categories=(V,), undecided=(P,), severity=2)
    found = audit(
        make([QARecord(prompt="p", response="a", label=part), QARecord(prompt="p", response="b", label=part)])
    )
    by_name = {entry["category"]: entry for entry in found["categories"]}
    assert by_name[V]["answers"] == 2 and by_name[V]["alone"] is None
    assert by_name[P]["answers"] is None and by_name[P]["share"] is None and by_name[P]["severity"] is None
    assert by_name[D]["answers"] == 0
    assert found["co_occurrence"] is None
    assert found["answers"]["qa"]["contradictions"] == {"count": 0, "of": 2}


def test_pairs_that_tell_only_safer(make: Callable) -> None:
    labels = (PartialLabel(safe=True), PartialLabel(safe=False))
    found = audit(make([pair(n, (text(n), text(9)), labels, None, 0) for n in (1, 2, 3)]))
    assert parts(found["pairs"]["states"]["mixed"]) == (3, 3)
    assert found["pairs"]["better_is_not_safer"] is None and found["pairs"]["judged_better"] == 0
    assert found["pairs"]["order_violations"] == {"count": 0, "of": 3}
    assert found["ladder"] is None and found["dual_and_single"] is None and found["categories"] is None
    assert found["probes"]["longer_is_better"] is None and parts(found["probes"]["longer_is_safer"]) == (0, 3)


def test_unlabelled_pairs_leave_the_population_to_the_answers(make: Callable) -> None:
    found = audit(make([pair(1, (text(1), text(2)), (UNKNOWN, UNKNOWN), 0, 0), ANSWERS[0]]))
    assert found["population"] == "qa" and list(found["answers"]) == ["qa"]
    assert {state: share for state, share in found["pairs"]["states"].items() if share} == {}


def test_rows_of_other_kinds(make: Callable) -> None:
    records = [
        PromptRecord(prompt="a", source="X", split="test"),
        PromptRecord(prompt="a", source="X"),
        CorrectionRecord(question="a", answer=text(3), correction=text(5), answer_source="m", correction_source="c"),
        JudgementRecord(item="i", question="safe", rater="r", responses=("0" * 64,)),
    ]
    found = audit(make(records))
    assert found["prompts"] == {"prompt": 1, "corrections": 1} and found["prompts_in_all"] == 1
    assert found["responses"] == {"corrections": 2} and found["subsets"] == {"corrections": {"c / m": 1}}
    assert [(row["source"], row["median"]) for row in found["lengths"]] == [("c", 5), ("m", 3)]
    assert found["answers"] == {} and found["population"] is None and found["pairs"] is None


def test_one_prompt_in_two_conversations_is_two(make: Callable) -> None:
    before = (Turn(role="user", content="hello"),)
    found = audit(make([PromptRecord(prompt="and then?"), PromptRecord(prompt="and then?", turns=before)]))
    assert found["prompts"]["prompt"] == 2


def test_severity_outside_the_scale_is_unknown(make: Callable) -> None:
    found = audit(make([QARecord(prompt="p", response="a", label=harm(7, V))]))
    assert found["answers"]["qa"]["severity"] is None


def test_flags_of_safe_answers_alone_tell_no_category(make: Callable) -> None:
    unsafe = PartialLabel(safe=False)
    found = audit(make([pair(n, (text(1), text(2)), (SAFE, unsafe), 0, 0) for n in (1, 2)]))
    assert found["categories"] is None
    assert audit(make([QARecord(prompt="p", response="a", label=SAFE)]))["categories"][0]["answers"] == 0
