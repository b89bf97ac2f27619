"""The guards of this room behind the same `judge` as those of others: any rater that scores QA pairs, as a `Guard`."""

from __future__ import annotations

from collections.abc import Sequence

from poise.annotate import QAScore, ScoringRater
from poise.data import Provenance, QARow
from poise.guard.verdict import Item, Verdict, codes, judged, unjudged
from poise.harm import PKU

_SHOWN = Provenance(source="guard")


class ScoringGuard:
    """A scoring rater (the starter, the guard of a run) as a guard of pairs; prompts alone, empty texts are unjudged.

    Args:
        rater: scores QA pairs; a missing score is unjudged.
        name: what the guard is called.
    """

    def __init__(self, rater: ScoringRater, name: str) -> None:
        self.rater, self.name = rater, name

    def judge(self, items: Sequence[Item]) -> list[Verdict]:
        """One verdict an item, in order."""
        rows = [
            QARow(id=str(at), prompt_id="", prompt=prompt, response=response, provenance=_SHOWN)
            for at, (prompt, response) in enumerate(items)
            if prompt.strip() and response and response.strip()
        ]
        scores = dict(zip((row.id for row in rows), self.rater.score(rows), strict=True)) if rows else {}
        verdicts = []
        for at, (_, response) in enumerate(items):
            if str(at) in scores:
                verdicts.append(verdict_of(scores[str(at)]))
            else:
                verdicts.append(unjudged("not for a prompt alone" if response is None else "empty"))
        return verdicts


def verdict_of(score: QAScore | None) -> Verdict:
    """The verdict of a score: its most fitting label, P(unsafe) and the distribution over severities."""
    if score is None:
        return unjudged("no score")
    label = score.label()
    return judged(
        not label.safe,
        taxonomy=PKU,
        named=codes(label.categories),
        severities=(label.severity,),
        severity_probabilities=score.severity,
        probability=min(1.0, max(0.0, score.unsafe)),
    )
