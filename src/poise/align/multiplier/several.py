"""Several constraints at once, each with a multiplier of its own, for example one for each severity or harm group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from poise.align.multiplier.window import Multiplier


class Multipliers:
    """Named constraints in a fixed order; `values` is what `core.combine` takes beside as many cost advantages.

    Args:
        parts: name of the constraint -> its multiplier, with its own threshold.

    Raises:
        ValueError: no constraint.
    """

    def __init__(self, parts: Mapping[str, Multiplier]) -> None:
        if not parts:
            raise ValueError("no constraint is given; one multiplier has at least one")
        self._parts = dict(parts)

    @property
    def names(self) -> list[str]:
        """Constraints in order."""
        return list(self._parts)

    @property
    def values(self) -> list[float]:
        """lambda_k >= 0 in the order of `names`."""
        return [part.value for part in self._parts.values()]

    def update(self, costs: Mapping[str, Sequence[float]]) -> list[float]:
        """Take the sequence costs of one rollout under every constraint; returns the new lambdas.

        Raises:
            ValueError: a constraint without costs, or costs of an unknown one; no multiplier has moved then.
        """
        if set(costs) != set(self._parts):
            odd = sorted(set(costs) ^ set(self._parts))
            raise ValueError(f"costs are given for {sorted(costs)}, constraints are {self.names}: {odd} differ")
        before = {name: part.state_dict() for name, part in self._parts.items()}
        try:
            return [part.update(costs[name]) for name, part in self._parts.items()]
        except ValueError:
            self.load_state_dict(before)
            raise

    def update_measured(self, costs: Mapping[str, Sequence[float]]) -> list[float]:
        """As `update`, where a rollout may say nothing about some constraints: those that are absent stay as they are.

        Raises:
            ValueError: costs of an unknown constraint, none at all, or one that is not finite.
        """
        if not costs or not set(costs) <= set(self._parts):
            raise ValueError(f"costs are given for {sorted(costs)}, constraints are {self.names}")
        Multipliers({name: self._parts[name] for name in costs}).update(costs)
        return self.values

    def state_dict(self) -> dict[str, Any]:
        """State of every multiplier by name."""
        return {name: part.state_dict() for name, part in self._parts.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore `state_dict`.

        Raises:
            ValueError: the state is of other constraints.
        """
        if set(state) != set(self._parts):
            raise ValueError(f"the checkpoint has multipliers for {sorted(state)}, the run for {sorted(self._parts)}")
        for name, part in self._parts.items():
            part.load_state_dict(state[name])
