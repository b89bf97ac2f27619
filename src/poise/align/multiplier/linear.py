"""Projected gradient ascent on lambda itself: the textbook dual step, whose speed does not depend on lambda."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from poise.align.multiplier.window import CostWindow


class LinearMultiplier:
    """lambda <- clip(lambda + lr (mean(window) - threshold), 0, maximum).

    The dual step of constrained RL (for example Chow et al., arXiv 1512.01629). Unlike `LogMultiplier`
    it can start at 0, reach 0, and leave it again.

    Args:
        threshold: the constraint is mean cost <= threshold.
        initial: lambda at the start, >= 0.
        lr: step per unit of cost.
        maximum: upper bound of lambda, or None.
        window: number of recent sequence costs averaged.
        delay: rollouts before the first update.

    Raises:
        ValueError: `initial` or `maximum` negative, or a window without room.
    """

    def __init__(
        self,
        threshold: float = 0.0,
        initial: float = 0.0,
        lr: float = 0.1,
        maximum: float | None = None,
        window: int = 128,
        delay: int = 0,
    ) -> None:
        if initial < 0 or (maximum is not None and maximum < 0):
            raise ValueError(f"multiplier starts at {initial} with maximum {maximum}; neither may be negative")
        self.threshold, self.lr = threshold, lr
        self._maximum = float("inf") if maximum is None else maximum
        self._value = min(initial, self._maximum)
        self._window = CostWindow(window, delay)

    @property
    def value(self) -> float:
        """lambda >= 0."""
        return self._value

    @property
    def measured_cost(self) -> float:
        """Mean of the window; NaN before the first update."""
        return self._window.mean

    def update(self, costs: Sequence[float]) -> float:
        """One step from the costs of one rollout; returns the new lambda.

        Raises:
            ValueError: no cost, or one that is not finite.
        """
        if self._window.push(costs):
            step = self.lr * (self.measured_cost - self.threshold)
            self._value = min(max(self._value + step, 0.0), self._maximum)
        return self._value

    def state_dict(self) -> dict[str, Any]:
        """lambda, the window and the rollout count."""
        return {"value": self._value, **self._window.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore `state_dict`."""
        self._value = float(state["value"])
        self._window.load_state_dict(state)
