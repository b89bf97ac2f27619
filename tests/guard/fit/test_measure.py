"""Tables of small and one-sided sets: what cannot be told is None, and a baseline knows what it may know."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from poise.guard.fit.measure import severity_table, tfidf_scores
from poise.guard.fit.rows import Row

NAN = math.nan
NO, UNKNOWN = (0.0,) * 19, (NAN,) * 19


def graded(level: int, categories: tuple[float, ...] = NO, prompt: str = "p") -> Row:
    at_least = (float(level >= 1), float(level >= 2), float(level >= 3))
    return Row(prompt, None, "s", "train", categories, at_least, NAN)


def test_what_one_level_alone_does_not_tell_is_none() -> None:
    """Weighted kappa is 0 / 0 where all is one level; JSON has no NaN."""
    rows = [graded(2)] * 5
    found = severity_table(rows, rows, np.full(5, 2))
    assert found is not None and found["guard"]["kappa"] is None and found["guard"]["mae"] == 0
    json.dumps(found, allow_nan=False)


def test_the_category_prior_knows_that_harm_without_a_name_is_harm() -> None:
    """9 safe rows, 5 severe of no named category, 1 moderate of S1. S2 was never seen: the commonest harm is severe."""
    first, second = ((1.0, *NO[1:]), (0.0, 1.0, *NO[2:]))
    train = [graded(0)] * 9 + [graded(3, UNKNOWN)] * 5 + [graded(2, first)]
    test = [graded(0), graded(3, UNKNOWN), graded(2, first), graded(3, second)]
    found = severity_table(test, train, np.zeros(4, dtype=np.int64))
    assert found is not None
    assert found["category prior"]["mae"] == 0 and found["category prior"]["severe_called_none"] == 0


def test_rows_that_share_no_word_teach_no_tfidf() -> None:
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    few = [graded(1, prompt="knife"), graded(0, prompt="bread")]
    assert tfidf_scores(few, few) is None
    assert tfidf_scores([*few, *few], few) is not None
