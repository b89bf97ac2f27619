"""What a run of `poise align preference` is: the head and the sections of its recipe. All defaults are here."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from poise.data.harm_part import HarmPart, harm_part

SYSTEM = "You are a helpful assistant."


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class PreferenceHead(_Part):
    """The top of a recipe.

    Args:
        name: of the run.
        seed: root of all chance.
        model: bundled name, model folder or hub id of the trunk.
        system: system message of the template; what is aligned later is asked with the same one.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)
    seed: int = Field(0, ge=0, lt=2**63)
    model: str = Field("smollm2-135m-instruct", min_length=1)
    system: str = SYSTEM


class DataPart(_Part):
    """How rows are read and shared out.

    Args:
        formats: set -> format, where neither its name nor its columns tell it.
        rows: at most so many rows of a set, whole prompts by hash; 0 takes all.
        test_share, validation_share: of the prompts, by near-duplicate cluster; rows that their source calls test
            are test. The threshold is chosen on validation, the report is about test.
        max_prompt_tokens: with the template; a longer prompt is cut at its start.
        max_response_tokens: a longer response is cut at its end.
    """

    formats: dict[str, str] = Field(default_factory=dict)
    rows: int = Field(0, ge=0)
    test_share: float = Field(0.15, gt=0, lt=0.9)
    validation_share: float = Field(0.1, gt=0, lt=0.9)
    max_prompt_tokens: int = Field(128, ge=8)
    max_response_tokens: int = Field(128, ge=4)


class RewardPart(_Part):
    """The reward model. Args: sets, whose choices are about help; margin and centering, see `losses.reward_loss`."""

    sets: tuple[str, ...] = Field(min_length=1)
    margin: float = Field(0.0, ge=0)
    centering: float = Field(0.0, ge=0)


class CostPart(_Part):
    """The cost model.

    Args:
        sets: whose choices and labels are about harm.
        categories: codes or names; "unsafe" is harm in one of them. None given: any harm.
        severity_at_least: "unsafe" is harm of at least this severity.
        classification_only, severity_margin, severity_weight: see `training.PreferenceTraining`.
    """

    sets: tuple[str, ...] = Field(min_length=1)
    categories: tuple[str, ...] | None = Field(None, min_length=1)
    severity_at_least: Literal["minor", "moderate", "severe"] | None = None
    classification_only: bool = False
    severity_margin: float = Field(0.0, ge=0)
    severity_weight: float = Field(0.0, ge=0)

    @field_validator("categories")
    @classmethod
    def _known(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        return value and tuple(category.code for category in sorted(harm_part(value).categories, key=lambda c: c.index))

    @property
    def part(self) -> HarmPart:
        """What it speaks of."""
        return harm_part(self.categories or (), self.severity_at_least)


class TrainingPart(_Part):
    """The loop.

    Args:
        shared_adapter: one adapter with both heads, in one pass; else an adapter for each.
        adapted_layers: upper layers with adapters; 0 adapts all.
        rank: of the adapters, their scaling is 2.
        epochs, prompts_per_step, learning_rate, regularization: see `training.PreferenceTraining`.
        max_tokens: of a packed batch, bounds its memory.
        checkpoint_every: steps between checkpoints.
    """

    shared_adapter: bool = False
    adapted_layers: int = Field(6, ge=0)
    rank: int = Field(8, ge=1)
    epochs: int = Field(1, ge=1)
    prompts_per_step: int = Field(8, ge=1)
    learning_rate: float = Field(5e-4, gt=0)
    regularization: float = Field(0.001, ge=0)
    max_tokens: int = Field(4096, ge=64)
    checkpoint_every: int = Field(20, ge=1)


class ThresholdPart(_Part):
    """The limit of the mean cost, chosen on validation responses: one of the two rules of `threshold`.

    Args:
        safe_quantile: the cost that this share of the safe responses does not exceed.
        violation_rate: the mean cost of a mixture with this share of unsafe responses.
    """

    safe_quantile: float | None = Field(None, ge=0, le=1)
    violation_rate: float | None = Field(None, ge=0, le=1)

    @model_validator(mode="after")
    def _one_rule(self) -> Self:
        if self.safe_quantile is not None and self.violation_rate is not None:
            raise ValueError("give safe_quantile or violation_rate, not both")
        return self


class PreferenceRecipe(_Part):
    """All of it."""

    head: PreferenceHead
    data: DataPart = DataPart()
    reward: RewardPart
    cost: CostPart
    training: TrainingPart = TrainingPart()
    threshold: ThresholdPart = ThresholdPart()


SECTIONS: dict[str, type[BaseModel]] = {
    "data": DataPart,
    "reward": RewardPart,
    "cost": CostPart,
    "training": TrainingPart,
    "threshold": ThresholdPart,
}
"""Section of the file -> its model."""
