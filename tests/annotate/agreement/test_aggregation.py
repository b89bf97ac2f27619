"""Aggregation against other libraries, known raters and the paper's data; Bradley-Terry against logistic regression."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poise.annotate.aggregation import METHODS, Consensus, bradley_terry, dawid_skene, mace, majority, one_coin
from poise.annotate.aggregation.labels import joint_labels
from poise.annotate.agreement import RaterName, Ratings, ratings_of
from poise.annotate.agreement.patterns import distinct
from poise.errors import PoiseError

ANAESTHETISTS = (
    "111.1.1.1.1 333.4.3.3.4 112.2.1.2.2 222.3.1.2.1 222.3.2.2.2 222.3.3.2.2 122.2.1.1.1 333.3.4.3.3 222.2.2.2.3 "
    "232.2.2.2.3 444.4.4.4.4 222.3.3.4.3 111.1.1.1.1 222.3.2.1.2 121.1.1.1.1 111.2.1.1.1 111.1.1.1.1 111.1.1.1.1 "
    "222.2.2.2.1 222.1.3.2.2 222.2.2.2.2 222.2.2.2.1 222.3.2.2.2 221.2.2.2.2 111.1.1.1.1 111.1.1.1.1 232.2.2.2.2 "
    "111.1.1.1.1 111.1.1.1.1 112.1.1.2.1 111.1.1.1.1 333.3.2.3.3 111.1.1.1.1 222.2.2.2.2 222.3.2.3.2 433.4.3.4.3 "
    "221.2.2.3.2 232.3.2.3.3 333.3.4.3.2 111.1.1.1.1 111.1.1.1.1 121.2.1.1.1 232.2.2.2.2 121.1.1.1.1 222.2.2.2.2"
)
"""Dawid and Skene 1979, table 1: 45 patients by five observers, the first of whom judged each three times."""
WINS = np.array([[0, 14, 17, 18, 23], [8, 0, 9, 16, 19], [0, 6, 0, 9, 20], [0, 5, 11, 0, 16], [2, 2, 2, 3, 0]])


def anaesthetists() -> Ratings:
    """The published table."""
    return ratings_of(
        (patient, observer, int(grade))
        for patient, word in enumerate(ANAESTHETISTS.split())
        for observer, grades in enumerate(word.split("."))
        for grade in grades
    )


def raters(confusion: np.ndarray, items: int, seed: int = 0) -> tuple[Ratings, np.ndarray]:
    """Every rater on every item, with these errors [R, K, K]; also the truth."""
    rng = np.random.default_rng(seed)
    count, size = confusion.shape[:2]
    truth = rng.choice(size, items, p=np.arange(size, 0, -1) / sum(range(size + 1)))
    item, rater = np.repeat(np.arange(items), count), np.tile(np.arange(count), items)
    value = (rng.random(items * count)[:, None] > confusion.cumsum(2)[rater, truth[item]]).sum(1)
    names = tuple(RaterName(str(i), "person") for i in range(count))
    return Ratings(item, rater, value.clip(0, size - 1), items, names, tuple(range(size))), truth


def log_likelihood(ratings: Ratings, prior: np.ndarray, confusion: np.ndarray) -> float:
    """Per item, the plain way: products of probabilities, no logarithms and no patterns."""
    joint = np.tile(prior, (ratings.items, 1))
    for i, r, v in zip(ratings.item, ratings.rater, ratings.value, strict=True):
        joint[i] *= confusion[r, :, v]
    return float(np.log(joint.sum(1)).mean())


def test_dawid_skene_on_the_papers_data() -> None:
    # The paper estimates p = (.40, .42, .11, .07).
    ratings = anaesthetists()
    found = dawid_skene(ratings, smoothing=0.0, tolerance=1e-9, iterations=2000)
    assert found.prior.round(2).tolist() == [0.4, 0.42, 0.11, 0.07]
    assert found.converged
    assert found.objective == pytest.approx(log_likelihood(ratings, found.prior, found.confusion))
    counts = np.zeros((5, 4, 4))
    for i, r, v in zip(ratings.item, ratings.rater, ratings.value, strict=True):
        counts[r, :, v] += found.posterior[i]
    assert found.confusion == pytest.approx(counts / counts.sum(2, keepdims=True), abs=1e-3)  # equation 2.3
    assert found.prior == pytest.approx(found.posterior.mean(0), abs=1e-3)  # equation 2.4


def test_dawid_skene_equals_crowd_kit(made_up: Ratings) -> None:
    # crowd-kit 1.4.2, DawidSkene(n_iter=2000, tol=1e-12) on the same data
    found = dawid_skene(made_up, smoothing=0.0, tolerance=1e-12, iterations=5000)
    prior = [0.3296016835549267, 0.2894829959096939, 0.14011298963862262, 0.24080233089675682]
    first = [
        [0.55464, 0.11189, 0.33347, 0.0],
        [0.07873, 0.92127, 0.0, 0.0],
        [0.21814, 0.19345, 0.58841, 0.0],
        [0.0, 0.0, 0.17315, 0.82685],
    ]
    assert found.prior == pytest.approx(prior, abs=1e-6)
    assert found.confusion[0] == pytest.approx(np.array(first), abs=1e-5)


def test_one_coin_is_at_the_top_of_its_likelihood(made_up: Ratings) -> None:
    # crowd-kit 1.4.2 stops at skills (.7931, .7787, .8858, .6898, .5343), whose likelihood is a little lower.
    found = one_coin(made_up, smoothing=0.0, tolerance=1e-14, iterations=5000)

    def at(skills: np.ndarray, prior: np.ndarray) -> float:
        tables = np.where(np.eye(4, dtype=bool), skills[:, None, None], (1.0 - skills)[:, None, None] / 3.0)
        return log_likelihood(made_up, prior, tables)

    best = at(found.quality, found.prior)
    assert best == pytest.approx(found.objective)
    for rater in range(5):
        for step in (-0.02, 0.02):
            assert at(found.quality + step * (np.arange(5) == rater), found.prior) < best
    theirs = np.array([0.7930774923123228, 0.778661888846765, 0.8857618909484098, 0.6897559767655753, 0.53434678])
    assert found.quality == pytest.approx(theirs, abs=0.01)


def test_mace_ranks_and_chooses_as_crowd_kit(made_up: Ratings) -> None:
    # crowd-kit 1.4.2, MACE(method="em", n_restarts=10): competence (.668, .858, .584, .406, .734) is of another local
    # optimum with its own smoothing; its choices are these.
    theirs = "31113002011202332310211212000003330312001130231120311212300"
    choice = mace(made_up).choice()
    assert (choice == np.array([int(c) for c in theirs])).mean() > 0.9


CONFUSION = np.array(
    [
        [[0.9, 0.07, 0.03], [0.1, 0.8, 0.1], [0.05, 0.15, 0.8]],
        [[0.7, 0.2, 0.1], [0.3, 0.6, 0.1], [0.1, 0.3, 0.6]],
        [[0.95, 0.03, 0.02], [0.35, 0.6, 0.05], [0.05, 0.05, 0.9]],
        [[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8]],
    ]
)


def test_dawid_skene_finds_the_errors_of_known_raters() -> None:
    ratings, truth = raters(CONFUSION, 60_000)
    found = dawid_skene(ratings)
    assert np.abs(found.confusion - CONFUSION).max() < 0.02
    assert found.prior == pytest.approx(np.array([3, 2, 1]) / 6, abs=0.02)
    right = [float((method(ratings).choice() == truth).mean()) for method in (majority, dawid_skene)]
    assert right[1] > right[0] + 0.01
    assert found.quality == pytest.approx([float((ratings.by([r]).value == truth).mean()) for r in range(4)], abs=0.01)


def test_one_coin_finds_the_skill_of_known_raters() -> None:
    skills = np.array([0.95, 0.8, 0.6, 0.7])
    tables = np.where(np.eye(3, dtype=bool), skills[:, None, None], (1 - skills)[:, None, None] / 2)
    ratings, _ = raters(tables, 20_000)
    assert one_coin(ratings).quality == pytest.approx(skills, abs=0.01)


def test_mace_finds_the_spammer() -> None:
    knows, guess = np.array([0.9, 0.7, 0.0, 0.8]), np.array([[1, 1, 1], [1, 1, 1], [1, 0, 0], [2, 1, 1]]) / 1.0
    guess = guess / guess.sum(1, keepdims=True)
    tables = knows[:, None, None] * np.eye(3) + (1 - knows)[:, None, None] * guess[:, None, :]
    rng = np.random.default_rng(1)
    truth = rng.integers(0, 3, 20_000)
    item, rater = np.repeat(np.arange(20_000), 4), np.tile(np.arange(4), 20_000)
    value = (rng.random(80_000)[:, None] > tables.cumsum(2)[rater, truth[item]]).sum(1).clip(0, 2)
    names = tuple(RaterName(str(i), "person") for i in range(4))
    found = mace(Ratings(item, rater, value, 20_000, names, (0, 1, 2)))
    assert found.quality == pytest.approx(knows, abs=0.03)
    assert (found.choice() == truth).mean() > 0.9


@pytest.mark.parametrize("method", METHODS.values(), ids=list(METHODS))
def test_what_all_methods_share(method: Callable[[Ratings], Consensus], made_up: Ratings) -> None:
    found = method(made_up)
    assert found.posterior.sum(1) == pytest.approx(np.ones(59))
    assert found.confusion.sum(2) == pytest.approx(np.ones((5, 4)))
    assert ((found.quality >= 0) & (found.quality <= 1)).all()
    agreed = ratings_of([(i, r, v) for i, v in enumerate("aabbc") for r in range(3)])
    assert method(agreed).choice().tolist() == [0, 0, 1, 1, 2]
    one_value = ratings_of([(i, r, "a") for i in range(3) for r in range(2)])
    assert method(one_value).choice().tolist() == [0, 0, 0]


@pytest.mark.parametrize("method", [dawid_skene, one_coin, mace])
def test_the_objective_never_falls(method: Callable[..., Consensus], made_up: Ratings) -> None:
    climb = [method(made_up, tolerance=-math.inf, iterations=n).objective for n in (2, 3, 5, 8, 20, 60)]
    assert all(later >= earlier - 1e-12 for earlier, later in pairwise(climb))


def test_ties_and_silence_stay_undecided() -> None:
    ratings = ratings_of([(0, "x", "a"), (0, "y", "b"), (1, "x", "a"), (1, "y", "a")])
    assert majority(ratings).choice().tolist() == [-1, 0]
    assert majority(ratings).choice(1.0).tolist() == [-1, 0]
    silent = ratings.keep(ratings.item == 1)
    for method in METHODS.values():
        found = method(silent)
        assert found.choice().tolist() == [-1, 0]
        assert np.isnan(found.posterior[0]).all()
    with pytest.raises(PoiseError, match="no judgement"):
        dawid_skene(ratings.keep(ratings.item == 7))


probabilities = st.floats(0, 1, allow_nan=False)


@settings(max_examples=200, deadline=None)
@given(
    st.one_of(probabilities, st.just(math.nan)),
    st.one_of(st.lists(st.floats(0.01, 1), min_size=4, max_size=4), st.none()),
    st.one_of(st.lists(probabilities, min_size=19, max_size=19), st.none()),
    st.floats(0.5, 1),
)
def test_a_joint_label_never_contradicts_itself(
    unsafe: float, severity: list[float] | None, categories: list[float] | None, threshold: float
) -> None:
    level = np.full((1, 4), np.nan) if severity is None else np.array([severity]) / sum(severity)
    flags = np.full((1, 19), np.nan) if categories is None else np.array([categories])
    found = joint_labels(pa.array(["x"]), np.array([unsafe]), level, flags, threshold)
    state, named = int(found.safe[0]), bool(found.flags[0].any())
    if state == 1:
        assert (found.severity[0], named, found.known[0]) == (0, False, True)
        assert 1 - unsafe >= threshold
    elif state == 0:
        assert found.severity[0] in ((-1,) if severity is None else (1, 2, 3))
        assert named == found.known[0] == (categories is not None)
        assert unsafe >= threshold
    else:
        assert (found.severity[0], named, found.known[0]) == (-1, False, False)
        assert not max(unsafe, 1 - unsafe) >= threshold or max(unsafe, 1 - unsafe) <= 0.5 + 1e-8


def test_the_level_of_a_joint_label_is_the_median_of_harm() -> None:
    # Of 0.6 harm, 0.25 is minor and 0.35 is moderate or worse: moderate; none of it is severe.
    severity = np.array([[0.4, 0.25, 0.35, 0.0], [0.1, 0.2, 0.2, 0.5], [0.5, 0.3, 0.1, 0.1]])
    found = joint_labels(pa.array(list("abc")), np.full(3, 0.9), severity, np.full((3, 19), 0.1), 0.5)
    assert found.severity.tolist() == [2, 3, 1]
    assert found.flags.sum(1).tolist() == [1, 1, 1]


def comparisons(wins: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Winner, loser and score of a table of wins."""
    first, second = np.nonzero(wins)
    many = wins[first, second]
    return np.repeat(first, many), np.repeat(second, many), np.ones(many.sum())


