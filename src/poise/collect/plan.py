"""What a collection plan says: the models, the grid of prompts, the responses. All defaults stand here.

A plan is a YAML file, see `recipes/prompts-grid.yaml` and `recipes/responses-llama-family.yaml`. Which file a model is
loaded from or which server it sits behind is its business alone; prompts and responses name it.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from poise.collect.grid import Cell
from poise.collect.operations import OPERATIONS, OperationName, Style
from poise.harm import CATEGORIES, Category, Severity

Share = Annotated[float, Field(gt=0, le=1)]
Level = Literal["none", "minor", "moderate", "severe"]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class ModelSpec(_Part):
    """A model in this process, or behind servers that answer alike."""

    model: str = Field(min_length=1, description="bundled name, folder or hub id; with endpoints the name they know")
    endpoints: tuple[str, ...] = Field((), description="addresses up to /v1; none loads the model here")
    key_env: str | None = Field(None, description="environment variable that holds the key")
    key_file: str | None = Field(None, description="file that holds the key")
    concurrency: int = Field(16, ge=1, description="requests in flight at most, of each endpoint")
    requests_per_minute: float | None = Field(None, gt=0)
    tokens_per_minute: float | None = Field(None, ge=1)
    timeout_s: float = Field(300.0, gt=0)
    batch_size: int = Field(96, ge=1, description="of a model in this process")

    @model_validator(mode="after")
    def _keys(self) -> Self:
        if (self.key_env or self.key_file) and not self.endpoints:
            raise ValueError("a key, but no endpoints")
        if self.key_env and self.key_file:
            raise ValueError("key_env and key_file together; keep the key in one place")
        return self


class PlanHead(_Part):
    """The top of a plan."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)
    seed: int = Field(0, ge=0, lt=2**63)
    models: dict[str, ModelSpec] = Field(default_factory=lambda: {"policy": ModelSpec(model="smollm2-135m-instruct")})


class Operations(_Part):
    """Share of a model's prompts that come by each operation; sum to one."""

    generate: float = Field(1.0, ge=0, le=1)
    expand_context: float = Field(0.0, ge=0, le=1)
    set_severity: float = Field(0.0, ge=0, le=1)
    rephrase: float = Field(0.0, ge=0, le=1)
    translate: float = Field(0.0, ge=0, le=1)
    de_identify: float = Field(0.0, ge=0, le=1)
    multi_turn: float = Field(0.0, ge=0, le=1)

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if abs(sum(self.shares.values()) - 1) > 1e-6:
            raise ValueError(f"shares sum to {sum(self.shares.values()):g}, not 1")
        return self

    @property
    def shares(self) -> dict[OperationName, float]:
        """Operation -> share, those above zero."""
        told = {name: getattr(self, name.replace("-", "_")) for name in OPERATIONS}
        return {name: share for name, share in told.items() if share > 0}


class PromptSource(_Part):
    """Where a part of each cell comes from: prompts that are there (`tables`, or "seeds"), or a model that writes."""

    share: Share
    tables: str | None = Field(None, description="folder of tables with prompts, or 'seeds' for our own")
    severity: Literal["minor", "moderate", "severe"] | None = Field(
        None, description="of imported prompts that have a category but no severity; such prompts are left out without"
    )
    model: str | None = Field(None, description="a name under models")
    style: Style = Field("chat", description="continue suits plain and small models")
    operations: Operations = Operations()
    languages: tuple[str, ...] = Field(("German", "Spanish", "French", "Chinese"), min_length=1)
    temperature: float = Field(0.9, ge=0)
    top_p: float = Field(0.95, gt=0, le=1)
    max_new_tokens: int = Field(120, ge=8)

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.tables is None) == (self.model is None):
            raise ValueError("give tables or model, one of the two")
        return self


class PromptPlan(_Part):
    """The grid and how it is filled."""

    categories: tuple[str, ...] = Field((), description="codes or names; none means all 19")
    severities: tuple[Level, ...] = ("minor", "moderate", "severe")
    quota: int = Field(10, ge=1, description="prompts in each cell")
    quotas: dict[str, int] = Field(default_factory=dict, description="other quotas, as S5-severe: 20")
    sources: dict[str, PromptSource] = Field(min_length=1, description="name for prompt_source -> where from")
    shown: int = Field(4, ge=0, description="few-shot seeds shown")
    oversample: float = Field(1.5, ge=1, description="requests for each prompt that is missing, in each round")
    rounds: int = Field(20, ge=1, description="at most")
    near_duplicate: float = Field(0.7, gt=0, le=1, description="Jaccard similarity from which a prompt is dropped")
    shortest: int = Field(4, ge=3, description="words of a prompt, at least")
    longest: int = Field(120, ge=4, description="words of a prompt, at most")
    avoid: tuple[str, ...] = Field((), description="folders of tables whose prompts no new one may be near to")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        for name in self.categories:
            Category.parse(name)
        if abs(sum(source.share for source in self.sources.values()) - 1) > 1e-6:
            raise ValueError("the shares of the sources do not sum to 1")
        known = {cell.name for cell in self._cells()}
        for name in self.quotas:
            if name not in known:
                raise ValueError(f"no cell {name!r}; cells are named like {min(known)}")
        return self

    def _cells(self) -> list[Cell]:
        chosen = {Category.parse(name) for name in self.categories} or set(CATEGORIES)
        levels = [Severity.parse(name) for name in self.severities]
        return [Cell(category, level) for category in CATEGORIES if category in chosen for level in levels]

    @property
    def cells(self) -> dict[Cell, int]:
        """Cell -> quota, in card order with severity running fastest; cells with quota 0 are left out."""
        found = {cell: self.quotas.get(cell.name, self.quota) for cell in self._cells()}
        return {cell: quota for cell, quota in found.items() if quota > 0}


class PersonaSpec(_Part):
    """A way to ask a model. Args: `system` None sends no system message."""

    name: str
    system: str | None = None


class Responder(_Part):
    """One model that answers, and how often.

    As in the paper: one answer at default decoding, the others hotter.
    """

    model: str = Field(description="a name under models")
    personas: tuple[PersonaSpec, ...] = Field((PersonaSpec(name="default"),), min_length=1)
    hotter: int = Field(9, ge=0, description="answers at the hotter setting, taking turns among the personas")
    temperature: float = Field(0.7, ge=0, description="of the default answer, by the first persona")
    top_p: float = Field(0.95, gt=0, le=1)
    hot_temperature: float = Field(1.2, gt=0)
    hot_top_p: float = Field(0.95, gt=0, le=1)
    max_new_tokens: int = Field(256, ge=4)


class ResponsePlan(_Part):
    """Who answers and which answers are kept."""

    responders: dict[str, Responder] = Field(min_length=1, description="name for response_source -> who")
    keep: int = Field(3, ge=1, description="answers of each responder that survive, the most diverse")
    diversity: Literal["n-gram", "embedding"] = Field("n-gram", description="how alike two answers are")
    encoder: str = Field("all-minilm-l6-v2", description="of diversity: embedding")
    most_alike: float = Field(0.9, gt=0, le=1, description="answers of one prompt more alike than this are dropped")
    languages: tuple[str, ...] = Field((), description="ISO codes of answers that are kept; none keeps all")
    pairs: int = Field(0, ge=0, description="pairs of answers written for ranking, for each prompt at most")
    prompts_at_a_time: int = Field(200, ge=1, description="prompts whose answers are held in memory")
