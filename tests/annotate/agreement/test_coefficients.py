"""Coefficients against published values, other libraries, hand computation, and what must hold of any of them."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score

from poise.annotate.agreement import (
    Estimate,
    Ratings,
    alpha,
    alpha_sets,
    cohen_kappa,
    confusion,
    fleiss_kappa,
    gwet_ac,
    percent,
    ratings_of,
)
from poise.annotate.agreement.distances import masi
from poise.errors import PoiseError

COEFFICIENTS: list[Callable[..., Estimate]] = [alpha, gwet_ac, fleiss_kappa, percent]


@pytest.mark.parametrize(("distance", "value"), [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)])
def test_krippendorffs_example(published: Ratings, distance: str, value: float) -> None:
    # Krippendorff (2011): 40 pairable values on 11 units; the twelfth has one value and does not count.
    found = alpha(published, distance)
    assert round(found.value, 3) == value
    assert (found.items, found.values) == (11, 40)
    assert found.low < found.value <= found.high


def test_gwets_example(published: Ratings) -> None:
    # Gwet's handbook takes the same table: p_a .818, AC1 .775, Fleiss' generalised kappa .761.
    values = [measure(published, replicates=0).value for measure in (percent, gwet_ac, fleiss_kappa)]
    assert [round(value, 3) for value in values] == [0.818, 0.775, 0.761]


# krippendorff 0.9.0 on the same data
@pytest.mark.parametrize(
    ("distance", "value"),
    [("nominal", 0.4449233073964761), ("ordinal", 0.4299104974753639), ("interval", 0.44790619441651836)],
)
def test_alpha_equals_the_krippendorff_package(made_up: Ratings, distance: str, value: float) -> None:
    assert alpha(made_up, distance, replicates=0).value == pytest.approx(value, abs=1e-12)


# irrCAC 0.4.4 on the same data, rounded to 12 places there
@pytest.mark.parametrize(
    ("weights", "gwet", "fleiss", "agreed"),
    [
        ("identity", 0.47435585512, 0.470698761657, 0.605084745763),
        ("linear", 0.470514597481, 0.470905368413, 0.777777777778),
        ("quadratic", 0.474660819542, 0.479141399923, 0.852102950408),
        ("ordinal", 0.473284420118, 0.476421605288, 0.83352165725),
    ],
)
def test_ac_and_fleiss_equal_irrcac(made_up: Ratings, weights: str, gwet: float, fleiss: float, agreed: float) -> None:
    found = [measure(made_up, weights, replicates=0).value for measure in (gwet_ac, fleiss_kappa, percent)]
    assert found == pytest.approx([gwet, fleiss, agreed], abs=1e-11)


# nltk 3.10.4, AnnotationTask.alpha with these distances (its own masi_distance rounds 2/3 to .67), on items with two
# answers or more
@pytest.mark.parametrize(("distance", "value"), [("masi", 0.15463298859629293), ("jaccard", 0.1728305586937522)])
def test_alpha_of_sets_equals_nltk(made_up_sets: Ratings, distance: str, value: float) -> None:
    assert alpha_sets(made_up_sets, distance, replicates=0).value == pytest.approx(value, abs=1e-12)


def test_masi_by_hand() -> None:
    # equal; {a} in {a,b}: 1 - 1/2 * 2/3; {a,b} and {b,c}: 1 - 1/3 * 1/3; disjoint; nothing and {a}; nothing and nothing
    a, b = np.array([3, 1, 3, 1, 0, 0]), np.array([3, 3, 6, 2, 1, 0])
    assert masi(a, b) == pytest.approx([0.0, 2 / 3, 8 / 9, 1.0, 1.0, 0.0])


@pytest.mark.parametrize(("weights", "theirs"), [("identity", None), ("linear", "linear"), ("quadratic", "quadratic")])
@pytest.mark.parametrize("pair", [(0, 1), (2, 4), (3, 0)])
def test_cohens_kappa_equals_sklearn(made_up: Ratings, weights: str, theirs: str | None, pair: tuple[int, int]) -> None:
    given = [dict(zip(own.item.tolist(), own.value.tolist(), strict=True)) for own in (made_up.by([r]) for r in pair)]
    both = sorted(set(given[0]) & set(given[1]))
    first, second = ([side[item] for item in both] for side in given)
    expected = cohen_kappa_score(first, second, labels=range(4), weights=theirs)
    found = cohen_kappa(made_up, *pair, weights)
    assert found.value == pytest.approx(expected, abs=1e-12)
    assert found.items == len(both) == confusion(made_up, *pair).sum()
    assert found.low <= found.value <= found.high


def test_alpha_by_hand() -> None:
    # Three units (a,a), (a,b), (b,b): o_ab = o_ba = 1, n_a = n_b = 3, n = 6: 1 - 5 * 2 / (2 * 9) = 4/9.
    ratings = ratings_of([(0, "x", "a"), (0, "y", "a"), (1, "x", "a"), (1, "y", "b"), (2, "x", "b"), (2, "y", "b")])
    assert alpha(ratings, replicates=0).value == pytest.approx(4 / 9)
    # p_a 2/3, pi 1/2 each: AC1 p_e = 1 * (1/4 + 1/4) = 1/2, so (2/3 - 1/2) / (1/2)
    assert gwet_ac(ratings, replicates=0).value == pytest.approx(1 / 3)


def test_what_does_not_vary_is_undefined() -> None:
    same = ratings_of([(i, r, "no") for i in range(5) for r in range(3)], values=("no", "yes"))
    for measure in (alpha, fleiss_kappa):
        found = measure(same)
        assert math.isnan(found.value)
        assert found.reason == "no variation: all values are the same"
    assert math.isnan(cohen_kappa(same, 0, 1).value)
    assert math.isnan(alpha_sets(ratings_of([(i, r, 3) for i in range(5) for r in range(3)], scale="set")).value)
    told = gwet_ac(same)  # p_e = 0, so it is defined, but says why it is 1
    assert (told.value, told.reason) == (1.0, "no variation: all values are the same")
    alone = ratings_of([(i, i % 2, i % 2) for i in range(6)])
    for measure in COEFFICIENTS:
        assert (math.isnan(measure(alone).value), measure(alone).reason) == (True, "no item has two values")
    assert alpha_sets(alone).reason == "no item has two values"
    assert alpha(alone).to_json()["value"] is None


def test_a_value_unknown_or_a_distance_unknown_is_an_error(published: Ratings) -> None:
    with pytest.raises(PoiseError, match="value 'c'"):
        ratings_of([(0, 0, "c")], values=("a", "b"))
    with pytest.raises(PoiseError, match="distance 'euclid'"):
        alpha(published, "euclid")
    with pytest.raises(PoiseError, match="no numbers"):
        alpha(ratings_of([(0, 0, "a"), (0, 1, "b")]), "interval")
    with pytest.raises(PoiseError, match="weights 'cubic'"):
        gwet_ac(published, "cubic")  # type: ignore[arg-type]


def test_the_bootstrap_is_that_of_items() -> None:
    # Against a bootstrap done the long way, item by item, on 80 items by three raters.
    rng = np.random.default_rng(3)
    truth = rng.integers(0, 3, 80)
    rows = [(i, r, int(truth[i] if rng.random() < 0.7 else rng.integers(0, 3))) for i in range(80) for r in range(3)]
    found = alpha(ratings_of(rows), replicates=2000)
    values = []
    for _ in range(300):
        drawn = rng.integers(0, 80, 80)
        again = [(new, r, rows[3 * old + r][2]) for new, old in enumerate(drawn) for r in range(3)]
        values.append(alpha(ratings_of(again), replicates=0).value)
    low, high = np.quantile(values, [0.025, 0.975])
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.03)
    assert alpha(ratings_of(rows), replicates=2000) == found
    assert alpha(ratings_of(rows), replicates=2000, seed=1) != found


def test_raters_who_guess_agree_as_by_chance() -> None:
    rng = np.random.default_rng(0)
    rows = [(i, r, int(rng.integers(0, 4))) for i in range(4000) for r in range(3)]
    ratings = ratings_of(rows)
    for measure in (alpha, gwet_ac, fleiss_kappa):
        assert abs(measure(ratings, replicates=0).value) < 0.02
    assert abs(alpha_sets(ratings, replicates=0).value) < 0.02


tables = st.lists(st.lists(st.sampled_from([None, 0, 1, 2]), min_size=3, max_size=3), min_size=2, max_size=8)


def _values(cells: list[list[int | None]], names: tuple[int, ...] = (0, 1, 2)) -> list[float]:
    rows = [(i, r, None if v is None else names[v]) for i, row in enumerate(cells) for r, v in enumerate(row)]
    ratings = ratings_of(rows, values=sorted(names))
    masks = ratings.recoded(np.arange(3), [1, 2, 4], "set")
    found = [measure(ratings, replicates=0).value for measure in COEFFICIENTS]
    return [*found, alpha_sets(masks, replicates=0).value]


@settings(max_examples=60, deadline=None)
@given(tables)
def test_the_order_of_raters_items_and_names_changes_nothing(cells: list[list[int | None]]) -> None:
    before = _values(cells)
    shuffled = [row[::-1] for row in cells[::-1]]
    assert _values(shuffled) == pytest.approx(before, nan_ok=True, abs=1e-12)
    assert _values(cells, (2, 0, 1)) == pytest.approx(before, nan_ok=True, abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 2), min_size=2, max_size=10).filter(lambda row: len(set(row)) > 1))
def test_perfect_agreement_is_one(row: list[int]) -> None:
    assert _values([[v, v, v] for v in row]) == pytest.approx([1.0] * 5)
    ordinal = ratings_of([(i, r, v) for i, v in enumerate(row) for r in range(2)])
    assert alpha(ordinal, "ordinal", replicates=0).value == pytest.approx(1.0)
    assert cohen_kappa(ordinal, 0, 1, "quadratic", replicates=0).value == pytest.approx(1.0)


@settings(max_examples=60, deadline=None)
@given(tables)
def test_no_coefficient_exceeds_one(cells: list[list[int | None]]) -> None:
    assert all(math.isnan(value) or value <= 1.0 + 1e-12 for value in _values(cells))
