"""The named rules of a row, each a check over a whole batch of rows at once.

A rule gets a `View` of a batch with the columns of `poise.data.columns.TABLES` and gives a boolean mask of the rows
that break it. What a row does not tell (null) breaks no rule, except in a release, where `field-type` asks for it. No
reason quotes a text.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from poise.data.columns import OPTIONAL, RESPONSES, SCHEMAS, hash_column, label_columns, prompt_column, response_hash
from poise.harm import CATEGORIES
from poise.harm.taxonomy import load_taxonomy, taxonomy_names

Mask = NDArray[np.bool_]
Level = Literal["error", "warning"]


class Rule(NamedTuple):
    """What a rule demands, and whether breaking it makes data invalid or is only worth knowing."""

    demands: str
    level: Level = "error"


RULES: dict[str, Rule] = {
    "field-type": Rule("every column is there, has its type, and in a release a value"),
    "encoding": Rule("every text is valid UTF-8"),
    "empty-text": Rule("no prompt and no response is blank"),
    "id-range": Rule("response ids are 0 or 1, severity is 0..3"),
    "unknown-category": Rule("every harm category belongs to its taxonomy"),
    "safe-severity-category": Rule("safe <=> severity 0 <=> no category"),
    "logical-order": Rule("if exactly one response of a pair is safe, it is the safer one"),
    "response-hash": Rule("the hash is the SHA-256 of prompt + response"),
    "duplicate-row": Rule("no row comes twice in a unit; the two responses of a pair may stand in either order"),
    "split-leak": Rule("no test prompt is a near-duplicate of a train prompt"),
    "manifest": Rule("every file is the one that the manifest names"),
    "label-conflict": Rule("one response has one safe flag and one severity wherever it stands", "warning"),
    "judgement-target": Rule("a judgement is about responses that stand in the data", "warning"),
}
"""Rule name -> what it demands."""


class View:
    """A batch with what several rules need, computed once.

    `given` is the batch as it came; in `batch`, which the rules look at, a row with a text that is not valid UTF-8
    (`unreadable`) is null in every column.

    Args:
        batch: N rows with the columns of `TABLES[unit]`.
        strict: hold rows to what a release needs.
    """

    def __init__(self, unit: str, batch: pa.RecordBatch, strict: bool = False) -> None:
        self.unit, self.given, self.strict = unit, batch, strict
        self.nothing: Mask = np.zeros(batch.num_rows, dtype=np.bool_)
        self.unreadable = unreadable(batch)
        rows = pa.array(np.arange(batch.num_rows), mask=self.unreadable)
        self.batch = batch.take(rows) if self.unreadable.any() else batch

    def column(self, name: str) -> pa.Array:
        """One column."""
        return self.batch.column(name)

    def flag(self, name: str) -> tuple[Mask, Mask]:
        """(true, known) of a boolean column."""
        column = self.column(name)
        return _numpy(pc.fill_null(column, False)), ~_numpy(column.is_null())

    def number(self, name: str) -> tuple[NDArray[np.int64], Mask]:
        """(value, known) of an integer column; unknown values read 0."""
        column = self.column(name)
        return pc.fill_null(column, 0).to_numpy(zero_copy_only=False), ~_numpy(column.is_null())

    @cached_property
    def hashes(self) -> dict[str, list[str]]:
        """Response column -> the hash that each row should have."""
        prompts = self.column(prompt_column(self.unit) or "").to_pylist()
        turns, images = self.column("turns"), self.column("image")
        plain = turns.null_count == len(turns) and images.null_count == len(images)
        found = {}
        for response in RESPONSES[self.unit]:
            texts = self.column(response).to_pylist()
            if plain:
                found[response] = [
                    hashlib.sha256(f"{p or ''}{t or ''}".encode()).hexdigest()
                    for p, t in zip(prompts, texts, strict=True)
                ]
            else:
                said = ([(t["role"], t["content"]) for t in turn or ()] for turn in turns.to_pylist())
                found[response] = [
                    response_hash(p or "", t or "", before, image)
                    for p, t, before, image in zip(prompts, texts, said, images.to_pylist(), strict=True)
                ]
        return found

    @cached_property
    def labels(self) -> list[_Labels]:
        """What is known of the harm of each response; empty where the unit has no labels."""
        return [_Labels.of(self, response) for response in RESPONSES[self.unit] if label_columns(self.unit, response)]


class _Labels(NamedTuple):
    """Three facts about one response of N rows, each with a mask of where it is known.

    `harmful` is True with at least one category of any taxonomy; `listed` where all 19 of ours are known, so that none
    means safe: another taxonomy may have no word for a harm. A severity out of range tells nothing.
    """

    safe: Mask
    safe_known: Mask
    severity: NDArray[np.int64]
    severity_known: Mask
    harmful: Mask
    listed: Mask

    @classmethod
    def of(cls, view: View, response: str) -> _Labels:
        safe, flags, severity = label_columns(view.unit, response) or ("", "", "")
        struct = view.column(flags)
        known = ~_numpy(struct.is_null())
        named = view.column("categories" if view.unit == "qa" else f"{response}_categories")
        harmful, listed = _numpy(pc.fill_null(pc.greater(pc.list_value_length(named), 0), False)), known.copy()
        for index in range(len(CATEGORIES)):
            flag = struct.field(index)
            harmful = harmful | _numpy(pc.fill_null(flag, False)) & known
            listed &= ~_numpy(flag.is_null())
        level, told = view.number(severity)
        return cls(*view.flag(safe), level, told & (level >= 0) & (level <= 3), harmful, listed)

    @property
    def torn(self) -> Mask:
        """Where two known facts contradict each other."""
        harmless = self.severity == 0
        none = self.listed & ~self.harmful
        torn: Mask = (
            (self.safe_known & self.severity_known & (self.safe != harmless))
            | (self.harmful & ((self.safe_known & self.safe) | (self.severity_known & harmless)))
            | (none & ((self.safe_known & ~self.safe) | (self.severity_known & ~harmless)))
        )
        return torn


def _numpy(column: pa.Array) -> Mask:
    mask: Mask = column.to_numpy(zero_copy_only=False).astype(np.bool_, copy=False)
    return mask


def _field_type(view: View) -> Mask:
    """Null where a release needs a value; at rest a text is needed in any case."""
    needed = [prompt_column(view.unit), *RESPONSES[view.unit]]
    if view.strict:
        needed = [name for name in SCHEMAS[view.unit].names if name not in OPTIONAL[view.unit]]
    elif view.unit == "judgements":
        needed = ["item", "question", "rater"]
    broken = view.nothing.copy()
    for name in needed:
        broken |= _numpy(view.column(name or "").is_null())
    if view.strict:
        for label in view.labels:
            broken |= ~label.listed & label.safe_known if view.unit != "pairs-extended" else view.nothing
    return broken


def unreadable(batch: pa.RecordBatch) -> Mask:
    """Rows with a text, on whatever level, that is not valid UTF-8: shape (N,).

    Arrow holds any bytes in a text column; a batch is looked at row by row only where one is bad.
    """
    broken: Mask = np.zeros(batch.num_rows, dtype=np.bool_)
    for column in batch.columns:
        try:
            column.validate(full=True)
        except pa.ArrowInvalid:
            for row, value in enumerate(column):
                try:
                    value.as_py()
                except UnicodeDecodeError:
                    broken[row] = True
    return broken


def _empty_text(view: View) -> Mask:
    broken = view.nothing.copy()
    for name in [prompt_column(view.unit), *RESPONSES[view.unit]]:
        if name:
            blank = pc.equal(pc.utf8_length(pc.utf8_trim_whitespace(view.column(name))), 0)
            broken |= _numpy(pc.fill_null(blank, False))
    return broken


def _id_range(view: View) -> Mask:
    broken = view.nothing.copy()
    for name in view.batch.schema.names:
        top = 1 if name.endswith("_response_id") else 3 if name in ("severity", "severity_level") else None
        if top is None and name.endswith("_severity_level"):
            top = 3
        if top is not None:
            value, known = view.number(name)
            broken |= known & ((value < 0) | (value > top))
    if view.unit == "judgements":
        value, known = view.number("round")
        chance = pc.fill_null(view.column("probability"), 0.0).to_numpy(zero_copy_only=False)
        broken |= (known & (value < 0)) | ~((chance >= 0) & (chance <= 1))
    return broken


_OURS = frozenset(spelling for category in CATEGORIES for spelling in (category.value, category.code))


def _unknown_category(view: View) -> Mask:
    broken = view.nothing.copy()
    names = view.batch.schema.names
    if "category" in names and view.unit == "prompt":
        column = view.column("category")
        broken |= _numpy(pc.is_valid(column)) & ~_numpy(pc.is_in(column, pa.array(sorted(_OURS))))
    for name in names:
        column = view.column(name)
        if (name == "categories" or name.endswith("_categories")) and column.null_count < len(column):
            pairs = zip(view.column("taxonomy").to_pylist(), column.to_pylist(), strict=True)
            broken |= np.array([not _belongs(taxonomy, categories) for taxonomy, categories in pairs])
    return broken


def _belongs(taxonomy: str | None, categories: list[str] | None) -> bool:
    if not categories:
        return True
    if taxonomy is None:
        return False
    if taxonomy not in taxonomy_names():
        return True  # the user's own
    return set(categories) <= set(load_taxonomy(taxonomy).keys)


def _label_agrees(view: View) -> Mask:
    """Any two known facts that contradict each other."""
    broken = view.nothing.copy()
    for label in view.labels:
        broken |= label.torn
    return broken


def _logical_order(view: View) -> Mask:
    if "safer_response_id" not in view.batch.schema.names:
        return view.nothing
    first, second = view.labels
    safer, judged = view.number("safer_response_id")
    one_safe = first.safe_known & second.safe_known & (first.safe != second.safe) & ~first.torn & ~second.torn
    wrong: Mask = one_safe & judged & (safer != np.where(first.safe, 0, 1))
    return wrong


def _hashes(view: View) -> Mask:
    broken = view.nothing.copy()
    for response, wanted in view.hashes.items() if RESPONSES[view.unit] else ():
        same = pc.equal(view.column(hash_column(view.unit, response)), pa.array(wanted, type=pa.string()))
        told = pc.and_(view.column(prompt_column(view.unit) or "").is_valid(), view.column(response).is_valid())
        broken |= ~_numpy(pc.fill_null(same, True)) & _numpy(told)
    return broken


CHECKS: Mapping[str, Callable[[View], Mask]] = {
    "encoding": lambda view: view.unreadable,
    "field-type": _field_type,
    "empty-text": _empty_text,
    "id-range": _id_range,
    "unknown-category": _unknown_category,
    "safe-severity-category": _label_agrees,
    "logical-order": _logical_order,
    "response-hash": _hashes,
}
"""Rules that look at one row at a time. A row that breaks `encoding` is asked no further."""


def broken_rows(view: View) -> dict[str, Mask]:
    """Rule -> rows that break it, for the rules of `CHECKS` that any row breaks."""
    found: dict[str, Mask] = {}
    for rule, check in CHECKS.items():
        mask = check(view) if rule == "encoding" else check(view) & ~view.unreadable
        if mask.any():
            found[rule] = mask
    return found
