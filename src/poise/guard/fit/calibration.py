"""Probabilities that mean what they say, and thresholds for a stated false positive rate.

Each head is calibrated by a scale and a shift of its logits (Platt 1999; with one scale it is temperature scaling, Guo
et al. 2017), or by a monotone map (pool adjacent violators; centred as in Oron and Flournoy 2017, so that texts keep
their order), fitted on rows kept out of training. The three severity thresholds share one scale, so their order is
kept. A head with too few examples of either kind keeps its logits, or the map that it had before. A threshold is the
smallest probability above which at most the stated share of the rows without the harm lies. Applying the maps is
`poise.guard.calibration`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn.functional import softplus

from poise.guard.calibration import Calibration, Floats, Isotonic, Platt, SeverityMap, mapped_by, sigmoid
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
    before: Calibration | None = None,
) -> Calibration:
    """Fit the maps on rows that were not trained on; categories with too few examples keep theirs, or share one.

    Args:
        logits: categories (N, 19), at_least (N, 3), refusal (N,), not calibrated.
        targets: what is known of the N rows.
        methods: of each of `HEADS`; those not named are "platt".
        before: the maps that heads with too few examples keep; None for a guard that has none yet.
    """
    chosen, kept = methods or {}, before or Calibration.none()
    found, at_least, refused = (torch.as_tensor(np.asarray(part, dtype=np.float32)) for part in logits)
    rare = torch.tensor([not _enough(column) for column in targets.categories.T])
    shared = _head(found[:, rare].reshape(-1), targets.categories[:, rare].reshape(-1), "platt", (1.0, 0.0))
    few = kept.categories if before else (shared,) * len(CATEGORIES)
    maps = [
        _head(found[:, k], targets.categories[:, k], chosen.get(category.code, "platt"), few[k])
        for k, category in enumerate(CATEGORIES)
    ]
    severity = _severity(at_least, targets.at_least, chosen.get("severity", "platt"), kept)
    refusal = _head(refused, targets.refusal, chosen.get("refusal", "platt"), kept.refusal)
    return Calibration(tuple(maps), severity, refusal)


def _head(logits: Tensor, target: Tensor, method: Method, otherwise: Platt | Isotonic) -> Platt | Isotonic:
    if not _enough(target):
        return otherwise
    if method == "isotonic":
        return isotonic(logits.numpy(), target.numpy())
    scale, shifts = _fit(logits[:, None], target[:, None])
    return scale, shifts[0]


def _severity(logits: Tensor, target: Tensor, method: Method, before: Calibration) -> SeverityMap:
    """A threshold that too few rows know is moved, from where it was, as the one below it, so they don't cross."""
    known = [_enough(column) for column in target.T]
    if not known[0]:
        return before.severity
    if method == "isotonic" and all(known):
        first, second, third = (isotonic(logits[:, j].numpy(), target[:, j].numpy()) for j in range(3))
        return first, second, third
    old = Calibration.none().severity_maps if all(known) else before.severity_maps
    mapped = np.stack([mapped_by(how, logits[:, j].numpy()) for j, how in enumerate(old)], axis=1)
    scale, shifts = _fit(torch.from_numpy(mapped), target)
    middle = shifts[1] if known[1] else shifts[0]
    moves = (shifts[0], middle, shifts[2] if known[2] else middle)
    if isinstance(old[0], Isotonic):
        bent = [
            Isotonic(how.x, tuple(scale * y + move for y in how.y))
            for how, move in zip(old, moves, strict=True)
            if isinstance(how, Isotonic)
        ]
        return bent[0], bent[1], bent[2]
    moved = [scale * float(how[1]) + move for how, move in zip(old, moves, strict=True)]  # type: ignore[arg-type]
    return scale * float(old[0][0]), (moved[0], moved[1], moved[2])


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
    """One positive scale and a shift for each column, by L-BFGS on the mean loss over known entries.

    Targets are Platt's: 1 is (n1 + 1) / (n1 + 2) and 0 is 1 / (n0 + 2) in a column of n1 ones and n0 zeros, and shares
    lie between, so that a few rows which the logits part wholly make nothing certain. A shift that is far from 0 costs
    a trace of one row's loss, whatever the number of rows: the mean probability stays that of the targets.
    """
    known = ~target.isnan()
    ones = target.nan_to_num().sum(0)
    low, high = 1 / (known.sum(0) - ones + 2), (ones + 1) / (ones + 2)
    told = low + (high - low) * target
    raw = torch.tensor(float(np.log(np.e - 1)), requires_grad=True)  # softplus of it is 1
    shift = torch.zeros(logits.shape[1], requires_grad=True)
    optimizer = torch.optim.LBFGS([raw, shift], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = (binary(logits * softplus(raw) + shift, told).sum() + 1e-3 * (shift**2).sum()) / known.sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return float(softplus(raw).detach()), shift.detach().tolist()


def decided(target: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Where a target says yes (above 0.5) or no: not NaN, and raters are not split. Any shape, and the same back."""
    found: NDArray[np.bool_] = ~np.isnan(target) & (target != 0.5)
    return found


def enough(target: NDArray[np.floating]) -> bool:
    """Whether `LEAST` rows or more say yes, and as many no. Args: target, shape (N,), see `decided`."""
    return bool(min((target > 0.5).sum(), (target < 0.5).sum()) >= LEAST)


def threshold_at(score: NDArray[np.floating], positive: NDArray[np.bool_], rate: float) -> float | None:
    """The smallest threshold t for which at most `rate` of the negatives have score >= t; None without negatives."""
    negatives = np.sort(score[~positive])
    if not len(negatives):
        return None
    allowed = int(np.floor(rate * len(negatives)))
    return float(np.nextafter(negatives[len(negatives) - 1 - allowed], np.inf))


def thresholds(
    probability: Sequence[NDArray[np.floating]],
    target: Sequence[NDArray[np.floating]],
    rate: float,
    otherwise: Sequence[float] | None = None,
) -> list[float]:
    """One threshold for each head.

    Args:
        probability, target: of each head, shape (N,); targets of NaN, and of 0.5 (raters are split), are left out.
        otherwise: of each head, where there are too few rows to tell; 0.5 by default.
    """
    found = []
    for score, told, kept in zip(probability, target, otherwise or [0.5] * len(target), strict=True):
        known = decided(told)
        at = threshold_at(score[known], told[known] > 0.5, rate) or 0.5
        found.append(at if enough(told) else kept)
    return found


def level_cuts(
    at_least: NDArray[np.floating], target: NDArray[np.floating], otherwise: tuple[float, float] = (0.5, 0.5)
) -> tuple[float, float]:
    """P(severity >= 2) and P(severity >= 3) from which an unsafe text is called moderate, and severe.

    Cut so that on unsafe rows each level is called as often as it is true: calling a level only when it is likelier
    than not would never call the rare ones.

    Args:
        at_least: calibrated probabilities of severity >= 1, 2, 3, shape (N, 3).
        target: what is known of them, shape (N, 3), NaN where nothing is.
        otherwise: where too few rows are known, or all of them are on one side.
    """
    cuts = []
    for column, kept in zip((1, 2), otherwise, strict=True):
        known = (target[:, 0] > 0.5) & ~np.isnan(target[:, column])
        share = float(target[known, column].mean()) if known.sum() >= LEAST else 0.0
        cuts.append(float(np.quantile(at_least[known, column], 1 - share)) if 0.0 < share < 1.0 else kept)
    return cuts[0], cuts[1]
