"""The penalty weight of RePO: it answers to prompts that violate, and other prompts' slack does not pay for them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from poise.align.multiplier.linear import LinearMultiplier


class RectifiedMultiplier(LinearMultiplier):
    """lambda <- min(lambda + lr mean over prompts of (J_C(x) - threshold)^+, maximum) (RePO, arXiv 2410.19933).

    The excess is never negative, so lambda never falls: it is the ascent on E[(J_C(x) - d)^+] = 0, a constraint that
    can be met but not over-fulfilled. Which responses feel lambda is the algorithm's part (`algorithms.repo`).
    `measured_cost` is the mean excess here.

    Args:
        threshold: d; the constraint is mean cost <= d for every prompt.
        initial: lambda at the start, >= 0.
        lr: step per unit of excess.
        maximum: upper bound of lambda.
        window: number of recent prompts averaged.
        delay: rollouts before the first update.

    Raises:
        ValueError: `initial` or `maximum` negative, or a window without room.
    """

    @property
    def measured_excess(self) -> float:
        """Mean of (J_C(x) - threshold)^+ over the window; NaN before the first update."""
        return self._window.mean

    def update(self, costs: Sequence[float]) -> float:
        """One step from the mean cost of each prompt of one rollout; returns the new lambda.

        Raises:
            ValueError: no cost, or one that is not finite.
        """
        if not all(math.isfinite(cost) for cost in costs):  # max() below would hide a NaN
            raise ValueError("a rollout needs at least one cost, and all of them finite")
        return super().update([max(cost - self.threshold, 0.0) for cost in costs])

    def _moved(self, measured: float) -> float:
        return min(self.value + self.lr * measured, self._maximum)
