"""Long texts in windows: which tokens go into which, how they are padded, and the highest logit of each text.

Needs no model library, so that the network in training and the exported one read a text alike. Nothing is cut: every
token is in at least one window, windows of a long text overlap by a quarter, and the worst one counts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Text = tuple[str, str | None]
"""(prompt, answer); the answer is None where only the prompt is judged."""
Window = tuple[list[int], list[int]]
"""Token ids (prompt part, answer part)."""
Floats = NDArray[np.float32]
Ids = NDArray[np.int64]

_STRIDE = 0.75  # share of a window after which the next one begins


class Marks(NamedTuple):
    """Token ids that frame a window. Args: `cls` before it, `sep` after each part, `pad` up to the longest."""

    cls: int
    sep: int
    pad: int


class Batch(NamedTuple):
    """What an encoder takes: token ids, 1 where the answer part is, 1 where a token is; all int64[B, L]."""

    input_ids: Ids
    token_type_ids: Ids
    attention_mask: Ids


class Logits(NamedTuple):
    """Args: categories float[B, 19]; at_least float[B, 3], of severity >= 1, 2, 3, non-increasing; refusal float[B]."""

    categories: Floats
    at_least: Floats
    refusal: Floats


def windows(prompt: list[int], response: list[int], max_length: int) -> list[Window]:
    """Windows of at most `max_length` tokens with their three marks; every token is in at least one of them.

    An answer is read with the end of a long prompt, where the request stands.

    Args:
        prompt, response: token ids without marks.
    """
    room = max_length - 3  # [CLS] prompt [SEP] answer [SEP]
    if len(prompt) + len(response) <= room:
        return [(prompt, response)]
    most = room if not response else max(room // 3, room - len(response))
    heads = slices(prompt, most)
    tails = slices(response, room - len(heads[-1]))
    return [(heads[-1], tail) for tail in tails] + [(head, tails[0]) for head in heads[:-1]]


def slices(ids: list[int], size: int) -> list[list[int]]:
    """Overlapping pieces of `size` tokens that cover all; a short text is one piece."""
    if len(ids) <= size:
        return [ids]
    last, step = len(ids) - size, max(1, int(size * _STRIDE))
    return [ids[start : start + size] for start in (*range(0, last, step), last)]


def padded(chosen: Sequence[Window], marks: Marks) -> Batch:
    """B windows as one batch, as long as the longest."""
    rows = [[marks.cls, *head, marks.sep, *tail, marks.sep] for head, tail in chosen]
    ids = np.full((len(rows), max(map(len, rows))), marks.pad, dtype=np.int64)
    kinds, mask = np.zeros_like(ids), np.zeros_like(ids)
    for i, (row, (head, _)) in enumerate(zip(rows, chosen, strict=True)):
        ids[i, : len(row)] = row
        kinds[i, len(head) + 2 : len(row)] = 1
        mask[i, : len(row)] = 1
    return Batch(ids, kinds, mask)


def highest(
    texts: Sequence[Text],
    windows_of: Callable[[Text], list[Window]],
    run: Callable[[Sequence[Window]], Logits],
    *,
    batch_size: int,
    on_rows: Callable[[int], object],
) -> Logits:
    """Logits of all texts in order, in batches of windows of near-equal length: of several windows the highest one.

    Args:
        windows_of: splits one text; run: logits of a batch of windows.
        on_rows: hears how many more texts were read, each counted with its last window.
    """
    pieces = [(i, window) for i, text in enumerate(texts) for window in windows_of(text)]
    order = sorted(range(len(pieces)), key=lambda at: len(pieces[at][1][0]) + len(pieces[at][1][1]))
    n, low, left = len(texts), np.float32(-np.inf), Counter(i for i, _ in pieces)
    out = Logits(np.full((n, 19), low), np.full((n, 3), low), np.full(n, low))
    for start in range(0, len(order), batch_size):
        chosen = [pieces[at] for at in order[start : start + batch_size]]
        rows = [i for i, _ in chosen]
        for whole, part in zip(out, run([window for _, window in chosen]), strict=True):
            np.maximum.at(whole, rows, part)
        left.subtract(rows)
        on_rows(sum(left[i] == 0 for i in set(rows)))
    return out
