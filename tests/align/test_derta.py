"""DeRTa: its label rows for every prefix, and that a small model learns to refuse at every depth."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import nn

from poise.align.algorithms.derta import (
    IGNORED,
    LabelRow,
    label_tensors,
    loss,
    prefix_length,
    prefix_row,
    transition_row,
)

PROMPT, HARMFUL, SAFE, REFUSAL = [1, 2], [5, 6, 7], [9, 8], 9


@pytest.mark.parametrize(
    ("k", "ids"),
    [(0, [1, 2, 9, 8]), (1, [1, 2, 5, 9, 8]), (2, [1, 2, 5, 6, 9, 8]), (3, [1, 2, 5, 6, 7, 9, 8])],
)
def test_the_prefix_rows(k: int, ids: list[int]) -> None:
    assert prefix_row(PROMPT, HARMFUL, SAFE, k) == LabelRow(ids, [IGNORED] * (2 + k) + [9, 8])


def test_the_transition_row_refuses_from_the_first_token_to_the_last() -> None:
    row = transition_row(PROMPT, HARMFUL, REFUSAL)
    assert row == LabelRow([1, 2, 5, 6, 7], [IGNORED, IGNORED, 9, 9, 9])


def test_a_prefix_longer_than_the_answer_is_refused() -> None:
    with pytest.raises(ValueError, match="the prefix has 4 tokens, the harmful answer 3"):
        prefix_row(PROMPT, HARMFUL, SAFE, 4)


def test_prefixes_are_uniform_and_every_third_is_empty() -> None:
    lengths = Counter(prefix_length(3, sample, (sample // 3 % 100) / 100) for sample in range(300) if sample % 3)
    assert lengths == {0: 50, 1: 50, 2: 50, 3: 50}
    assert {prefix_length(3, sample, 0.99) for sample in range(0, 30, 3)} == {0}


def test_tensors_and_loss_leave_padding_out() -> None:
    rows = [prefix_row(PROMPT, HARMFUL, SAFE, 0), transition_row(PROMPT, HARMFUL, REFUSAL)]
    ids, labels = label_tensors(rows, pad=9)  # a padding id that is also a label
    assert ids.tolist() == [[1, 2, 9, 8, 9], [1, 2, 5, 6, 7]]
    assert labels.tolist() == [[IGNORED, IGNORED, 9, 8, IGNORED], [IGNORED, IGNORED, 9, 9, 9]]
    # -(1 + 2) and -(3 + 4 + 5), the rest is garbage
    log_prob = torch.tensor([[70.0, 70, -1, -2, 70], [70, 70, -3, -4, -5]])
    total, count = loss(log_prob, labels)
    assert (total.item(), count) == (15.0, 5)


class Bag(nn.Module):
    """Next token from the last token and the mean of those so far."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(10, 16), nn.Linear(32, 10)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """int64[B, T] -> log-probabilities of the next token, float[B, T, V]."""
        x = self.table(ids)
        mean = x.cumsum(1) / torch.arange(1, ids.shape[1] + 1)[:, None]
        out: torch.Tensor = self.head(torch.cat([x, mean], -1)).log_softmax(-1)
        return out


def refusal_by_depth(transitions: bool) -> list[float]:
    """Probability of the refusal token after 0..3 tokens of the harmful answer."""
    torch.manual_seed(0)
    model = Bag()
    rows = [
        prefix_row(PROMPT, HARMFUL, SAFE, 0),
        prefix_row([1, 3], [], HARMFUL, 0),
    ]  # plain SFT, that knows the answer
    rows += [transition_row(PROMPT, HARMFUL, REFUSAL)] if transitions else []
    ids, labels = label_tensors(rows)
    optimizer = torch.optim.Adam(model.parameters(), 0.03)
    for _ in range(150):
        log_prob = model(ids[:, :-1]).gather(-1, labels[:, 1:].clamp(min=0)[..., None])[..., 0]
        total, count = loss(log_prob, labels[:, 1:])
        optimizer.zero_grad()
        (total / count).backward()
        optimizer.step()
    whole = model(torch.tensor([[*PROMPT, *HARMFUL]]))[0, 1:, REFUSAL].exp().detach()
    return [float(x) for x in whole[:3]]


def test_refusal_is_learnt_at_every_depth() -> None:
    plain, derta = refusal_by_depth(False), refusal_by_depth(True)
    assert plain[0] > 0.9 and max(plain[1:]) < 0.5  # safe at the first token alone
    assert min(derta) > 0.8
