"""A weight that never moves: the reward-shaping baseline."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from poise.align.multiplier.window import CostWindow


class FixedMultiplier:
    """lambda = nu. Costs are measured over the same window as elsewhere, so that runs can be compared.

    Args:
        value: nu >= 0; the paper's grid is .01, .5, 1, 2, 5, 10, 100.
        window: number of recent sequence costs averaged.

    Raises:
        ValueError: a negative weight.
    """

    def __init__(self, value: float, window: int = 128) -> None:
        if value < 0:
            raise ValueError(f"the weight of the cost is {value}; it may not be negative")
        self._value = value
        self._window = CostWindow(window)

    @property
    def value(self) -> float:
        """nu."""
        return self._value

    @property
    def measured_cost(self) -> float:
        """Mean of the window; NaN before the first update."""
        return self._window.mean

    def update(self, costs: Sequence[float]) -> float:
        """Measure the costs of one rollout; returns nu.

        Raises:
            ValueError: no cost, or one that is not finite.
        """
        self._window.push(costs)
        return self._value

    def state_dict(self) -> dict[str, Any]:
        """The window and the rollout count."""
        return self._window.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore `state_dict`."""
        self._window.load_state_dict(state)
