"""Probabilities that mean what they say, and thresholds for a stated false positive rate.

Each head is calibrated by a scale and a shift of its logits (Platt 1999; with one scale it is temperature scaling, Guo
et al. 2017), fitted on rows kept out of training. The three severity thresholds share one scale, so their order is
kept. A head with too few examples of either kind keeps its logits. A threshold is the smallest probability above which
at most the stated share of the rows without the harm lies.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import softplus

from poise.guard.fit.loss import GuardTargets, binary
from poise.guard.fit.model import GuardLogits
from poise.harm import CATEGORIES

LEAST = 20
"""Examples of each kind that a head needs."""


class Calibration(NamedTuple):
    """Scales and shifts of the logits.

    Args:
        categories: (scale, shift) of each of the 19.
        severity: (scale, shift of each of the three thresholds).
        refusal: (scale, shift).
    """

    categories: tuple[tuple[float, float], ...]
    severity: tuple[float, tuple[float, float, float]]
    refusal: tuple[float, float]

    @classmethod
    def none(cls) -> Calibration:
        """Logits as they are."""
        return cls(((1.0, 0.0),) * len(CATEGORIES), (1.0, (0.0, 0.0, 0.0)), (1.0, 0.0))

    def apply(self, logits: GuardLogits) -> GuardLogits:
        """Calibrated logits of the same shapes; thresholds stay in order."""
        scale, shift = torch.tensor(self.categories).T
        severity, cuts = self.severity[0], torch.tensor(self.severity[1])
        at_least = torch.cummin(logits.at_least * severity + cuts, dim=1).values
        refusal = logits.refusal * self.refusal[0] + self.refusal[1]
        return GuardLogits(logits.categories * scale + shift, at_least, refusal)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"categories": self.categories, "severity": self.severity, "refusal": self.refusal}

    @classmethod
    def from_json(cls, told: dict[str, Any]) -> Calibration:
        """What `to_json` gave."""
        scale, cuts = told["severity"]
        return cls(
            tuple((float(a), float(b)) for a, b in told["categories"]),
            (float(scale), (float(cuts[0]), float(cuts[1]), float(cuts[2]))),
            (float(told["refusal"][0]), float(told["refusal"][1])),
        )


def calibrate(logits: GuardLogits, targets: GuardTargets) -> Calibration:
    """Fit scales and shifts on rows that were not trained on."""
    severity = (1.0, (0.0, 0.0, 0.0))
    if _enough(targets.at_least[:, 0]):
        scale, shifts = _fit(logits.at_least, targets.at_least)
        known = [_enough(column) for column in targets.at_least.T]
        moved = [shift if fine else shifts[0] for shift, fine in zip(shifts, known, strict=True)]
        severity = (scale, (moved[0], moved[1], moved[2]))
    categories = []
    for k in range(len(CATEGORIES)):
        fitted = (1.0, 0.0)
        if _enough(targets.categories[:, k]):
            scale, shifts = _fit(logits.categories[:, k : k + 1], targets.categories[:, k : k + 1])
            fitted = (scale, shifts[0])
        categories.append(fitted)
    refusal = (1.0, 0.0)
    if _enough(targets.refusal):
        scale, shifts = _fit(logits.refusal[:, None], targets.refusal[:, None])
        refusal = (scale, shifts[0])
    return Calibration(tuple(categories), severity, refusal)


def _enough(target: Tensor) -> bool:
    return int((target > 0.5).sum()) >= LEAST and int((target < 0.5).sum()) >= LEAST


def _fit(logits: Tensor, target: Tensor) -> tuple[float, list[float]]:
    """One positive scale and a shift for each column, by L-BFGS on the mean loss over known entries."""
    raw = torch.tensor(float(np.log(np.e - 1)), requires_grad=True)  # softplus of it is 1
    shift = torch.zeros(logits.shape[1], requires_grad=True)
    optimizer = torch.optim.LBFGS([raw, shift], max_iter=100, line_search_fn="strong_wolfe")
    known = (~target.isnan()).sum()

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = binary(logits * softplus(raw) + shift, target).sum() / known + 1e-3 * (shift**2).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return float(softplus(raw).detach()), shift.detach().tolist()


def threshold_at(score: NDArray[np.floating], positive: NDArray[np.bool_], rate: float) -> float | None:
    """The smallest threshold t for which at most `rate` of the negatives have score >= t; None without negatives."""
    negatives = np.sort(score[~positive])
    if not len(negatives):
        return None
    allowed = int(np.floor(rate * len(negatives)))
    return float(np.nextafter(negatives[len(negatives) - 1 - allowed], np.inf))


def thresholds(
    probability: Sequence[NDArray[np.floating]], target: Sequence[NDArray[np.floating]], rate: float
) -> list[float]:
    """One threshold for each head, 0.5 where there are too few rows to tell.

    Args:
        probability, target: of each head, shape (N,); NaN targets are left out.
    """
    found = []
    for score, told in zip(probability, target, strict=True):
        known = ~np.isnan(told)
        positive = told[known] > 0.5
        enough = positive.sum() >= LEAST and (~positive).sum() >= LEAST
        found.append((threshold_at(score[known], positive, rate) or 0.5) if enough else 0.5)
    return found


def level_cuts(at_least: NDArray[np.floating], target: NDArray[np.floating]) -> tuple[float, float]:
    """P(severity >= 2) and P(severity >= 3) from which an unsafe text is called moderate, and severe.

    Cut so that on unsafe rows each level is called as often as it is true: calling a level only when it is likelier
    than not would never call the rare ones. 0.5 where too few rows are known.

    Args:
        at_least: calibrated probabilities of severity >= 1, 2, 3, shape (N, 3).
        target: what is known of them, shape (N, 3), NaN where nothing is.
    """
    cuts = []
    for column in (1, 2):
        known = (target[:, 0] > 0.5) & ~np.isnan(target[:, column])
        share = float(target[known, column].mean()) if known.sum() >= LEAST else 0.0
        cuts.append(float(np.quantile(at_least[known, column], 1 - share)) if 0.0 < share < 1.0 else 0.5)
    return cuts[0], cuts[1]


def levels_of(
    at_least: NDArray[np.floating], cuts: tuple[float, float], unsafe: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """Severity 0..3 of each row, at least minor where it is unsafe.

    Args:
        at_least: shape (N, 3); unsafe: shape (N,).
    """
    moderate = at_least[:, 1] >= cuts[0]
    severe = at_least[:, 2] >= cuts[1]
    return np.where(unsafe, np.where(severe, 3, np.where(moderate, 2, 1)), 0).astype(np.int64)
