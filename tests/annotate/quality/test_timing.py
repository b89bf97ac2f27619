"""Which answers are called too fast."""

from __future__ import annotations

import numpy as np
import pytest

from poise.annotate.quality.timing import too_fast


def test_z_by_hand() -> None:
    # one word each; log2 seconds 1..11: median 6, |x - 6| has median 3, so z of the first = .6745 * -5 / 3
    seconds = 2.0 ** np.arange(1, 12)
    found = too_fast(seconds, np.ones(11), ["a"] * 11)
    assert found.z[0] == pytest.approx(0.6745 * -5 / 3)
    assert found.z[5] == 0
    assert not found.by_pace.any()


def test_a_fast_reader_is_compared_with_themselves() -> None:
    rng = np.random.default_rng(1)
    words = rng.integers(50, 400, 80)
    pace = np.where(np.arange(80) < 40, 0.15, 0.5) * np.exp(rng.normal(0, 0.15, 80))  # 400 and 120 words a minute
    pace[60] = 0.15  # the slow one once at the pace of the fast one
    rater = np.repeat(["fast", "slow"], 40)
    found = too_fast(pace * words, words, rater)
    assert np.flatnonzero(found.by_pace).tolist() == [60]
    assert not found.by_floor.any()


def test_the_floor_finds_a_rater_who_is_always_too_fast() -> None:
    seconds = np.full(30, 2.0)
    found = too_fast(seconds, np.full(30, 100), ["a"] * 30)  # 3000 words a minute
    assert found.by_floor.all()
    assert np.isnan(found.z).all()  # MAD 0
    assert not too_fast(seconds, np.full(30, 20), ["a"] * 30).by_floor.any()  # 600 exactly
    assert not too_fast(seconds, np.full(30, 100), ["a"] * 30, fastest_wpm=3001).by_floor.any()


def test_what_is_not_known_is_not_flagged() -> None:
    found = too_fast([np.nan, 0.0, 30.0], [100, 100, 100], [1, 1, 1])
    assert found.by_floor.tolist() == [False, True, False]
    assert np.isnan(found.z).all()  # three answers tell no pace
    assert too_fast([], [], []).z.shape == (0,)


def test_slow_answers_are_not_flagged() -> None:
    seconds = np.append(20 + np.arange(20.0), 3600)
    found = too_fast(seconds, np.full(21, 50), ["a"] * 21)
    assert found.z[-1] > 3.5
    assert not (found.by_pace | found.by_floor).any()


def test_wrong_input_is_refused() -> None:
    with pytest.raises(ValueError, match="one length"):
        too_fast([1.0], [1, 2], ["a"])
    with pytest.raises(ValueError, match="negative"):
        too_fast([-1.0], [1], ["a"])
    with pytest.raises(ValueError, match="above 0"):
        too_fast([1.0], [1], ["a"], cut=0)
