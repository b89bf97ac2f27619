"""DeRTa: refusal at any position of an answer (Yuan et al., arXiv 2407.09121).

    L = -E log P(r | q, h_<k)  -  E sum over t = 1..|h| of log P(refusal | q, h_<t)

q is a harmful question, h a harmful answer, r a safe one, k uniform on 0..|h|. The first term learns to turn round
after any beginning of h; the second learns, at every position of h, that a refusal begins now. It is supervised
learning with other labels, not preference learning, so this file makes label rows, and `loss` is the cross-entropy of
them. The released code sets k = 0 for every third sample: `prefix_length` does.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

IGNORED = -100
"""Label of a position that is not learnt, as everywhere in PyTorch."""


class LabelRow(NamedTuple):
    """One sequence. Args: ids; labels, as many: labels[t] is to be predicted from the ids before t, or is `IGNORED`."""

    ids: list[int]
    labels: list[int]


def prefix_length(harmful_tokens: int, sample: int, chance: float) -> int:
    """k: 0 for every third sample, otherwise uniform on 0..|h|.

    Args:
        harmful_tokens: |h|.
        sample: number of the sample, from 0.
        chance: uniform number in [0, 1).
    """
    return 0 if sample % 3 == 0 else int(chance * (harmful_tokens + 1))


def prefix_row(prompt: list[int], harmful: list[int], safe: list[int], k: int) -> LabelRow:
    """First term: q, k tokens of h, then r; only r is learnt.

    Args:
        prompt, harmful, safe: token ids, the safe answer with its end token.
        k: 0..|h|.

    Raises:
        ValueError: k outside 0..|h|.
    """
    if not 0 <= k <= len(harmful):
        raise ValueError(f"the prefix has {k} tokens, the harmful answer {len(harmful)}")
    before = [*prompt, *harmful[:k]]
    return LabelRow([*before, *safe], [IGNORED] * len(before) + safe)


def transition_row(prompt: list[int], harmful: list[int], refusal: int) -> LabelRow:
    """Second term: q and h; at every position of h the label is the refusal token, at its first position too.

    Args:
        prompt, harmful: token ids; leave the end token of h out, or it is a position like the others.
        refusal: the token that a refusal begins with, in this tokenizer.
    """
    return LabelRow([*prompt, *harmful], [IGNORED] * len(prompt) + [refusal] * len(harmful))


def label_tensors(rows: list[LabelRow], pad: int = 0) -> tuple[Tensor, Tensor]:
    """Right-padded ids and labels int64[B, T]; labels of padding are `IGNORED`. Args: pad, any token id."""
    width = max(len(row.ids) for row in rows)
    ids = torch.tensor([[*row.ids, *[pad] * (width - len(row.ids))] for row in rows])
    labels = torch.tensor([[*row.labels, *[IGNORED] * (width - len(row.labels))] for row in rows])
    return ids, labels


def loss(log_prob: Tensor, labels: Tensor) -> tuple[Tensor, int]:
    """The summed loss, scalar in nats, and the number of learnt tokens, for a trainer that divides by a whole step's.

    Args:
        log_prob: float[B, T] of the labels, entry t predicted from position t - 1; anything where not learnt.
        labels: int64[B, T].
    """
    learnt = labels != IGNORED
    return -torch.where(learnt, log_prob, 0.0).sum(), int(learnt.sum())
