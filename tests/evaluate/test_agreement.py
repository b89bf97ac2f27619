"""Agreement: published and hand-worked values, and the table over a judgement log."""

from __future__ import annotations

import math

import numpy as np
import pytest

from poise.data.rows import Judgement
from poise.evaluate.agreement import RaterAgreement, cohen_kappa, krippendorff_alpha, rater_table

N = float("nan")
# Krippendorff (2011), section C: four observers, twelve units, missing data
OBSERVERS = [
    [1, 2, 3, 3, 2, 1, 4, 1, 2, N, N, N],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, N, 3],
    [N, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, N],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, N],
]


def judge(item: str, question: str, value: object, rater: str) -> Judgement:
    return Judgement.model_validate({"item": item, "question": question, "value": value, "rater": rater})


def test_cohen_kappa_by_hand() -> None:
    # agree on 3 of 4; chance 1/2 * 3/4 + 1/2 * 1/4 = 1/2 -> (3/4 - 1/2) / (1/2)
    assert cohen_kappa([1, 1, 0, 0], [1, 1, 1, 0]) == pytest.approx(0.5)
    assert cohen_kappa([0, 1], [1, 0]) == pytest.approx(-1.0)
    assert math.isnan(cohen_kappa([1, 1], [1, 1])) and math.isnan(cohen_kappa([], []))
    with pytest.raises(ValueError, match="one length"):
        cohen_kappa([1], [1, 2])


def test_cohen_kappa_agrees_with_scikit_learn() -> None:
    sk = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(3)
    a, b = rng.integers(0, 4, 100), rng.integers(0, 4, 100)
    assert cohen_kappa(a, b) == pytest.approx(sk.cohen_kappa_score(a, b))


def test_krippendorff_alpha_is_the_published_value() -> None:
    assert krippendorff_alpha(OBSERVERS, "nominal") == pytest.approx(0.743, abs=5e-4)
    assert krippendorff_alpha(OBSERVERS, "ordinal") == pytest.approx(0.815, abs=5e-4)


def test_krippendorff_alpha_edges() -> None:
    # two raters, values (0,0) (1,1) (0,1): off-diagonal coincidences 2 of 6; expected 2*3*3/5 -> 1 - 2 / 3.6
    assert krippendorff_alpha([[0, 1, 0], [0, 1, 1]]) == pytest.approx(1 - 2 / 3.6)
    assert krippendorff_alpha([[0, 1, 2], [0, 1, 2]], "ordinal") == 1.0
    assert math.isnan(krippendorff_alpha([[1, 1], [1, 1]])) and math.isnan(krippendorff_alpha([[1, N], [N, 2]]))
    with pytest.raises(ValueError, match="raters x items"):
        krippendorff_alpha([1.0, 2.0])


def test_rater_table_compares_labels_twice_and_safe_with_labels() -> None:
    mild, bad = {"categories": ["S6"], "severity": 1}, {"categories": ["S6"], "severity": 3}
    fine = {"categories": [], "severity": 0}
    rows = rater_table(
        [
            judge("q1", "label", mild, "ann"),
            judge("q2", "label", fine, "ann"),
            judge("q1", "label", bad, "bob"),
            judge("q2", "label", fine, "bob"),
            judge("q1", "safe", True, "rule"),
            judge("q2", "safe", None, "rule"),  # unjudged: not compared, not safe
            judge("p1", "safer", 0, "ann"),
            judge("p1", "safer", 1, "bob"),
            judge("p1", "safer", 0, "bob"),  # changed his mind: the later row counts
            judge("p1", "better", 1, "ann"),  # nobody to compare with
        ]
    )
    assert [row[:5] for row in rows] == [
        ("safe", "ann", "bob", 2, 1.0),
        ("safe", "ann", "rule", 1, 0.0),
        ("safe", "bob", "rule", 1, 0.0),
        ("severity", "ann", "bob", 2, 0.5),
        ("safer", "ann", "bob", 1, 1.0),
    ]
    # severity: observed 1/2; chance: only 0 is shared, 1/2 * 1/2 -> (1/2 - 1/4) / (3/4)
    assert isinstance(rows[3], RaterAgreement) and rows[3].kappa == pytest.approx(1 / 3)


def test_rater_table_names_a_broken_label() -> None:
    with pytest.raises(ValueError, match="safe means"):
        rater_table([judge("q1", "label", {"categories": [], "severity": 2}, "ann")])
    assert rater_table([]) == []
