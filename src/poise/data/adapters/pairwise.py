"""A prompt, two responses and a vote which one is better, in the shapes that public sets use.

Ties and votes that name both responses are dropped and counted: a pair without a clear winner teaches no order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from poise.data.adapters.build import Builder, Line, RowDroppedError

Vote = Callable[[Line], int]


@dataclass(frozen=True)
class Pairwise:
    """Adapter for two response columns and a vote.

    Args:
        first, second: names of the response columns.
        vote: 0 when the first is better, 1 when the second is; raises `RowDroppedError` when neither is.
        context: column that is put behind the prompt when it holds text.
    """

    first: str
    second: str
    vote: Vote
    context: str | None = None

    def __call__(self, out: Builder, line: Line) -> None:
        winner = self.vote(line)
        prompt = line.text("prompt")
        if self.context and line.get(self.context):
            prompt = f"{prompt}\n\n{line.text(self.context)}"
        pair, answers = out.pair(prompt, (line.text(self.first), line.text(self.second)))
        out.judge(pair.id, "better", 0 if answers[winner].id == pair.qa_0 else 1)


def first_wins(line: Line) -> int:
    """`chosen` against `rejected`: the first column is the better one."""
    return 0


def label_1_2(line: Line) -> int:
    """LLMBar: `label` is 1 or 2."""
    return _side({1: 0, 2: 1}, line.get("label"))


def annotators_1_2(line: Line) -> int:
    """PandaLM: three annotators, each 1, 2 or 0 for a tie. One response needs two votes and the other none."""
    votes = list(line.get("annotators"))
    if votes.count(0) * 2 > len(votes):
        raise RowDroppedError("tie")
    if 1 in votes and 2 in votes:
        raise RowDroppedError("split vote")
    return _side({1: 0, 2: 1}, max(votes, default=0))


def a_or_b(line: Line) -> int:
    """Tulu human evaluation: five steps from a to b; a slight preference counts, a tie does not."""
    sides = {"a-is-better": 0, "a-is-slightly-better": 0, "b-is-slightly-better": 1, "b-is-better": 1}
    return _side(sides, line.get("preference"))


def _side(sides: Mapping[Any, int], value: object) -> int:
    if value in sides:
        return sides[value]
    raise RowDroppedError("tie" if value in ("tie", 0) else "vote names no response")
