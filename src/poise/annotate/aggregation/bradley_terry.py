"""How strong each of several players is, from who was preferred to whom.

P(i beats j) = 1 / (1 + exp(-(s_i - s_j))). Source: Bradley and Terry, Rank Analysis of Incomplete Block Designs,
Biometrika 39 (1952); that the likelihood has a maximum only if every player can be reached from every other one by
wins: Hunter, MM Algorithms for Generalized Bradley-Terry Models, Annals of Statistics 32 (2004), assumption 1. A tie is
half a win for both. Newton's method on the strengths, as the likelihood is concave; the ridge is a Gaussian prior on
them, and with it a player without losses gets a finite strength.

Strengths compare only within a component of the graph of comparisons.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from poise.annotate.agreement.ratings import Floats, Ints
from poise.errors import PoiseError

RIDGE = 1e-3
_STEPS = 100
_TOLERANCE = 1e-10


class Strengths(NamedTuple):
    """Of P players, on the scale of log-odds.

    Args:
        strength: [P], mean 0 within a component.
        error: [P] standard errors of the centred strengths, from the inverse of the information.
        covariance: [P, P] of the strengths; the error of a difference is sqrt(c_ii + c_jj - 2 c_ij).
        component: [P] number of the component, 0 everywhere where all are connected.
        log_likelihood: without the prior.
        iterations: of Newton's method.
    """

    strength: Floats
    error: Floats
    covariance: Floats
    component: Ints
    log_likelihood: float
    iterations: int


def bradley_terry(
    first: npt.ArrayLike,
    second: npt.ArrayLike,
    score: npt.ArrayLike,
    players: int | None = None,
    *,
    ridge: float = RIDGE,
    by_component: bool = False,
) -> Strengths:
    """Fit strengths to N comparisons.

    Args:
        first, second: [N] players, 0..P-1, two different ones.
        score: [N] of the first: 1 preferred, 0 not, 0.5 a tie.
        players: P; default: the highest number + 1.
        ridge: of the prior ridge/2 * sum s^2; 0 for maximum likelihood.
        by_component: fit components that were never compared side by side instead of refusing them.

    Raises:
        PoiseError: no or bad comparisons, players that are not connected, or without a ridge a player (or a group) that
            never lost to the others or never won, whose strength has no bound.
    """
    a, b, won = _checked(first, second, score)
    size = int(max(a.max(), b.max())) + 1 if players is None else players
    if size <= max(a.max(), b.max()):
        raise PoiseError(f"player {max(a.max(), b.max())} of {size}", do="count players from 0")
    wins = np.zeros((size, size))
    np.add.at(wins, (a, b), won)
    np.add.at(wins, (b, a), 1.0 - won)
    played = wins + wins.T
    component = _components(played > 0)
    if component.max() > 0 and not by_component:
        raise PoiseError(
            f"the comparisons fall into {component.max() + 1} groups that were never compared with each other",
            do="compare across the groups, or fit each of them by itself",
        )
    if not ridge and not _strongly_connected(wins > 0, component):
        raise PoiseError("a player never lost or never won against the others", do="use a ridge, which bounds it")
    strength, done = np.zeros(size), 0
    for step in range(_STEPS):
        done = step + 1
        chance = 1.0 / (1.0 + np.exp(strength[None, :] - strength[:, None]))  # P(row beats column)
        gradient = (wins - played * chance).sum(1) - ridge * strength
        move = np.linalg.lstsq(_information(played * chance * (1.0 - chance), ridge), gradient, rcond=None)[0]
        move *= min(1.0, 2.0 / max(float(np.abs(move).max()), 1e-300))
        strength += move
        if np.abs(move).max() < _TOLERANCE:
            break
    strength, centre = _centred(strength, component)
    chance = 1.0 / (1.0 + np.exp(strength[None, :] - strength[:, None]))
    spread = centre @ np.linalg.pinv(_information(played * chance * (1.0 - chance), ridge), hermitian=True) @ centre.T
    likelihood = float((wins * np.log(chance)).sum())
    return Strengths(strength, np.sqrt(np.maximum(np.diag(spread), 0.0)), spread, component, likelihood, done)


def _checked(first: npt.ArrayLike, second: npt.ArrayLike, score: npt.ArrayLike) -> tuple[Ints, Ints, Floats]:
    a, b, won = np.asarray(first, np.int64), np.asarray(second, np.int64), np.asarray(score, float)
    if not len(a) or not a.shape == b.shape == won.shape:
        raise PoiseError("comparisons of three lengths, or none", do="give first, second and score for each")
    if (a == b).any() or a.min() < 0 or b.min() < 0:
        raise PoiseError("a player against itself, or below 0", do="number the players from 0")
    if not ((won >= 0) & (won <= 1)).all():
        raise PoiseError("a score outside 0..1", do="use 1 for preferred, 0 for not, 0.5 for a tie")
    return a, b, won


def _information(weights: Floats, ridge: float) -> Floats:
    """Minus the Hessian: the Laplacian of the weights, plus the ridge."""
    return np.diag(weights.sum(1) + ridge) - weights


def _centred(strength: Floats, component: Ints) -> tuple[Floats, Floats]:
    same = (component[:, None] == component[None, :]).astype(float)
    centre = np.eye(len(strength)) - same / same.sum(1, keepdims=True)
    return centre @ strength, centre


def _components(linked: npt.NDArray[np.bool_]) -> Ints:
    """The component of each player, numbered by their first players."""
    component = np.full(len(linked), -1, np.int64)
    for start in range(len(linked)):
        if component[start] < 0:
            component[_reached(linked, start)] = component.max() + 1
    return component


def _reached(linked: npt.NDArray[np.bool_], start: int) -> npt.NDArray[np.bool_]:
    reached = np.zeros(len(linked), bool)
    front = reached.copy()
    front[start] = True
    while front.any():
        reached |= front
        front = linked[front].any(0) & ~reached
    return reached


def _strongly_connected(beat: npt.NDArray[np.bool_], component: Ints) -> bool:
    starts = [int(np.flatnonzero(component == c)[0]) for c in range(int(component.max()) + 1)]
    return all(
        (_reached(way, start) == (component == component[start])).all() for start in starts for way in (beat, beat.T)
    )
