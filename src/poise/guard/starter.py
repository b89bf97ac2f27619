"""The starter rater: labels and ranks responses from the first minute, by the guard and the head that ship.

Harm is what the shipped guard says; helpfulness, for ranking within a prompt, is the shipped head's. A first annotator
for demonstrations: the guard that a run trains from its own release, and people, replace it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from poise.annotate import QAScore
from poise.data import QARow, Rater
from poise.guard.fit.apply import TrainedGuard
from poise.guard.helpfulness import Helpfulness
from poise.guard.shipped import STARTER
from poise.models.encoder import ignore


class StarterRater:
    """The shipped guard and helpfulness head behind the `ScoringRater` seam.

    Raises:
        PoiseError: their encoder can't be had.
    """

    def __init__(self) -> None:
        self.guard, self.helpfulness = TrainedGuard(STARTER), Helpfulness()
        version = f"{self.guard.version}-{self.helpfulness.version}"
        self.rater = Rater(id="starter-rater", kind="model", version=version)

    def score(self, rows: Sequence[QARow], on_rows: Callable[[int], object] = ignore) -> list[QAScore | None]:
        """Scores in the order of the rows; a row whose score is not a number is None (unjudged)."""
        harm = self.guard.score(rows, on_rows)
        helpful = self.helpfulness.score([r.prompt for r in rows], [r.response for r in rows])
        return [
            None if score is None or not math.isfinite(h) else replace(score, helpful=h)
            for score, h in zip(harm, helpful, strict=True)
        ]