def test_bradley_terry_equals_logistic_regression() -> None:
    # scikit-learn 1.9.1, LogisticRegression without penalty on differences of players
    found = bradley_terry(*comparisons(WINS), ridge=0.0)
    assert found.strength == pytest.approx([1.8001259, 0.73582481, -0.25867903, -0.3792026, -1.89806908], abs=1e-6)
    chance = 1 / (1 + np.exp(found.strength[None] - found.strength[:, None]))
    assert ((WINS + WINS.T) * chance).sum(1) == pytest.approx(WINS.sum(1))  # expected wins are the wins
    assert found.strength.sum() == pytest.approx(0)


def test_bradley_terry_by_hand() -> None:
    # Two players, 3 wins to 1: log 3 apart; variance of the difference 1/3 + 1/1, a quarter of it for each.
    found = bradley_terry([0, 0, 0, 1], [1, 1, 1, 0], [1, 1, 1, 1], ridge=0.0)
    assert found.strength == pytest.approx([math.log(3) / 2, -math.log(3) / 2])
    assert found.error == pytest.approx([math.sqrt(4 / 3) / 2] * 2)
    spread = found.covariance
    assert spread[0, 0] + spread[1, 1] - 2 * spread[0, 1] == pytest.approx(4 / 3)
    tied = bradley_terry([0, 1], [1, 0], [0.5, 0.5])
    assert tied.strength == pytest.approx([0, 0])


