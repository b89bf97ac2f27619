"""Metrics: values worked by hand, scikit-learn where it has the function, and properties."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poise import metrics as m

RNG = np.random.default_rng(7)
SCORE = np.round(RNG.random(200), 1)  # rounded, so that there are ties
POSITIVE = RNG.random(200) < 0.2 + 0.6 * SCORE
TRUE = RNG.integers(0, 4, 200)
PRED = np.clip(TRUE + RNG.integers(-1, 2, 200), 0, 3)


def test_auroc_by_hand() -> None:
    # positives 3, 2; negatives 1, 2: pairs (3,1) 1, (3,2) 1, (2,1) 1, (2,2) 1/2 -> 3.5 / 4
    assert m.auroc([3, 2, 1, 2], [True, True, False, False]) == 0.875
    assert math.isnan(m.auroc([1, 2], [True, True]))
    assert math.isnan(m.auroc([], []))


def test_average_precision_by_hand() -> None:
    # thresholds 0.9 (hit), 0.8 (miss), 0.7 (hit): 1/2 * 1 + 1/2 * 2/3
    assert m.average_precision([0.9, 0.8, 0.7], [True, False, True]) == pytest.approx(5 / 6)
    assert math.isnan(m.average_precision([1, 2], [False, False]))


def test_rank_metrics_agree_with_scikit_learn() -> None:
    sk = pytest.importorskip("sklearn.metrics")
    assert m.auroc(SCORE, POSITIVE) == pytest.approx(sk.roc_auc_score(POSITIVE, SCORE))
    assert m.average_precision(SCORE, POSITIVE) == pytest.approx(sk.average_precision_score(POSITIVE, SCORE))


def test_binary_report_by_hand() -> None:
    # >= 0.5 says yes to 0.9, 0.5, 0.6: tp 2 (0.9, 0.5), fp 1 (0.6), fn 1 (0.1), tn 1 (0.2)
    report = m.binary_report([0.9, 0.5, 0.6, 0.1, 0.2], [1, 1, 0, 1, 0], 0.5)
    assert report == m.BinaryReport(3 / 5, 2 / 3, 2 / 3, 4 / 6, 1 / 2, 5, 3 / 5)


def test_binary_report_names_what_it_cannot_know() -> None:
    report = m.binary_report([0.1, 0.2], [False, False], 0.5)
    assert report.accuracy == 1.0 and report.fpr == 0.0 and report.prevalence == 0.0
    assert all(math.isnan(x) for x in (report.precision, report.recall, report.f1))
    assert math.isnan(m.binary_report([], [], 0.5).accuracy)


def test_binary_report_agrees_with_scikit_learn() -> None:
    sk = pytest.importorskip("sklearn.metrics")
    report, said = m.binary_report(SCORE, POSITIVE, 0.5), SCORE >= 0.5
    assert report.f1 == pytest.approx(sk.f1_score(POSITIVE, said))
    assert report.precision == pytest.approx(sk.precision_score(POSITIVE, said))
    assert report.recall == pytest.approx(sk.recall_score(POSITIVE, said))


def test_severity_metrics_by_hand() -> None:
    # true 0 1 2 / pred 0 2 2. F1: level 0 = 1, level 1 = 0, level 2 = 2/(2+1) -> mean 5/9
    assert m.macro_f1([0, 2, 2], [0, 1, 2], 4) == pytest.approx(5 / 9)
    # observed weight: one error of 1. chance, /3: true 1,1,1 x pred 1,0,2 -> (0+2*4 + 1+2*1 + 4+0) / 3 = 5
    assert m.quadratic_weighted_kappa([0, 2, 2], [0, 1, 2], 4) == pytest.approx(1 - 1 / 5)
    assert m.mae([0, 2, 2], [0, 1, 2]) == pytest.approx(1 / 3)
    assert math.isnan(m.quadratic_weighted_kappa([1, 1], [1, 1], 4))


def test_severity_metrics_agree_with_scikit_learn() -> None:
    sk = pytest.importorskip("sklearn.metrics")
    assert m.macro_f1(PRED, TRUE, 4) == pytest.approx(sk.f1_score(TRUE, PRED, average="macro"))
    kappa = sk.cohen_kappa_score(PRED, TRUE, weights="quadratic")
    assert m.quadratic_weighted_kappa(PRED, TRUE, 4) == pytest.approx(kappa)
    assert m.confusion(PRED, TRUE, 4).tolist() == sk.confusion_matrix(TRUE, PRED).tolist()


def test_ece_by_hand() -> None:
    # two bins of two: mean prob 0.15 against 0 positives, 0.85 against 1/2 -> (0.15 + 0.35) / 2
    assert m.ece([0.1, 0.2, 0.8, 0.9], [0, 0, 1, 0], bins=2) == pytest.approx(0.25)
    assert m.reliability([0.1, 0.2, 0.8, 0.9], [0, 0, 1, 0], bins=2).size.tolist() == [2, 2]
    # one value everywhere is one bin: 0.5 against a share of 1/2, whatever the order
    assert m.ece([0.5] * 4, [1, 1, 0, 0]) == 0.0 == m.ece([0.5] * 4, [0, 1, 0, 1])
    assert math.isnan(m.ece([], []))


def test_equal_mass_bins_are_equal() -> None:
    assert m.reliability(np.linspace(0, 1, 150), np.zeros(150)).size.tolist() == [10] * 15


def test_wilson_by_hand() -> None:
    # z = 1.96, k = 5, n = 10: centre (0.5 + 0.19207) / 1.38415 = 0.5; half = 1.416 * sqrt(0.025 + 0.0096037) = 0.2634
    interval = m.wilson_interval(5, 10)
    assert interval.mean == 0.5 and interval.n == 10
    assert (interval.low, interval.high) == pytest.approx((0.23659, 0.76341), abs=1e-5)
    assert m.wilson_interval(0, 10).low == 0.0 and m.wilson_interval(10, 10).high == 1.0
    assert math.isnan(m.wilson_interval(0, 0).mean)


def test_violation_rate_counts_the_boundary_and_leaves_the_unjudged_out() -> None:
    rate = m.violation_rate([-1.0, 0.0, 2.0, float("nan")])
    assert rate.mean == pytest.approx(2 / 3) and rate.n == 3


def test_bootstrap_mean_is_seeded_and_near_the_normal_interval() -> None:
    values = np.random.default_rng(0).normal(3.0, 1.0, 400)
    first = m.bootstrap_mean(values, seed=1)
    assert first == m.bootstrap_mean(values, seed=1) != m.bootstrap_mean(values, seed=2)
    half = 1.96 * values.std(ddof=1) / 20
    assert (first.low, first.high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.02)


def test_bootstrap_leaves_nan_out_and_says_so() -> None:
    assert m.bootstrap_mean([1.0, float("nan"), 1.0], seed=0) == m.Interval(1.0, 1.0, 1.0, 2)
    assert m.bootstrap_mean([float("nan")], seed=0).n == 0


def test_paired_difference_is_after_minus_before_and_keeps_pairs_together() -> None:
    # every prompt moves by exactly -2, so the paired interval has no width though the values are far apart
    before = np.array([0.0, 100.0, -50.0])
    assert m.paired_difference(before, before - 2, seed=0) == m.Interval(-2.0, -2.0, -2.0, 3)
    assert m.paired_difference([1.0, float("nan")], [2.0, 3.0], seed=0).n == 1


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: m.auroc([1.0], [True, False]), "one length"),
        (lambda: m.auroc([1.0, float("nan")], [True, False]), "1 of 2 scores are NaN"),
        (lambda: m.ece([1.5], [True]), "0..1"),
        (lambda: m.macro_f1([4], [0], 4), "0..3"),
        (lambda: m.macro_f1([1, 2], [0], 4), "one length"),
        (lambda: m.mae([1, 2], [0]), "one length"),
        (lambda: m.paired_difference([1.0], [1.0, 2.0], 0), "same prompts"),
        (lambda: m.wilson_interval(3, 2), "0..2"),
    ],
)
def test_refusals_name_the_value(call: object, words: str) -> None:
    assert callable(call)
    with pytest.raises(ValueError, match=words):
        call()


PAIRS = st.lists(st.tuples(st.integers(-5, 5), st.booleans()), min_size=1, max_size=30)


@given(PAIRS)
@settings(max_examples=60, deadline=None)
def test_auroc_flips_with_the_sign_and_ignores_monotone_maps(pairs: list[tuple[int, bool]]) -> None:
    score, positive = np.array([s for s, _ in pairs], dtype=float), [p for _, p in pairs]
    forward = m.auroc(score, positive)
    if math.isnan(forward):
        return
    assert forward + m.auroc(-score, positive) == pytest.approx(1.0)
    assert forward == pytest.approx(m.auroc(np.exp(score), positive))


@given(st.integers(0, 50), st.integers(1, 50))
@settings(max_examples=60, deadline=None)
def test_wilson_contains_the_share(k: int, extra: int) -> None:
    interval = m.wilson_interval(k, k + extra)
    assert 0 <= interval.low <= interval.mean <= interval.high <= 1


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=40), st.integers(1, 20))
@settings(max_examples=60, deadline=None)
def test_ece_is_a_share_and_ignores_order(rows: list[tuple[float, bool]], bins: int) -> None:
    prob, positive = [r[0] for r in rows], [r[1] for r in rows]
    error = m.ece(prob, positive, bins)
    assert 0 <= error <= 1
    assert error == pytest.approx(m.ece(prob[::-1], positive[::-1], bins))
