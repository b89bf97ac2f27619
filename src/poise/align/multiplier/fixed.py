"""A weight that never moves: the reward-shaping baseline."""

from __future__ import annotations

from poise.align.multiplier.window import Windowed


class FixedMultiplier(Windowed):
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
        super().__init__(value, window)

    def _moved(self, measured: float) -> float:
        return self.value
