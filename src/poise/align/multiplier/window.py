"""Recent sequence costs and their mean, the J_C of every rule, and how processes agree on it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Protocol


class Multiplier(Protocol):
    """What turns measured costs into lambda >= 0: once per rollout, from the costs of all processes."""

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


class CostWindow:
    """Mean of the last `size` sequence costs, in which the rows of one rollout weigh alike.

    A queue of single costs would keep the rows of a rollout that came last, and rows come sorted by length and by
    process. Here a rollout that the window cuts counts with its own mean for as many costs as there is room.

    Args:
        size: costs averaged, >= 1.
        delay: rollouts before `push` says that a rule may move.

    Raises:
        ValueError: a window without room, or a negative delay.
    """

    def __init__(self, size: int, delay: int = 0) -> None:
        if size < 1 or delay < 0:
            raise ValueError(f"window is {size} and delay {delay}; a window holds at least 1 cost, a delay is >= 0")
        self._size, self._delay = size, delay
        self._kept: list[tuple[float, int]] = []  # mean and number of costs of recent rollouts, newest last
        self._rollouts = 0

    def push(self, costs: Sequence[float]) -> bool:
        """Take the costs of one rollout; true when the delay is over.

        Raises:
            ValueError: no cost, or one that is not finite; the window stays as it was.
        """
        if not costs or not all(math.isfinite(cost) for cost in costs):
            raise ValueError("a rollout needs at least one cost, and all of them finite")
        self._kept.append((math.fsum(costs) / len(costs), len(costs)))
        while sum(count for _, count in self._kept[1:]) >= self._size:
            del self._kept[0]
        self._rollouts += 1
        return self._rollouts > self._delay

    @property
    def mean(self) -> float:
        """J_C; NaN before the first rollout."""
        room, total = self._size, 0.0
        for mean, count in reversed(self._kept):
            taken = min(count, room)
            total, room = total + taken * mean, room - taken
        return total / (self._size - room) if self._kept else math.nan

    def state_dict(self) -> dict[str, Any]:
        """Mean and number of the costs of recent rollouts, and the rollout count."""
        return {"kept": [list(pair) for pair in self._kept], "rollouts": self._rollouts}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore `state_dict`."""
        self._rollouts = int(state["rollouts"])
        self._kept = [(float(mean), int(count)) for mean, count in state["kept"]]


class Windowed(ABC):
    """What the rules have in common: a window of costs, whose mean moves a number that lambda is made of.

    A rule says how (`_moved`), and what else it keeps.

    Args:
        start: that number before the first update.
        window: number of recent sequence costs averaged.
        delay: rollouts before the first update.

    Raises:
        ValueError: a window without room, or a negative delay.
    """

    def __init__(self, start: float, window: int, delay: int = 0) -> None:
        self._state = start
        self._window = CostWindow(window, delay)

    @property
    def value(self) -> float:
        """lambda >= 0."""
        return self._state

    @property
    def measured_cost(self) -> float:
        """Mean of the window, the J_C of the last update; NaN before the first."""
        return self._window.mean

    def update(self, costs: Sequence[float]) -> float:
        """One step from the costs of one rollout; returns the new lambda.

        Raises:
            ValueError: no cost, or one that is not finite.
        """
        if self._window.push(costs):
            self._state = self._moved(self.measured_cost)
        return self.value

    @abstractmethod
    def _moved(self, measured: float) -> float:
        """The number after a step on the mean cost."""

    def state_dict(self) -> dict[str, Any]:
        """The number, the window and the rollout count, JSON-able."""
        return {"state": self._state, **self._window.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore `state_dict`."""
        self._state = float(state["state"])
        self._window.load_state_dict(state)


def gathered(costs: Sequence[float]) -> list[float]:
    """The costs of all processes of the default group, in rank order; `costs` itself where there is only one.

    Every process then gives the same list to its multiplier, so that lambda is the same everywhere without a broadcast.
    """
    import torch
    from torch import distributed

    if not (distributed.is_available() and distributed.is_initialized()) or distributed.get_world_size() == 1:
        return list(costs)
    device = "cpu" if distributed.get_backend() == "gloo" else "cuda"
    world = distributed.get_world_size()
    counts = [torch.zeros(1, dtype=torch.int64, device=device) for _ in range(world)]
    distributed.all_gather(counts, torch.tensor([len(costs)], device=device))
    widest = max(int(count) for count in counts)
    mine = torch.zeros(widest, dtype=torch.float64, device=device)
    mine[: len(costs)] = torch.tensor(list(costs), dtype=torch.float64)
    rows = [torch.zeros_like(mine) for _ in range(world)]
    distributed.all_gather(rows, mine)
    return [cost for row, count in zip(rows, counts, strict=True) for cost in row[: int(count)].tolist()]


def threshold_from_paper(d: float) -> float:
    """Safe RLHF writes the constraint as J_C + d <= 0; here it is mean cost <= threshold, so threshold = -d."""
    return -d


def paper_from_threshold(threshold: float) -> float:
    """The paper's d of J_C + d <= 0 for a constraint mean cost <= threshold."""
    return -threshold
