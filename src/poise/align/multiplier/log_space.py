"""The published rule (Safe RLHF, Dai et al., arXiv 2310.12773, section 3.3, eq. 12 in logarithms).

ln lambda <- ln lambda + eta lambda (J_C - d), an SGD step on ln lambda, with ln lambda bounded above. It is updated
once per rollout from a window of recent sequence costs, so its speed does not depend on the batch shape, and it is
state: `state_dict` holds all that a resumed run needs. The step is proportional to lambda: fast when lambda is large,
almost still when it is small.
"""

from __future__ import annotations

import math

from poise.align.multiplier.window import Windowed

_LARGEST = 50.0  # ln lambda without a maximum: keeps exp() finite


class LogMultiplier(Windowed):
    """ln lambda <- min(ln lambda + lr lambda (mean(window) - threshold), ln maximum).

    Args:
        threshold: d; the constraint is mean cost <= d. The paper's d has the other sign: see `threshold_from_paper`.
        initial: lambda at the start, > 0.
        lr: eta.
        maximum: upper bound of lambda, or None.
        window: number of recent sequence costs averaged.
        delay: rollouts before the first update.

    Raises:
        ValueError: `initial` or `maximum` not positive, or a window without room.
    """

    def __init__(
        self,
        threshold: float = 0.0,
        initial: float = 1.0,
        lr: float = 0.1,
        maximum: float | None = 5.0,
        window: int = 128,
        delay: int = 0,
    ) -> None:
        if initial <= 0 or (maximum is not None and maximum <= 0):
            raise ValueError(f"multiplier starts at {initial} with maximum {maximum}; both must be positive")
        self.threshold, self.lr = threshold, lr
        self._log_maximum = _LARGEST if maximum is None else math.log(maximum)
        super().__init__(min(math.log(initial), self._log_maximum), window, delay)

    @property
    def value(self) -> float:
        """lambda > 0; what is kept and moved is ln lambda."""
        return math.exp(self._state)

    def _moved(self, measured: float) -> float:
        return min(self._state + self.lr * self.value * (measured - self.threshold), self._log_maximum)


def bounded_budget(threshold: float = -0.5, initial: float = 10.0, maximum: float = 20.0) -> LogMultiplier:
    """The multiplier of Safe RLHF-V (Ji et al., arXiv 2503.17682) with its published constants.

    It starts high and may not pass `maximum`, so that a stubborn cost can't push the reward out of the gradient:
    the reward keeps at least 1 / (1 + maximum) of the weight. One rollout passes before it moves. What the paper calls
    the budget bound is known from its code alone, as this upper clamp; the code's second clamp, of the step's loss to
    +-1e6, can't bind while lambda <= 20 and costs are scores, and is left out.

    Args:
        threshold: mean cost allowed; -0.5 is the code's, in our sign.
    """
    return LogMultiplier(threshold=threshold, initial=initial, lr=0.1, maximum=maximum, window=128, delay=1)
