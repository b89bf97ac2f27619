"""Probabilities that mean what they say, and thresholds for a stated false positive rate.

Each head is calibrated by a scale and a shift of its logits (Platt 1999; with one scale it is temperature scaling, Guo
et al. 2017), or by a monotone map (pool adjacent violators; centred as in Oron and Flournoy 2017, so that texts keep
their order), fitted on rows kept out of training. The three severity thresholds share one scale, so their order is
kept. A head with too few examples of either kind keeps its logits. A threshold is the smallest probability above which
at most the stated share of the rows without the harm lies. Applying the maps is `poise.guard.calibration`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn.functional import softplus

from poise.guard.calibration import Calibration, Floats, Isotonic, Platt, SeverityMap, sigmoid
from poise.guard.fit.loss import GuardTargets, binary
from poise.harm import CATEGORIES

LEAST = 20
"""Examples of each kind that a head needs."""
Method = Literal["platt", "isotonic"]
HEADS = (*(category.code for category in CATEGORIES), "severity", "refusal")
"""What is calibrated by itself: each of the 19, the three severity thresholds, refusal."""


def calibrate(
    logits: tuple[ArrayLike, ArrayLike, ArrayLike],
    targets: GuardTargets,
    methods: Mapping[str, Method] | None = None,
) -> Calibration:
    """Fit the maps on rows that were not trained on; categories with too few examples share one.

    Args:
        logits: categories (N, 19), at_least (N, 3), refusal (N,), not calibrated.
        targets: what is known of the N rows.
        methods: of each of `HEADS`; those not named are "platt".
    """
    chosen = methods or {}
    found, at_least, refused = (torch.as_tensor(np.asarray(part, dtype=np.float32)) for part in logits)
    rare = torch.tensor([not _enough(column) for column in targets.categories.T])
    shared = _head(found[:, rare].reshape(-1), targets.categories[:, rare].reshape(-1), "platt")
    maps = [
        shared if rare[k] else _head(found[:, k], targets.categories[:, k], chosen.get(category.code, "platt"))
        for k, category in enumerate(CATEGORIES)
    ]
    severity = _severity(at_least, targets.at_least, chosen.get("severity", "platt"))
    return Calibration(tuple(maps), severity, _head(refused, targets.refusal, chosen.get("refusal", "platt")))


def _head(logits: Tensor, target: Tensor, method: Method) -> Platt | Isotonic:
    if not _enough(target):
        return 1.0, 0.0
    if method == "isotonic":
        return isotonic(logits.numpy(), target.numpy())
    scale, shifts = _fit(logits[:, None], target[:, None])
    return scale, shifts[0]


def _severity(logits: Tensor, target: Tensor, method: Method) -> SeverityMap:
    """A threshold that too few rows know is moved as the first one is."""
    known = [_enough(column) for column in target.T]
    if not known[0]:
        return 1.0, (0.0, 0.0, 0.0)
    if method == "isotonic" and all(known):
        first, second, third = (isotonic(logits[:, j].numpy(), target[:, j].numpy()) for j in range(3))
        return first, second, third
    scale, shifts = _fit(logits, target)
    moved = [shift if fine else shifts[0] for shift, fine in zip(shifts, known, strict=True)]
    return scale, (moved[0], moved[1], moved[2])


def isotonic(logit: NDArray[np.floating], target: NDArray[np.floating]) -> Isotonic:
    """The monotone map with the least squared error, through the centres of its blocks.

    Log-odds are kept within those of 1 / (n + 2) and (n + 1) / (n + 2): no n rows make anything certain.

    Args:
        logit, target: shape (N,); NaN targets are left out; targets may be shares of raters.
    """
    known = ~np.isnan(target)
    x, y = logit[known].astype(np.float64), target[known].astype(np.float64)
    values, inverse = np.unique(x, return_inverse=True)
    weight = np.bincount(inverse).astype(np.float64)
    means, sizes = pool_adjacent(np.bincount(inverse, weights=y) / weight, weight)
    ends = np.cumsum(sizes)
    starts = ends - sizes
    mass = np.add.reduceat(weight, starts)
    centres = np.add.reduceat(values * weight, starts) / mass
    bound = 1.0 / (len(x) + 2)
    share = np.clip(means, bound, 1.0 - bound)
    return Isotonic(tuple(centres.tolist()), tuple(np.log(share / (1.0 - share)).tolist()))


def pool_adjacent(y: Floats, weight: Floats) -> tuple[Floats, NDArray[np.int64]]:
    """Means of the blocks of the non-decreasing fit to y with least weighted squared error, and how many y each has.

    Pool adjacent violators (Ayer et al. 1955), in one pass.
    """
    means: list[float] = []
    masses: list[float] = []
    sizes: list[int] = []
    for value, mass in zip(y.tolist(), weight.tolist(), strict=True):
        means.append(value)
        masses.append(mass)
        sizes.append(1)
        while len(means) > 1 and means[-2] >= means[-1]:
            both = masses[-2] + masses[-1]
            means[-2:] = [(means[-2] * masses[-2] + means[-1] * masses[-1]) / both]
            masses[-2:] = [both]
            sizes[-2:] = [sizes[-2] + sizes[-1]]
    return np.array(means), np.array(sizes, dtype=np.int64)


def head_logits(logits: tuple[ArrayLike, ArrayLike, ArrayLike], head: str) -> NDArray[np.float32]:
    """The columns of one of `HEADS`, shape (N, 1), or (N, 3) of severity; targets are taken apart the same way."""
    categories, at_least, refusal = (np.asarray(part, dtype=np.float32) for part in logits)
    if head == "severity":
        return at_least
    return refusal[:, None] if head == "refusal" else categories[:, HEADS.index(head)][:, None]


def log_loss(logits: NDArray[np.floating], target: NDArray[np.floating]) -> float:
    """Mean cross-entropy in nats over what is known; NaN where nothing is."""
    known = ~np.isnan(target)
    p = np.clip(sigmoid(logits[known]), 1e-9, 1 - 1e-9)
    y = target[known]
    return float(-(y * np.log(p) + (1 - y) * np.log1p(-p)).mean()) if known.any() else float("nan")


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
