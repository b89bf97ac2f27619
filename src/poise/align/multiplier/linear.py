"""Projected gradient ascent on lambda itself: the textbook dual step, whose speed does not depend on lambda."""

from __future__ import annotations

from poise.align.multiplier.window import Windowed


class LinearMultiplier(Windowed):
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
        super().__init__(min(initial, self._maximum), window, delay)

    def _moved(self, measured: float) -> float:
        return min(max(self.value + self.lr * (measured - self.threshold), 0.0), self._maximum)
