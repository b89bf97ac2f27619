"""Which examples stand together: rows, micro-batches and optimizer steps of an epoch, and their tensors.

A row holds one example (padded) or several (packed, up to `max_length` tokens). In a packed row every example keeps
its own positions from 0, and the attention mask lets no token see another example, so packing changes the speed and
never the loss. A step takes `batch_size * accumulate` rows whatever the micro-batch is, so neither does that.

Within a step rows are sorted by length, so that a micro-batch holds rows of near-equal length and little padding.
Across steps nothing is sorted: steps of short answers would have a tenth of the learnt tokens of others at the same
learning rate. Everything follows from the seed and the epoch; a run that goes on needs no position but the step number.
"""

from __future__ import annotations

import bisect
import random
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from poise.align.sft.templates import Example
from poise.data.rows import uniform_seed

IGNORED = -100
"""The label of a token that is not learnt, as in Transformers."""

Row = list[int]
"""Positions of the examples in a row."""
Step = list[list[Row]]
"""The micro-batches of an optimizer step."""

_PACK_WINDOW = 2048  # examples packed together: enough to fill rows, few enough that an epoch stays shuffled


class Batch(NamedTuple):
    """Tensors of a micro-batch.

    Args:
        ids: int64[B, T], right-padded.
        labels: int64[B, T], the id where a token is learnt, else `IGNORED`; not shifted.
        positions: int64[B, T], from 0 in each example; None when no row holds two examples.
        segments: int64[B, T], the number of the example in its row; None likewise.
    """

    ids: Tensor
    labels: Tensor
    positions: Tensor | None
    segments: Tensor | None

    def to(self, device: torch.device) -> Batch:
        """The same on another device."""
        return Batch(*(None if tensor is None else tensor.to(device) for tensor in self))  # type: ignore[arg-type]

    @property
    def targets(self) -> int:
        """How many tokens are learnt."""
        return int((self.labels[:, 1:] != IGNORED).sum())


def attention_mask(segments: Tensor) -> Tensor:
    """Which token may see which: int64[B, T] -> bool[B, 1, T, T], block-diagonal and causal."""
    same = segments[:, None, :, None] == segments[:, None, None, :]
    width = segments.shape[1]
    return same & torch.ones(width, width, dtype=torch.bool, device=segments.device).tril()


def collate(examples: Sequence[Example], rows: Sequence[Row], pad: int) -> Batch:
    """The tensors of some rows; padding is a segment of its own and is never learnt."""
    width = max(sum(len(examples[at].ids) for at in row) for row in rows)
    ids = torch.full((len(rows), width), pad)
    labels = torch.full((len(rows), width), IGNORED)
    positions = torch.zeros(len(rows), width, dtype=torch.long)
    segments = torch.full((len(rows), width), -1)
    for number, row in enumerate(rows):
        start = 0
        for segment, at in enumerate(row):
            tokens, learnt = torch.tensor(examples[at].ids), torch.tensor(examples[at].learnt)
            learnt[0] = False  # what comes before it is another example or nothing
            here = slice(start, start + len(tokens))
            ids[number, here] = tokens
            labels[number, here] = torch.where(learnt, tokens, IGNORED)
            positions[number, here] = torch.arange(len(tokens))
            segments[number, here] = segment
            start = here.stop
    if all(len(row) == 1 for row in rows):
        return Batch(ids, labels, None, None)
    return Batch(ids, labels, positions, segments)


def pack(order: Sequence[int], lengths: Sequence[int], max_length: int) -> list[Row]:
    """Fill rows of `max_length` tokens: each takes the longest example that still fits, until none does.

    Args:
        order: examples in the order of the epoch.
        lengths: int[N], tokens of each example, at most `max_length`.
    """
    rows: list[Row] = []
    for start in range(0, len(order), _PACK_WINDOW):
        left = sorted(order[start : start + _PACK_WINDOW], key=lambda at: lengths[at])
        while left:
            row, room = [], max_length
            while (fits := bisect.bisect_right(left, room, key=lambda at: lengths[at])) > 0:
                row.append(left.pop(fits - 1))
                room -= lengths[row[-1]]
            rows.append(row)
    return rows


def plan_epoch(
    lengths: Sequence[int], *, packed: bool, batch_size: int, accumulate: int, max_length: int, seed: int, epoch: int
) -> list[Step]:
    """The steps of one epoch; every example stands in exactly one row.

    Args:
        lengths: int[N], tokens of each example.
        packed: several examples to a row.
        batch_size: rows of a micro-batch.
        accumulate: micro-batches of a step.
        max_length: tokens of a packed row.
        seed, epoch: of the order.
    """
    chance = random.Random(uniform_seed(seed, str(epoch), "sft order"))
    order = list(range(len(lengths)))
    chance.shuffle(order)
    rows = pack(order, lengths, max_length) if packed else [[at] for at in order]
    chance.shuffle(rows)
    per_step = batch_size * accumulate
    steps: list[Step] = []
    for start in range(0, len(rows), per_step):
        step = sorted(rows[start : start + per_step], key=lambda row: sum(lengths[at] for at in row))
        steps.append([step[at : at + batch_size] for at in range(0, len(step), batch_size)])
    return steps


def plan(
    lengths: Sequence[int], *, epochs: int, max_steps: int, packed: bool, batch_size: int, accumulate: int,
    max_length: int, seed: int,
) -> tuple[list[Step], list[int]]:  # fmt: skip
    """All steps, and after which of them an epoch ends; `max_steps` 0 means no limit."""
    steps: list[Step] = []
    ends = []
    for epoch in range(epochs):
        steps += plan_epoch(
            lengths,
            packed=packed,
            batch_size=batch_size,
            accumulate=accumulate,
            max_length=max_length,
            seed=seed,
            epoch=epoch,
        )
        ends.append(len(steps))
        if max_steps and len(steps) >= max_steps:
            break
    total = min(len(steps), max_steps or len(steps))
    return steps[:total], sorted({min(end, total) for end in ends})
