"""From logits to probabilities that mean what they say: the maps that were fitted, applied; and the verdict's numbers.

Needs no model library; fitting is `poise.guard.fit.calibration`. A head has a scale and a shift (Platt 1999), or a
monotone map through a few points (isotonic). All maps are increasing, so a head keeps its order of texts, and the three
severity thresholds are put in order again after their maps, so P(severity >= 1) >= P(>= 2) >= P(>= 3) always holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from poise.guard.windows import Logits
from poise.harm import CATEGORIES

Floats = NDArray[np.float64]
Platt = tuple[float, float]
"""(scale, shift) of a logit."""


class Isotonic(NamedTuple):
    """A map through points, straight between them and level beyond.

    Args:
        x: logits, increasing; y: log-odds there, non-decreasing, the same length.
    """

    x: tuple[float, ...]
    y: tuple[float, ...]


SeverityMap = tuple[float, tuple[float, float, float]] | tuple[Isotonic, Isotonic, Isotonic]
"""One scale and a shift of each threshold, or a monotone map of each."""


class Calibration(NamedTuple):
    """The maps of all heads.

    Args:
        categories: of each of the 19; severity: of the three thresholds; refusal: of the one.
    """

    categories: tuple[Platt | Isotonic, ...]
    severity: SeverityMap
    refusal: Platt | Isotonic

    @classmethod
    def none(cls) -> Calibration:
        """Logits as they are."""
        return cls(((1.0, 0.0),) * len(CATEGORIES), (1.0, (0.0, 0.0, 0.0)), (1.0, 0.0))

    def apply(self, logits: tuple[ArrayLike, ArrayLike, ArrayLike]) -> Logits:
        """Calibrated logits of the same shapes; thresholds stay in order.

        Args:
            logits: categories, at_least, refusal, as `Logits`; tensors on the CPU will do.
        """
        categories, at_least, refusal = (np.asarray(part, dtype=np.float32) for part in logits)
        mapped = [mapped_by(how, categories[:, k]) for k, how in enumerate(self.categories)]
        cuts = [mapped_by(how, at_least[:, j]) for j, how in enumerate(self.severity_maps)]
        ordered = np.minimum.accumulate(np.stack(cuts, axis=1), axis=1)
        return Logits(np.stack(mapped, axis=1), ordered, mapped_by(self.refusal, refusal))

    @property
    def severity_maps(self) -> Sequence[Platt | Isotonic]:
        """One map for each of the three thresholds."""
        first = self.severity[0]
        if isinstance(first, Isotonic):
            return self.severity  # type: ignore[return-value]
        return [(first, shift) for shift in self.severity[1]]  # type: ignore[misc]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        first = self.severity[0]
        severity = [_told(cut) for cut in self.severity_maps] if isinstance(first, Isotonic) else self.severity
        return {
            "categories": [_told(how) for how in self.categories],
            "severity": severity,
            "refusal": _told(self.refusal),
        }

    @classmethod
    def from_json(cls, told: dict[str, Any]) -> Calibration:
        """What `to_json` gave.

        Raises:
            KeyError, TypeError, ValueError: it is something else.
        """
        severity = told["severity"]
        if isinstance(severity[0], dict):
            first, second, third = (_isotonic(part) for part in severity)
            read: SeverityMap = (first, second, third)
        else:
            scale, (one, two, three) = severity
            read = (float(scale), (float(one), float(two), float(three)))
        return cls(tuple(_read(part) for part in told["categories"]), read, _read(told["refusal"]))


def mapped_by(how: Platt | Isotonic, logit: NDArray[np.float32]) -> NDArray[np.float32]:
    """Calibrated logits of one head, shape (N,)."""
    if isinstance(how, Isotonic):
        found = np.interp(logit, how.x, how.y)
        return np.where(np.isfinite(logit), found, np.nan).astype(np.float32)
    return (logit * np.float32(how[0]) + np.float32(how[1])).astype(np.float32)


class Probabilities(NamedTuple):
    """Calibrated probabilities of N texts.

    Args:
        unsafe: P(severity >= 1), shape (N,).
        severity: P(severity = 0..3), shape (N, 4).
        categories: shape (N, 19).
        refusal: shape (N,).
    """

    unsafe: Floats
    severity: Floats
    categories: Floats
    refusal: Floats

    @property
    def at_least(self) -> Floats:
        """P(severity >= 1, 2, 3), shape (N, 3)."""
        return 1.0 - np.cumsum(self.severity, axis=1)[:, :3]


def levels_of(at_least: Floats, cuts: tuple[float, float], unsafe: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Severity 0..3 of each row, at least minor where it is unsafe.

    Args:
        at_least: P(severity >= 1, 2, 3), shape (N, 3).
        cuts: P(severity >= 2) and P(severity >= 3) from which a row is moderate, and severe.
        unsafe: shape (N,).
    """
    moderate = at_least[:, 1] >= cuts[0]
    severe = at_least[:, 2] >= cuts[1]
    return np.where(unsafe, np.where(severe, 3, np.where(moderate, 2, 1)), 0).astype(np.int64)


def probabilities(logits: Logits) -> Probabilities:
    """Of calibrated logits."""
    at_least = sigmoid(logits.at_least)
    bounds = np.concatenate([np.ones_like(at_least[:, :1]), at_least, np.zeros_like(at_least[:, :1])], axis=1)
    return Probabilities(at_least[:, 0], -np.diff(bounds, axis=1), sigmoid(logits.categories), sigmoid(logits.refusal))


def sigmoid(logit: ArrayLike) -> Floats:
    """1 / (1 + exp(-logit)) without overflow."""
    x = np.asarray(logit, dtype=np.float64)
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1.0, small) / (1.0 + small)


def _told(how: Platt | Isotonic) -> Any:
    return {"x": list(how.x), "y": list(how.y)} if isinstance(how, Isotonic) else list(how)


def _read(told: Any) -> Platt | Isotonic:
    return _isotonic(told) if isinstance(told, dict) else (float(told[0]), float(told[1]))


def _isotonic(told: dict[str, Any]) -> Isotonic:
    x, y = (tuple(map(float, told[name])) for name in "xy")
    if len(x) != len(y) or not x or (np.diff(x) <= 0).any() or (np.diff(y) < 0).any():
        raise ValueError("an isotonic map has increasing points")
    return Isotonic(x, y)