def test_bradley_terry_needs_comparisons_that_connect() -> None:
    with pytest.raises(PoiseError, match="2 groups"):
        bradley_terry([0, 2], [1, 3], [1, 1])
    apart = bradley_terry([0, 2], [1, 3], [1, 0], by_component=True)
    assert apart.component.tolist() == [0, 0, 1, 1]
    assert apart.strength[0] == pytest.approx(apart.strength[3]) == pytest.approx(-apart.strength[1])
    with pytest.raises(PoiseError, match="never lost"):
        bradley_terry([0, 0], [1, 1], [1, 1], ridge=0.0)
    assert np.isfinite(bradley_terry([0, 0], [1, 1], [1, 1]).strength).all()
    for bad in (([0], [0], [1]), ([0], [1], [2]), ([], [], []), ([0], [1, 2], [1])):
        with pytest.raises(PoiseError):
            bradley_terry(*bad)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=30), st.sampled_from([1, 1 << 30]))
def test_distinct_is_numpys_unique(keys: list[int], scale: int) -> None:
    array = np.array(keys, np.int64) * scale
    _, *theirs = np.unique(array, return_index=True, return_inverse=True, return_counts=True)
    for ours, their in zip(distinct(array), theirs, strict=True):
        assert ours.tolist() == their.tolist()


def test_patterns_by_bits_and_by_hashes_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    ratings, _ = raters(CONFUSION, 500)
    bits = dawid_skene(ratings)
    monkeypatch.setattr("poise.annotate.aggregation.em._FEW_CELLS", 0)
    hashes = dawid_skene(ratings)
    assert bits.posterior == pytest.approx(hashes.posterior, abs=1e-9)
