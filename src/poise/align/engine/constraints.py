"""Which costs a run keeps below which thresholds: one constraint, or several with a multiplier each.

A constraint speaks of one cost model of the trunk, and of all prompts or of some (those of one harm group, say). It
asks that the mean cost of their responses stays at or below its multiplier's threshold.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from poise.align.engine.processes import total
from poise.align.engine.rollout import Rollout
from poise.align.multiplier import Multiplier, Multipliers, gathered
from poise.errors import PoiseError


class Constraint(NamedTuple):
    """Args: name, as the multiplier has it; role, the cost model; prompts, ids of those it speaks of (None: all)."""

    name: str = "cost"
    role: str = "cost"
    prompts: frozenset[str] | None = None


ONE = (Constraint(),)
"""The constraint of a run that has one."""


class Constraints:
    """The constraints of a run with their multipliers.

    Args:
        constraints: in order; the first speaks of the role "cost".
        multiplier: one rule for one constraint, or `Multipliers` with the constraints' names.

    Raises:
        PoiseError: names differ, or two are alike.
    """

    def __init__(self, constraints: Sequence[Constraint], multiplier: Multiplier | Multipliers) -> None:
        names = [each.name for each in constraints]
        expected = multiplier.names if isinstance(multiplier, Multipliers) else names[:1]
        if sorted(names) != sorted(expected) or constraints[0].role != "cost":
            raise PoiseError(
                f"constraints are {names}, multipliers {getattr(multiplier, 'names', 'one')}",
                where="align",
                do="give each constraint a multiplier of its name, and the first the role cost",
            )
        self.constraints, self.multiplier = tuple(constraints), multiplier

    @property
    def roles(self) -> tuple[str, ...]:
        """The cost models that are asked, each once, "cost" first."""
        return tuple(dict.fromkeys(each.role for each in self.constraints))

    @property
    def named(self) -> tuple[Constraint, ...]:
        """Those that rows of measurements name; none where there is one multiplier without a name."""
        return self.constraints if isinstance(self.multiplier, Multipliers) else ()

    @property
    def values(self) -> dict[str, float]:
        """lambda >= 0 by constraint."""
        if isinstance(self.multiplier, Multipliers):
            return dict(zip(self.multiplier.names, self.multiplier.values, strict=True))
        return {self.constraints[0].name: self.multiplier.value}

    def update(
        self, rollouts: Sequence[Rollout], names: Sequence[str], measured: Callable[[Tensor, Tensor], list[float]]
    ) -> None:
        """Move every multiplier once, from the costs of the whole rollout in all processes.

        Args:
            rollouts: the batches of one rollout.
            names: prompt id by group number.
            measured: what the rule takes, from costs float[N] and groups int64[N].
        """
        groups = torch.cat([rollout.group for rollout in rollouts])
        costs = {}
        for each in self.constraints:
            cost = torch.cat([rollout.cost_of(each.role) for rollout in rollouts])
            kept = self._member(each, groups, names)
            costs[each.name] = gathered(measured(cost[kept], groups[kept]) if bool(kept.any()) else [])
        if isinstance(self.multiplier, Multipliers):
            self.multiplier.update_measured({name: values for name, values in costs.items() if values})
        elif only := costs[self.constraints[0].name]:
            self.multiplier.update(only)

    def weights(self, rollout: Rollout, names: Sequence[str]) -> dict[str, float | Tensor]:
        """lambda of each cost model: a number, or float[B] where constraints speak of some prompts only."""
        weights: dict[str, float | Tensor] = {}
        for each in self.constraints:
            weight: float | Tensor = self.values[each.name]
            if each.prompts is not None:
                weight = weight * self._member(each, rollout.group, names).to(rollout.experience.cost.dtype)
            weights[each.role] = weights[each.role] + weight if each.role in weights else weight
        return weights

    def row(self, rollouts: Sequence[Rollout], names: Sequence[str]) -> dict[str, float]:
        """What people follow: the sum of all lambda, and where constraints have names each cost and lambda.

        Costs are means over the responses of all processes.
        """
        values = self.values
        row = {"multiplier": sum(values.values())}
        for each in self.named:
            groups = torch.cat([rollout.group for rollout in rollouts])
            kept = self._member(each, groups, names)
            cost = torch.cat([rollout.cost_of(each.role) for rollout in rollouts])[kept]
            row[f"multiplier_{each.name}"] = values[each.name]
            summed, count = total([float(cost.double().sum()), float(len(cost))])
            if count:  # else this rollout has no prompt that the constraint speaks of
                row[f"cost_{each.name}"] = summed / count
        return row

    def state_dict(self) -> dict[str, Any]:
        """That of the multipliers, cost windows among it."""
        return self.multiplier.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore `state_dict`."""
        self.multiplier.load_state_dict(dict(state))

    @staticmethod
    def _member(constraint: Constraint, groups: Tensor, names: Sequence[str]) -> Tensor:
        """bool[B]: responses that the constraint speaks of."""
        spoken = [constraint.prompts is None or name in constraint.prompts for name in names]
        return torch.tensor(spoken, device=groups.device)[groups]
