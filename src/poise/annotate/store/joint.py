"""How people and models label together: the policy, and what is drawn by it. Pure functions; nothing is stored here.

Four modes. `human_only`: nobody sees a suggestion. `ai_only`: models settle items, nobody is asked. `assist`: the
suggestion comes with the task, as PKU-SafeRLHF was labelled (arXiv 2406.15513). `blind_then_reveal`: a person answers,
then sees the suggestion and answers again. In the last two a random share of answers is given without a suggestion
(the control arm), and some suggestions on clear items are wrong on purpose (plants). In all of them a random share of
items can be audited: adjudicated whatever was answered, so that accuracy is measured on items that nobody chose.

Every draw is a hash of seed, item, rater and purpose. Nothing depends on the order in which people come.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field, model_validator

from poise.annotate.store.overlap import TIE, OverlapPolicy, Value, Vote
from poise.data.rows import Row, label_value, uniform_seed
from poise.errors import PoiseError
from poise.harm import CATEGORIES, Label

Mode = Literal["human_only", "ai_only", "assist", "blind_then_reveal"]
Arm = Literal["control", "assist", "blind"]
CONTROL_SHARE, PLANT_SHARE, AUDIT_SHARE = 0.2, 0.025, 0.1
"""What the command line takes in the modes with suggestions, and the audit share of `ai_only`."""


class JointPolicy(Row):
    """Who sees what a model suggests; kept in the store and the same for all its life.

    Args:
        mode: see the module.
        suggester: name of the model rater whose latest judgement is the suggestion; its versions count as one.
        control_share: of (item, rater) that get no suggestion.
        plant_share: of (item, rater, question) on clear items whose suggestion is wrong on purpose. Items become clear
            only when somebody has answered them, so plants are a smaller share of all suggestions.
        audit_share: of items that are adjudicated whatever was answered.
        seed: of everything that is drawn.

    Raises:
        PoiseError: a mode with suggestions has no suggester, or another mode has what it doesn't use.
    """

    mode: Mode = "human_only"
    suggester: str | None = None
    control_share: float = Field(default=0.0, ge=0, le=1)
    plant_share: float = Field(default=0.0, ge=0, le=1)
    audit_share: float = Field(default=0.0, ge=0, le=1)
    seed: int = 0

    @model_validator(mode="after")
    def _fits(self) -> JointPolicy:
        if self.suggests and not self.suggester:
            raise PoiseError(f"mode {self.mode} without a suggester", where="joint policy", do="name a model rater")
        if not self.suggests and (self.suggester or self.control_share or self.plant_share):
            raise PoiseError(
                f"mode {self.mode} shows no suggestion",
                where="joint policy",
                do="leave out suggester, control share and plant share, or choose assist or blind_then_reveal",
            )
        return self

    @property
    def suggests(self) -> bool:
        """Whether people are shown suggestions."""
        return self.mode in ("assist", "blind_then_reveal")

    def arm(self, kind: str, key: str, rater: str) -> Arm:
        """The arm of a rater on an item, in a mode with suggestions.

        Args:
            kind, key: of the item. rater: name.
        """
        if self._drawn(self.control_share, kind, key, rater, "control"):
            return "control"
        return "assist" if self.mode == "assist" else "blind"

    def plants(self, kind: str, key: str, rater: str, question: str) -> bool:
        """Whether a suggestion is replaced by a wrong one, where the item is clear (`overlap.is_clear`)."""
        return self._drawn(self.plant_share, kind, key, rater, f"plant {question}")

    def audits(self, kind: str, key: str) -> bool:
        """Whether an item is adjudicated whatever was answered."""
        return self._drawn(self.audit_share, kind, key, "audit")

    def overlap(self, policy: OverlapPolicy) -> OverlapPolicy:
        """How many people are asked: none in `ai_only`."""
        return policy.model_copy(update={"people": 0, "more": 0}) if self.mode == "ai_only" else policy

    def voting(self, votes: Sequence[Vote]) -> list[Vote]:
        """The votes that count: in `ai_only` those of models."""
        return [vote for vote in votes if self.mode != "ai_only" or vote.kind == "model"]

    def wrong(self, kind: str, key: str, question: str, value: Value) -> Value:
        """A wrong value in place of a clear one: the other side of safe and unsafe, or the other response.

        An unsafe label becomes safe; a safe one gets a category and a severity of 1 or 2 by hash. It is the same for
        every rater of the item.
        """
        drawn = uniform_seed(self.seed, kind, key, question, "wrong value")
        if question == "label":
            if value["severity"]:
                return label_value(Label.of([], 0))
            return label_value(Label.of([CATEGORIES[drawn % len(CATEGORIES)].code], 1 + drawn // 64 % 2))
        if value["choice"] == TIE:
            return {"choice": drawn % 2, "strength": 1}
        return {"choice": 1 - value["choice"], "strength": value["strength"]}

    def _drawn(self, share: float, *parts: str) -> bool:
        return uniform_seed(self.seed, "joint", *parts) < share * 2**63
