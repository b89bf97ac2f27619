"""PID control of lambda (Stooke, Achiam, Abbeel, arXiv 2007.03964, algorithm 2).

Gradient ascent on lambda is the integral term alone: it answers late and overshoots. The proportional term answers to
what is measured now; the derivative term answers to a cost that rises, and never to one that falls.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from poise.align.multiplier.window import Windowed


class PIDMultiplier(Windowed):
    """D = J - d;  I <- (I + D)^+;  lambda = (K_P D + K_I I + K_D (J - J_before)^+)^+, clipped to `maximum`.

    K_P = K_D = 0 is `LinearMultiplier` with lr K_I. The integral never grows past maximum / K_I, so that a multiplier
    at its maximum comes down at the first slack rollout.

    Args:
        threshold: d; the constraint is mean cost <= d.
        proportional, integral, derivative: K_P >= 0, K_I > 0, K_D >= 0.
        initial: lambda at the start, >= 0; I starts at initial / K_I.
        maximum: upper bound of lambda, or None.
        window: number of recent sequence costs averaged. A short one suits it: the proportional term smooths nothing.
        delay: rollouts before the first update.

    Raises:
        ValueError: a negative gain, start or maximum, K_I = 0, or a window without room.
    """

    def __init__(
        self,
        threshold: float = 0.0,
        proportional: float = 0.1,
        integral: float = 0.1,
        derivative: float = 0.1,
        initial: float = 0.0,
        maximum: float | None = None,
        window: int = 128,
        delay: int = 0,
    ) -> None:
        if min(proportional, derivative, initial, 0.0 if maximum is None else maximum) < 0 or integral <= 0:
            raise ValueError(
                f"gains {proportional}, {integral}, {derivative}, start {initial}, maximum {maximum}: "
                "none may be negative, and the integral gain is positive"
            )
        self.threshold = threshold
        self._gains = (proportional, integral, derivative)
        self._maximum = float("inf") if maximum is None else maximum
        super().__init__(min(initial, self._maximum), window, delay)
        self._sum = self.value / integral
        self._before: float | None = None

    def update(self, costs: Sequence[float]) -> float:
        """See `Windowed.update`; the delay keeps lambda, and not what was measured last."""
        moved = super().update(costs)
        self._before = self.measured_cost
        return moved

    def _moved(self, measured: float) -> float:
        proportional, integral, derivative = self._gains
        excess = measured - self.threshold
        self._sum = min(max(self._sum + excess, 0.0), self._maximum / integral)
        rise = 0.0 if self._before is None else max(measured - self._before, 0.0)
        return min(max(proportional * excess + integral * self._sum + derivative * rise, 0.0), self._maximum)

    def state_dict(self) -> dict[str, Any]:
        """lambda, the integral, the last J, the window and the rollout count."""
        return super().state_dict() | {"sum": self._sum, "before": self._before}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore `state_dict`."""
        super().load_state_dict(state)
        self._sum = float(state["sum"])
        self._before = None if state["before"] is None else float(state["before"])
