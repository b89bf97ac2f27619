"""The typed rows of a data set, each of which stands alone: prompt, QA, dual pair, single pair, judgement, correction.

Adapters read a source row into records and write records as source rows; `poise.data.tables` keeps them as Arrow
columns (`poise.data.from_columns` is the way back). What a source does not tell is None, never a guess: a set that
knows only safe or unsafe gives a `PartialLabel` without categories and severity. (The rows of `poise.data.rows` refer
to each other by id; they are what a run of the pipeline works on.)

A record checks types only. Whether its values agree with each other is the business of `poise.data.rules`, because a
validator must be able to hold what it finds wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, StrictBool, StrictInt, StrictStr, field_validator

from poise.data.columns import label_columns, response_hash
from poise.data.corpus import canonical_json
from poise.data.rows import Row, Split
from poise.harm import CATEGORIES, Category
from poise.harm.taxonomy import PKU

Integer = Annotated[StrictInt, Field(ge=-(2**63), lt=2**63)]
"""What a column of integers can hold."""

Kind = Literal["harmful", "lookalike", "ordinary", "unknown"]


class Turn(Row):
    """One message of the conversation before the prompt."""

    role: Literal["system", "user", "assistant", "tool"]
    content: StrictStr


class PartialLabel(Row):
    """What a source tells about the harm of one text.

    Args:
        safe: None when it does not say.
        categories: names in `taxonomy` (for "pku-19": public names); None when it does not say, () when none applies.
        undecided: categories of "pku-19" of which nothing is known although others are, as a crosswalk leaves them.
        severity: 0..3, None when it does not say.
        taxonomy: name of the taxonomy that the categories belong to.
    """

    safe: StrictBool | None = None
    categories: tuple[StrictStr, ...] | None = None
    undecided: tuple[StrictStr, ...] = ()
    severity: Integer | None = None
    taxonomy: StrictStr = PKU

    @field_validator("categories", "undecided")
    @classmethod
    def _sorted(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        return None if value is None else tuple(sorted(set(value), key=lambda name: (_PLACE.get(name, 99), name)))

    def flags(self) -> dict[str, bool | None] | None:
        """The 19 public flags (None: undecided), or None when the categories are unknown or of another taxonomy.

        Raises:
            ValueError: a name or code that is none of the 19.
        """
        if self.categories is None or self.taxonomy != PKU:
            return None
        flags: dict[str, bool | None] = dict.fromkeys((category.value for category in CATEGORIES), False)
        flags |= {Category.parse(name).value: None for name in self.undecided}
        return flags | {Category.parse(name).value: True for name in self.categories}


_PLACE = {category.value: category.index for category in CATEGORIES}
UNKNOWN = PartialLabel()
"""Nothing is known."""


class Record(Row):
    """Base of all records: what every unit carries.

    Args:
        split: "train" or "test", None before a split.
        turns: the conversation before the prompt, oldest first.
        image: path or URI of an image that belongs to the prompt.
        language: BCP 47 code of the prompt.
        dataset: name of the data set the row was read from.
        licence: SPDX id or the words of the source.
        source_id: id of the row in its source.
        provenance: how the texts were made (persona, sampling, parents, policy), or what a format could not place.
    """

    unit: ClassVar[str]

    split: Split | None = None
    turns: tuple[Turn, ...] = ()
    image: StrictStr | None = None
    language: StrictStr | None = None
    dataset: StrictStr | None = None
    licence: StrictStr | None = None
    source_id: StrictStr | None = None
    provenance: dict[str, Any] | None = None

    def columns(self) -> dict[str, Any]:
        """The row of `poise.data.columns.TABLES[unit]`."""
        return {
            "split": self.split,
            "turns": [{"role": t.role, "content": t.content} for t in self.turns] or None,
            "image": self.image,
            "language": self.language,
            "dataset": self.dataset,
            "licence": self.licence,
            "source_id": self.source_id,
            "provenance": None if self.provenance is None else canonical_json(self.provenance),
        }

    def _hash(self, prompt: str, response: str) -> str:
        return response_hash(prompt, response, [(t.role, t.content) for t in self.turns], self.image)


class PromptRecord(Record):
    """A prompt, the cell of category x severity it was written for, and how it was itself judged, if it was."""

    unit: ClassVar[str] = "prompt"

    prompt: StrictStr
    source: StrictStr | None = None
    kind: Kind = "unknown"
    category: StrictStr | None = None
    severity: Integer = 0
    label: PartialLabel = UNKNOWN

    def columns(self) -> dict[str, Any]:
        """See `Record.columns`."""
        return super().columns() | {
            "prompt": self.prompt,
            "prompt_source": self.source,
            "kind": self.kind,
            "category": self.category,
            "severity": self.severity,
            "is_safe": self.label.safe,
            "taxonomy": None if self.label.categories is None else self.label.taxonomy,
            "categories": self.label.categories,
        }


class QARecord(Record):
    """A prompt, one response and what is known of its harm. `sha256` is what the source says; None: computed."""

    unit: ClassVar[str] = "qa"

    prompt: StrictStr
    response: StrictStr
    prompt_source: StrictStr | None = None
    response_source: StrictStr | None = None
    label: PartialLabel = UNKNOWN
    sha256: StrictStr | None = None

    @property
    def item(self) -> str:
        """The hash that judgements name this row by."""
        return self.sha256 or self._hash(self.prompt, self.response)

    def columns(self) -> dict[str, Any]:
        """See `Record.columns`."""
        return super().columns() | {
            "prompt": self.prompt,
            "response": self.response,
            "prompt_source": self.prompt_source,
            "response_source": self.response_source,
            "sha256": self.item,
            **_label_values("qa", "response", self.label),
            **_foreign({"categories": self.label}),
        }


class SingleRecord(Record):
    """Two responses to one prompt and the one that is better overall (response id 0 or 1; None: unjudged or a tie)."""

    unit: ClassVar[str] = "single-dimension"

    prompt: StrictStr
    responses: tuple[StrictStr, StrictStr]
    prompt_source: StrictStr | None = None
    response_sources: tuple[StrictStr | None, StrictStr | None] = (None, None)
    better: Integer | None = None
    hashes: tuple[StrictStr | None, StrictStr | None] = (None, None)

    @property
    def items(self) -> tuple[str, str]:
        """The hashes that judgements name this row by."""
        first, second = (
            given or self._hash(self.prompt, text) for given, text in zip(self.hashes, self.responses, strict=True)
        )
        return first, second

    def columns(self) -> dict[str, Any]:
        """See `Record.columns`."""
        row = super().columns() | {"prompt": self.prompt, "prompt_source": self.prompt_source}
        for i, sha256 in enumerate(self.items):
            row[f"response_{i}"] = self.responses[i]
            row[f"response_{i}_source"] = self.response_sources[i]
            row[f"response_{i}_sha256"] = sha256
        return row | {"better_response_id": self.better}


class DualRecord(SingleRecord):
    """Two responses, their harm, the more helpful one (`better`) and the less harmful one (`safer`), judged apart."""

    unit: ClassVar[str] = "default"

    labels: tuple[PartialLabel, PartialLabel] = (UNKNOWN, UNKNOWN)
    safer: Integer | None = None

    def columns(self) -> dict[str, Any]:
        """See `Record.columns`."""
        row = super().columns() | {"safer_response_id": self.safer}
        for i, label in enumerate(self.labels):
            row |= _label_values("default", f"response_{i}", label)
        return row | _foreign({f"response_{i}_categories": label for i, label in enumerate(self.labels)})


class JudgementRecord(Record):
    """One rater's answer to one question about a response or a pair.

    Args:
        item: id of what was judged; for rows read from files the hash of the response, or both hashes joined by ":".
        question: "label", "safe", "better", "safer", "single" as in `poise.data.rows.Judgement`, or a source's own
            ("severity", "refusal", "harmless-rate", ...).
        value: JSON value; a label is {"categories": [...], "severity": n, "safe": b, "taxonomy": t} with what is known.
            None means unjudged, never safe.
        probability: the rater's own, of unsafe or of the chosen response.
        round: counts a rater's answers to one question about one item, from 0.
        responses: hashes of the response, or of both.
    """

    unit: ClassVar[str] = "judgements"

    item: StrictStr
    question: StrictStr
    value: Any = None
    rater: StrictStr
    rater_kind: Literal["person", "model", "rule", "import"] = "import"
    rater_version: StrictStr = ""
    probability: float | None = None
    round: Integer = 0
    policy: StrictStr | None = None
    responses: tuple[StrictStr] | tuple[StrictStr, StrictStr]

    def columns(self) -> dict[str, Any]:
        """See `Record.columns`."""
        return super().columns() | {
            "item": self.item,
            "question": self.question,
            "value": None if self.value is None else canonical_json(self.value),
            "probability": self.probability,
            "rater": self.rater,
            "rater_kind": self.rater_kind,
            "rater_version": self.rater_version,
            "round": self.round,
            "policy": self.policy,
            "response_0_sha256": self.responses[0],
            "response_1_sha256": self.responses[1] if len(self.responses) > 1 else None,
        }


class CorrectionRecord(Record):
    """A question, an answer and a better answer (Aligner)."""

    unit: ClassVar[str] = "corrections"

    question: StrictStr
    answer: StrictStr
    correction: StrictStr
    question_source: StrictStr | None = None
    answer_source: StrictStr | None = None
    correction_source: StrictStr | None = None

    def columns(self) -> dict[str, Any]:
        """See `Record.columns`."""
        names = ("question", "answer", "correction", "question_source", "answer_source", "correction_source")
        row = super().columns() | {name: getattr(self, name) for name in names}
        row["answer_sha256"] = self._hash(self.question, self.answer)
        return row | {"correction_sha256": self._hash(self.question, self.correction)}


def _label_values(unit: str, response: str, label: PartialLabel) -> dict[str, Any]:
    safe, flags, severity = label_columns(unit, response) or ("", "", "")
    return {safe: label.safe, flags: label.flags(), severity: label.severity}


def _foreign(labels: Mapping[str, PartialLabel]) -> dict[str, Any]:
    """Columns of labels in another taxonomy; both responses of a pair are labelled in one."""
    other = {label.taxonomy for label in labels.values() if label.categories is not None} - {PKU}
    names = {c: label.categories if label.taxonomy != PKU else None for c, label in labels.items()}
    return {"taxonomy": next(iter(other), None), **names}
