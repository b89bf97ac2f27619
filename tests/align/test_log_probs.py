"""Log-probabilities without logits: equal to the plain way, at either padding side, in a fraction of the memory."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from poise.align.core import response_log_probs, sequence_log_probs, token_log_probs

quick = settings(deadline=None, max_examples=25)
F64 = torch.float64


def plain(hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """With the logits."""
    return (hidden @ weight.T / temperature).log_softmax(-1).gather(-1, targets[:, None])[:, 0]


def test_two_tokens_by_hand() -> None:
    # logits (0, ln 3): softmax (1/4, 3/4); at temperature 1/2 logits (0, ln 9): (1/10, 9/10)
    hidden, weight = torch.ones(2, 1), torch.tensor([[1.0], [3.0]]).log()
    targets = torch.tensor([0, 1])
    assert token_log_probs(hidden, weight, targets).exp().tolist() == pytest.approx([0.25, 0.75])
    assert token_log_probs(hidden, weight, targets, temperature=0.5).exp().tolist() == pytest.approx([0.1, 0.9])


@quick
@given(st.integers(0, 2**31), st.integers(1, 9), st.sampled_from([0.5, 1.0, 1.7]), st.integers(0, 400))
def test_values_and_both_gradients_are_those_of_the_plain_way(
    seed: int, rows: int, temperature: float, chunk_bytes: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(rows, 5, generator=generator, requires_grad=True)
    weight = torch.randn(11, 5, generator=generator, requires_grad=True)
    targets = torch.randint(11, (rows,), generator=generator)
    weights = torch.randn(rows, generator=generator)
    ways = (
        token_log_probs(hidden, weight, targets, temperature, chunk_bytes),
        plain(hidden, weight, targets, temperature),
    )
    results = [(value, *torch.autograd.grad(value @ weights, (hidden, weight))) for value in ways]
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@quick
@given(st.integers(0, 2**31), st.sampled_from([0.5, 1.0]), st.integers(0, 200))
def test_with_a_frozen_head_the_gradient_is_the_same_and_nothing_is_kept_without_one(
    seed: int, temperature: float, chunk_bytes: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(6, 4, generator=generator, requires_grad=True)
    weight, weights = torch.randn(9, 4, generator=generator), torch.randn(6, generator=generator)
    targets = torch.randint(9, (6,), generator=generator)
    ways = (
        token_log_probs(hidden, weight, targets, temperature, chunk_bytes),
        plain(hidden, weight, targets, temperature),
    )
    ours, theirs = (torch.autograd.grad(value @ weights, hidden)[0] for value in ways)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        assert not token_log_probs(hidden, weight, targets).requires_grad


@pytest.mark.parametrize("chunk_bytes", [None, 100])
def test_autocast_multiplies_in_its_format_and_gradients_keep_theirs(chunk_bytes: int | None) -> None:
    generator = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(n, 16, generator=generator, requires_grad=True) for n in (12, 40))
    targets = torch.randint(40, (12,), generator=generator)
    results = []
    for ours in (True, False):
        with torch.autocast("cpu", torch.bfloat16):
            if ours:
                value = token_log_probs(hidden, weight, targets, chunk_bytes=chunk_bytes)
            else:
                value = -torch.nn.functional.cross_entropy((hidden @ weight.T).float(), targets, reduction="none")
        results.append((value, *torch.autograd.grad(value.sum(), (hidden, weight))))
    for mine, plain in zip(*results, strict=True):
        assert mine.dtype == torch.float32
        torch.testing.assert_close(mine, plain, rtol=2e-2, atol=5e-2)
    torch.testing.assert_close(results[0][0], results[1][0])  # the same products, so the same values


def test_a_head_alone_can_learn() -> None:
    hidden, targets = torch.randn(3, 4), torch.tensor([0, 1, 2])
    weight = torch.randn(6, 4, requires_grad=True)
    ours, theirs = (
        torch.autograd.grad(value.sum(), weight)[0]
        for value in (token_log_probs(hidden, weight, targets), plain(hidden, weight, targets, 1.0))
    )
    torch.testing.assert_close(ours, theirs)


def responses(side: str) -> tuple[Tensor, Tensor, Tensor]:
    """Two conversations, padded to 7 on one side with an id that also occurs in an answer."""
    rows = [([3, 4], [5, 0, 6]), ([7], [8, 9])]  # 0 is the padding id, and a real token of the first answer
    ids, mask = torch.zeros(2, 7, dtype=torch.long), torch.zeros(2, 7, dtype=torch.bool)
    starts = []
    for i, (prompt, answer) in enumerate(rows):
        length = len(prompt) + len(answer)
        start = 0 if side == "right" else 7 - length
        ids[i, start : start + length] = torch.tensor([*prompt, *answer])
        mask[i, start + len(prompt) : start + length] = True
        starts.append(start)
    return ids, mask, torch.tensor(starts)


@pytest.mark.parametrize("side", ["left", "right"])
def test_every_response_token_counts_once_on_either_padding_side(side: str) -> None:
    """The first diverging token is in, padding is out, and a token equal to the padding id is in."""
    generator = torch.Generator().manual_seed(0)
    table, weight = torch.randn(10, 4, generator=generator), torch.randn(10, 4, generator=generator)
    ids, mask, _ = responses(side)
    log_prob = response_log_probs(table[ids], weight, ids, mask)
    bigram = (table @ weight.T).log_softmax(-1)  # the state here knows the token before alone
    assert log_prob[~mask].eq(0).all()
    sums = sequence_log_probs(log_prob, mask)
    first = bigram[4, 5] + bigram[5, 0] + bigram[0, 6]
    second = bigram[7, 8] + bigram[8, 9]
    torch.testing.assert_close(sums, torch.stack([first, second]))
    torch.testing.assert_close(sequence_log_probs(log_prob, mask, average=True), torch.stack([first / 3, second / 2]))


def test_a_token_that_was_certain_counts_as_a_token() -> None:
    """Masks come from the collator: a log-probability of exactly zero is no padding."""
    log_prob, mask = torch.tensor([[9.0, 0.0, -4.0, 9.0]]), torch.tensor([[False, True, True, False]])
    assert sequence_log_probs(log_prob, mask, average=True).tolist() == [-2.0]


def test_what_is_refused() -> None:
    mask = torch.tensor([[True, True]])
    with pytest.raises(ValueError, match="nothing stands before it"):
        response_log_probs(torch.zeros(1, 2, 3), torch.zeros(4, 3), torch.zeros(1, 2, dtype=torch.long), mask)
    with pytest.raises(ValueError, match="response 1 of the batch has no token"):
        sequence_log_probs(torch.zeros(2, 2), torch.tensor([[True, False], [False, False]]))
    with pytest.raises(ValueError, match="differ in shape"):
        sequence_log_probs(torch.zeros(2, 3), mask)


MEMORY = """
import re, sys, torch
from pathlib import Path
from poise.align.core import token_log_probs
torch.set_num_threads(1)
hidden, weight = torch.randn(2048, 16, requires_grad=True), torch.randn(32768, 16)
targets = torch.randint(32768, (2048,))
def loss():
    if sys.argv[1] == "ours":
        return -token_log_probs(hidden, weight, targets).mean()
    return torch.nn.functional.cross_entropy(hidden @ weight.T, targets)
def peak():  # not ru_maxrss, which begins at that of the process that started this one
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
before = peak()
loss().backward()
print((peak() - before) / 1024)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the peak memory as Linux counts it")
def test_full_logits_are_never_kept() -> None:
    """2,048 positions over 32,768 words: logits are 256 MiB, and the plain way keeps them more than once."""
    peak = {
        way: float(
            subprocess.run([sys.executable, "-c", MEMORY, way], capture_output=True, text=True, check=True).stdout
        )
        for way in ("ours", "plain")
    }
    assert peak["ours"] < 150
    assert peak["plain"] > 2 * peak["ours"], peak
