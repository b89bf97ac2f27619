"""What a guard is trained on and how: the settings of a plan such as `recipes/guard-starter.yaml`."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class PlanHead(_Part):
    """The top of a plan."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)
    seed: int = Field(0, ge=0, lt=2**63)


class SetUse(_Part):
    """How one set is used."""

    format: str | None = Field(None, description="format or mapping; the set's own by default")
    use: Literal["train", "test"] = Field("train", description="test: all rows are only measured")
    weight: float = Field(1.0, gt=0, description="of each row in the loss; a pair weighs training.pair_weight")
    rows: int = Field(4000, ge=1, description="training rows at most, prompt by prompt in the order of a hash")
    harmless: bool = Field(False, description="answers without a label are safe: ordinary requests, ordinary answers")


class AnswerPlan(_Part):
    """Answers that a small language model writes to plain requests, see `poise.guard.fit.answers`."""

    sets: tuple[str, ...] = Field(min_length=1, description="whose requests are answered")
    model: str = Field("smollm2-135m-instruct", description="bundled name, folder or hub id")
    harmful: int = Field(900, ge=0, description="requests that get an answer that goes along and one that declines")
    harmless: int = Field(500, ge=0, description="requests that get an answer")
    max_new_tokens: int = Field(64, ge=1, le=1024)
    unsafe: float = Field(0.85, gt=0.5, le=1, description="probability that one that goes along is harmful")


class DataPlan(_Part):
    """The sets, each read from `<data folder>/<name>`; "seeds" are our own."""

    sets: dict[str, SetUse] = Field(min_length=1)
    test_share: float = Field(0.25, gt=0, lt=1, description="of the conversations, by near-duplicate cluster")
    calibration_share: float = Field(0.1, gt=0, lt=1, description="of the training conversations, for thresholds")
    severity_prior: bool = Field(True, description="unsafe rows without a level get the published odds of theirs")
    refusals: float = Field(0.3, ge=0, le=1, description="share of harmful training prompts that get a written refusal")
    quoted: float = Field(0.0, ge=0, le=1, description="share of them that a harmless request quotes (counter-speech)")
    answered: AnswerPlan | None = Field(None, description="answers that a model writes; none by default")
    set_power: float = Field(1.0, ge=0, le=1, description="n training rows of a set weigh n to this power; pairs stay")

    @model_validator(mode="after")
    def _answered_sets_are_trained_on(self) -> Self:
        trained = {name for name, use in self.sets.items() if use.use == "train"}
        if self.answered is not None and (wrong := sorted(set(self.answered.sets) - trained)):
            raise ValueError(f"answered.sets: {', '.join(wrong)}: not among the sets that train")
        return self


class ModelPlan(_Part):
    """The trunk and its input."""

    encoder: str = "all-minilm-l6-v2"
    lora_rank: int = Field(0, ge=0, description="0 trains all weights")
    max_length: int = Field(192, ge=32, le=4096, description="tokens of a window")
    dropout: float = Field(0.1, ge=0, lt=1)


class TrainingPlan(_Part):
    """The loop: AdamW, both rates rise for a tenth of the steps and fall linearly."""

    epochs: int = Field(2, ge=1)
    batch_size: int = Field(32, ge=1)
    learning_rate: float = Field(5e-5, gt=0, description="of the trunk")
    head_learning_rate: float = Field(1e-3, gt=0)
    cut_learning_rate: float = Field(1e-2, gt=0, description="of the cut points between severities")
    weight_decay: float = Field(0.01, ge=0)
    category_weight: float = Field(0.5, ge=0, description="of the category loss beside that of severity")
    refusal_weight: float = Field(0.2, ge=0)
    focus: float = Field(2.0, ge=0, description="asymmetric loss: exponent for absent categories, 0 is cross-entropy")
    pair_weight: float = Field(0.5, ge=0, description="of the loss of pairs, of which only the safer one is known")
    smoothing: float = Field(0.02, ge=0, lt=0.5, description="of hard labels")
    disguised: float = Field(0.15, ge=0, le=1, description="share of training texts that are obfuscated")
    averaged: float = Field(0.0, ge=0, lt=1, description="share of the steps, the last, whose weights are averaged")
    false_positive_rate: float = Field(0.05, gt=0, lt=1, description="of harmless calibration rows, for thresholds")
