"""How often hidden checks are served, when a known answer is doubted, and what is expected of a person."""

from __future__ import annotations

from pydantic import Field, model_validator

from poise.data.rows import Row


class QualityPolicy(Row):
    """Kept in the store; it may change, and holds from then on.

    Args:
        gold_rate, repeat_rate, swap_rate: shares of a person's tasks that are an item with a known answer, an item that
            the person has answered before, a pair that the person has answered before with its sides swapped.
        repeat_after: other items a person has answered before one comes again.
        cap: people to whom a gold item is given at most; then it rests.
        good_answers, good_accuracy: a good rater has answered so many other gold items, this share of them exactly.
        doubters: good raters who must have answered a gold item before their majority sends it to review; with 5 who
            are wrong one time in ten, one right key in a hundred is reviewed for nothing, with 3 it is three.
        accuracy_goal: share of exact gold answers below which a report suggests training.
        seed: of everything that is drawn.
    """

    gold_rate: float = Field(default=0.0, ge=0, le=0.5)
    repeat_rate: float = Field(default=0.0, ge=0, le=0.5)
    swap_rate: float = Field(default=0.0, ge=0, le=0.5)
    repeat_after: int = Field(default=200, ge=1)
    cap: int = Field(default=50, ge=1)
    good_answers: int = Field(default=10, ge=1)
    good_accuracy: float = Field(default=0.8, ge=0, le=1)
    doubters: int = Field(default=5, ge=1)
    accuracy_goal: float = Field(default=0.8, ge=0, le=1)
    seed: int = 0

    @property
    def serves(self) -> bool:
        """Whether anything is served."""
        return self.gold_rate + self.repeat_rate + self.swap_rate > 0

    @model_validator(mode="after")
    def _mostly_work(self) -> QualityPolicy:
        if self.gold_rate + self.repeat_rate + self.swap_rate > 0.5:
            raise ValueError("more than half of the tasks would be checks")
        return self
