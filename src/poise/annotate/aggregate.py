"""One verdict from several imported ones."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from poise.data import Judgement, Rater

MAJORITY = Rater(id="imported", kind="rule", version="majority-1")
"""The rule that stands for all imports of one text: the majority of their safe flags."""


def majority_safe(judgements: Iterable[Judgement]) -> tuple[list[Judgement], Rater, int]:
    """One "safe" judgement for each item that imports judged; a tie stays unjudged (value None), never safe.

    Public sets repeat a text with contradicting flags (10 % of the distinct answers of one PKU-SafeRLHF file occur
    both as chosen and as rejected), so the last one read must not win.

    Returns:
        The judgements, the rule that made them, and the number of ties.
    """
    votes: dict[str, list[bool]] = defaultdict(list)
    for judgement in judgements:
        if judgement.value is None:
            continue
        if judgement.question == "safe":
            votes[judgement.item].append(bool(judgement.value))
        elif judgement.question == "label":
            votes[judgement.item].append(judgement.label().safe)
    out = []
    for item, flags in votes.items():
        safe = sum(flags)
        tie = 2 * safe == len(flags)
        out.append(
            Judgement(
                item=item,
                question="safe",
                value=None if tie else 2 * safe > len(flags),
                rater=MAJORITY.id,
                reason=f"{safe} of {len(flags)} say safe",
            )
        )
    return out, MAJORITY, sum(j.value is None for j in out)
