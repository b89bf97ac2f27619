"""The rows that travel between stages: prompt, QA pair, pair of responses, judgement.

Rows are frozen pydantic models, so a malformed row is refused with the field's name, and a row's JSON is the same
on every machine. Response ids are 0 and 1 everywhere; adapters translate other conventions.
"""

from __future__ import annotations

import hashlib
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from poise.harm import Category, Label, Severity

Split = Literal["train", "test"]
ResponseId = Literal[0, 1]


class Row(BaseModel):
    """Base of all rows: frozen, no unknown field."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, `None` fields kept, in field order."""
        return self.model_dump(mode="json")


class Sampling(Row):
    """How a text was sampled from a language model."""

    temperature: float = 1.0
    top_p: float = 1.0
    max_new_tokens: int = 48
    seed: int = 0


class Provenance(Row):
    """Where a text comes from.

    Args:
        source: model name, "poise-seeds", or the name of an imported data set.
        persona: name of the system message used, if any.
        sampling: parameters, when a model wrote the text.
        parents: ids of the rows it was made from (few-shot seeds, a rephrased prompt).
        policy: version of the written policy that guided it.
        licence: SPDX id or the words of the source.
    """

    source: str
    persona: str | None = None
    sampling: Sampling | None = None
    parents: tuple[str, ...] = ()
    policy: str | None = None
    licence: str | None = None


class PromptRow(Row):
    """A prompt and the cell of the category x severity grid it was written for.

    `kind` is what the writer intended: "harmful", "lookalike" (harmless, shares words with a harm), "ordinary".
    """

    id: str
    prompt: str = Field(min_length=1)
    kind: Literal["harmful", "lookalike", "ordinary", "unknown"] = "unknown"
    category: str | None = None
    severity: int = Field(default=0, ge=0, le=3)
    split: Split = "train"
    provenance: Provenance

    @field_validator("category")
    @classmethod
    def _known(cls, value: str | None) -> str | None:
        return None if value is None else Category.parse(value).code


class QARow(Row):
    """A prompt and one response; labels live in `Judgement`s and are joined by `id`."""

    id: str
    prompt_id: str
    prompt: str = Field(min_length=1)
    response: str = Field(min_length=1)
    split: Split = "train"
    provenance: Provenance


class PairRow(Row):
    """Two responses to one prompt, by QA id; rankings live in `Judgement`s."""

    id: str
    prompt_id: str
    qa_0: str
    qa_1: str
    split: Split = "train"


class Rater(Row):
    """Who judged. People, models, rules and imports are equal: all write the same `Judgement` row."""

    id: str
    kind: Literal["person", "model", "rule", "import"]
    version: str = ""


class Judgement(Row):
    """One rater's answer to one question about one item.

    `question` and the type of `value`:
        "label": {"categories": [codes], "severity": 0..3} about a QA pair;
        "safe": bool about a QA pair, from a source that knows no more;
        "better", "safer", "single": response id 0 or 1 about a pair (more helpful, less harmful, one overall choice).
    `probability` is the rater's own, where it has one: of unsafe for "label" and "safe", otherwise of the chosen
    response.
    `value` None means unjudged (a parse error, a time-out, a missing score); it never means safe.
    """

    item: str
    question: Literal["label", "safe", "better", "safer", "single"]
    value: Any
    rater: str
    probability: float | None = Field(default=None, ge=0, le=1)
    reason: str | None = None
    policy: str | None = None

    def label(self) -> Label:
        """The `Label` of a "label" judgement.

        Raises:
            ValueError: unjudged, another question, or a label that breaks `safe <=> severity 0 <=> no category`.
        """
        if self.question != "label" or self.value is None:
            raise ValueError(f"{self.item}: judgement {self.question!r} by {self.rater} holds no label")
        return Label.of(self.value["categories"], self.value["severity"])


def label_value(label: Label) -> dict[str, Any]:
    """The JSON value of a "label" judgement; codes in card order."""
    codes = [c.code for c in sorted(label.categories, key=lambda c: c.index)]
    return {"categories": codes, "severity": int(Severity(label.severity))}


def text_id(prefix: str, *parts: str) -> str:
    """A stable row id: prefix and 12 hex digits of SHA-256 over the parts."""
    digest = hashlib.sha256("\x1f".join(parts).encode("utf-8", "surrogatepass")).hexdigest()
    return f"{prefix}-{digest[:12]}"


def uniform_seed(seed: int, *parts: str) -> int:
    """Randomness as a hash of (seed, item id, purpose): a 63-bit seed that does not depend on arrival order."""
    digest = hashlib.sha256("\x1f".join((str(seed), *parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
