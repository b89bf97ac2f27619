"""What one phase of a run learns: a summed loss of some items under a role of the trunk, and what is measured with it.

The trainer knows nothing of methods. An objective says how much each item weighs (a pair 1, a DeRTa item its learnt
tokens); losses come as sums, and a step divides by the weight of all its items, so that micro-batches do not matter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from poise.align.algorithms.derta import IGNORED, LabelRow, label_tensors
from poise.align.algorithms.derta import loss as derta_loss
from poise.align.algorithms.pairs import PairLogProbs, PairLoss
from poise.align.train.batches import Store, pair_log_probs
from poise.models.log_probs import head_weight, token_log_probs
from poise.models.trunk import REFERENCE, Trunk

_OF_PAIRS = ("loss", "accuracy", "margin", "chosen_reward", "rejected_reward")


class Measured(NamedTuple):
    """Of some items. Args: loss, the sum with its gradient; sums, of everything that is reported, and the loss;
    tokens computed, and places that only padded them."""

    loss: Tensor
    sums: dict[str, float]
    tokens: int
    padding: int


class Objective(Protocol):
    """One phase.

    Attributes:
        name: of the phase.
        role: the adapter that is trained.
        start: role that it begins as, None to begin where it is.
        parameters: names of the tensors that are trained (as in `Trunk.state_of`), None for all of the role.
        train, held_out: items to learn from and to evaluate on.
        lengths, weights: of every item: tokens, and share in the loss.
        measures: names of the sums that `measure` reports, in order.
    """

    name: str
    role: str
    start: str | None
    parameters: list[str] | None
    train: list[int]
    held_out: list[int]
    lengths: list[int]
    weights: list[int]
    measures: tuple[str, ...]

    def prepare(self, groups: Sequence[Sequence[int]]) -> None:
        """Called once before the phase, with all groups of items that will be measured together."""
        ...

    def measure(self, items: Sequence[int]) -> Measured:
        """The summed loss of some items, with gradient where it is enabled."""
        ...

    def where(self, item: int) -> str:
        """File and row of an item."""
        ...


class PairObjective:
    """A loss on pairs.

    Args:
        store: all pairs of the run, and their log-probabilities under the reference.
        chosen: pair -> response id of the chosen response, for the pairs that this phase uses.
        loss: of P pairs, given their log-probabilities and their numbers int64[P].
        is_held_out: of every pair of the store.
        reference: role whose log-probabilities are the reference's.
        average: divide log-probabilities by the response's tokens.
        marks: name -> bool of every pair of the store; reported as shares.
    """

    def __init__(
        self,
        store: Store,
        chosen: dict[int, int],
        loss: Callable[[PairLogProbs, Tensor], PairLoss],
        is_held_out: Sequence[bool],
        *,
        name: str = "actor",
        role: str = "actor",
        start: str | None = None,
        reference: str = REFERENCE,
        average: bool = False,
        parameters: list[str] | None = None,
        marks: dict[str, Sequence[bool]] | None = None,
    ) -> None:
        self.name, self.role, self.start, self.parameters = name, role, start, parameters
        self._store, self._loss, self._marks = store, loss, marks or {}
        self._tokens = torch.tensor([[len(r) for r in p.responses] for p in store.pairs]) if average else None
        self._role_of_reference, self._reference = reference, torch.zeros(len(store.pairs), 2)
        self._first = torch.tensor([chosen.get(at, 0) for at in range(len(store.pairs))])
        self.train = [at for at in chosen if not is_held_out[at]]
        self.held_out = [at for at in chosen if is_held_out[at]]
        self.lengths = [pair.tokens for pair in store.pairs]
        self.weights = [1] * len(store.pairs)
        self.measures = (*_OF_PAIRS, *self._marks)

    def prepare(self, groups: Sequence[Sequence[int]]) -> None:
        """Log-probabilities of the reference, in the very batches in which the policy's will be computed.

        In bfloat16 a response's sum moves by some tenths of a nat with the batch it is computed in; in the same batch
        a policy that has not moved has the reference's numbers exactly.
        """
        self._reference = self._averaged(self._store.log_probs(self._role_of_reference, groups, self.name), slice(None))

    def measure(self, items: Sequence[int]) -> Measured:
        """See `Objective`; sums of loss, accuracy (0 or 1), margin and both implicit rewards, and of the marks."""
        store, at = self._store, torch.tensor(items)
        layout = store.lay_out(items)
        policy = self._averaged(pair_log_probs(store.trunk, store.lower(items, layout), layout, self.role), at)
        reference, first = self._reference[at].to(policy.device), self._first[at].to(policy.device)
        rows = torch.arange(len(items), device=policy.device)
        four = (policy[rows, first], policy[rows, 1 - first], reference[rows, first], reference[rows, 1 - first])
        loss, chosen, rejected = self._loss(PairLogProbs(*four), at)
        values = (loss.detach(), chosen > rejected, chosen - rejected, chosen, rejected)
        told = {name: float(value.sum()) for name, value in zip(_OF_PAIRS, values, strict=True)}
        told |= {name: float(sum(marks[item] for item in items)) for name, marks in self._marks.items()}
        return Measured(loss.sum(), told, layout.tokens, layout.padding)

    def where(self, item: int) -> str:
        """See `Objective`."""
        return self._store.pairs[item].text.where

    def _averaged(self, values: Tensor, at: Tensor | slice) -> Tensor:
        return values if self._tokens is None else values / self._tokens[at].to(values.device)


class LabelObjective:
    """DeRTa: cross-entropy of label rows; an item is the two rows of one pair.

    Args:
        trunk: the model.
        rows: item -> its rows.
        where: item -> file and row.
        is_held_out: of every item.
    """

    def __init__(
        self, trunk: Trunk, rows: Sequence[tuple[LabelRow, ...]], where: Sequence[str], is_held_out: Sequence[bool]
    ) -> None:
        self.name = self.role = "actor"
        self.start: str | None = None
        self.parameters: list[str] | None = None
        self._trunk, self._rows, self._where = trunk, rows, where
        self.train = [at for at in range(len(rows)) if not is_held_out[at]]
        self.held_out = [at for at in range(len(rows)) if is_held_out[at]]
        self.lengths = [sum(len(row.ids) for row in item) for item in rows]
        self.measures: tuple[str, ...] = ("loss",)
        self.weights = [sum(label != IGNORED for row in item for label in row.labels) for item in rows]

    def prepare(self, groups: Sequence[Sequence[int]]) -> None:
        """Nothing: there is no reference."""

    def measure(self, items: Sequence[int]) -> Measured:
        """See `Objective`; the loss is a sum over learnt tokens."""
        trunk, rows = self._trunk, [row for item in items for row in self._rows[item]]
        ids, labels = (tensor.to(trunk.device) for tensor in label_tensors(rows))
        hidden = trunk.upper(trunk.lower(ids), self.role)
        learnt = labels != IGNORED
        values = token_log_probs(hidden[:, :-1][learnt[:, 1:]], head_weight(trunk.model), labels[learnt])
        each = torch.zeros(labels.shape, device=values.device).masked_scatter(learnt, values)
        loss, _ = derta_loss(each, labels)
        tokens = sum(len(row.ids) for row in rows)
        return Measured(loss, {"loss": float(loss.detach())}, tokens, ids.numel() - tokens)

    def where(self, item: int) -> str:
        """See `Objective`."""
        return self._where[item]
