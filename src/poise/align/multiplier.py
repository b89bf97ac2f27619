"""The Lagrange multiplier: rises while the mean cost is above the threshold, falls while it is below.

`LogMultiplier` is the published rule (Safe RLHF, section 3.3, eq. 12 in logarithms):
ln lambda <- ln lambda + eta lambda (J_C - d), an SGD step on ln lambda, with ln lambda bounded above. It is updated
once per rollout from a window of recent sequence costs, so its speed does not depend on the batch shape, and it is
state: `state_dict` holds all that a resumed run needs.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import Any, Protocol


class Multiplier(Protocol):
    """What turns measured costs into lambda >= 0."""

    @property
    def value(self) -> float:
        """lambda."""
        ...

    def update(self, costs: Sequence[float]) -> float:
        """Take the sequence costs of one rollout (higher is worse); returns the new lambda."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """JSON-able state."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore `state_dict`."""
        ...


_LARGEST = 50.0  # ln lambda without a maximum: keeps exp() finite


class LogMultiplier:
    """ln lambda <- min(ln lambda + lr lambda (mean(window) - threshold), ln maximum).

    Args:
        threshold: d; the constraint is mean cost <= d. The paper's d has the other sign: see `threshold_from_paper`.
        initial: lambda at the start, > 0.
        lr: eta.
        maximum: upper bound of lambda, or None.
        window: number of recent sequence costs averaged.
        delay: rollouts before the first update.

    Raises:
        ValueError: `initial` or `maximum` not positive.
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
        self.threshold, self.lr, self.delay = threshold, lr, delay
        self._log_maximum = _LARGEST if maximum is None else math.log(maximum)
        self._log = min(math.log(initial), self._log_maximum)
        self._costs: deque[float] = deque(maxlen=window)
        self._rollouts = 0

    @property
    def value(self) -> float:
        """lambda >= 0."""
        return math.exp(self._log)

    @property
    def measured_cost(self) -> float:
        """Mean of the window, the J_C of the last update; NaN before the first."""
        return sum(self._costs) / len(self._costs) if self._costs else math.nan

    def update(self, costs: Sequence[float]) -> float:
        """One step from the costs of one rollout; returns the new lambda.

        Raises:
            ValueError: no cost, or one that is not finite.
        """
        if not costs or not all(math.isfinite(cost) for cost in costs):
            raise ValueError("a rollout needs at least one cost, and all of them finite")
        self._costs.extend(costs)
        self._rollouts += 1
        if self._rollouts > self.delay:
            step = self.lr * self.value * (self.measured_cost - self.threshold)
            self._log = min(self._log + step, self._log_maximum)
        return self.value

    def state_dict(self) -> dict[str, Any]:
        """ln lambda, the window and the rollout count."""
        return {"log": self._log, "costs": list(self._costs), "rollouts": self._rollouts}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore `state_dict`."""
        self._log, self._rollouts = float(state["log"]), int(state["rollouts"])
        self._costs.clear()
        self._costs.extend(state["costs"])


def threshold_from_paper(d: float) -> float:
    """Safe RLHF writes the constraint as J_C + d <= 0; here it is mean cost <= threshold, so threshold = -d."""
    return -d
