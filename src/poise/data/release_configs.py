"""What goes into each config of a release, what is left out and why, a batch at a time.

A row is in the config of its unit when every column that the config needs has a value. A dual pair that is judged in
part goes into `pairs-extended` instead. What a person may have typed, the words that answer a source's own question, is
left out of the judgements. Facts that tell where a text comes from never keep a row out: they read "not recorded".
"""

from __future__ import annotations

from collections import Counter
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from poise.data.columns import OPTIONAL, RESPONSES, SCHEMAS, TABLES, hash_column, label_columns

NOT_RECORDED = "not recorded"
NO_LABEL = "a response has no label"
ONLY_SAFE = "only safe or unsafe is known of a response"
SAME_PAIR = "the pair came before"
CONTRADICT = "a pair judged in part, labels and ranking contradict each other"
FREE_TEXT = "words of a person"

_ASKED = pa.array(["label", "safe", "better", "safer", "single"])
_WORDS = r'(?s)^\s*("|\[.*")'
"""JSON of a text, or of a list that holds one."""

_FILL: dict[str, Any] = {
    "split": "train",
    "kind": "unknown",
    "severity": 0,
    "rater_kind": "import",
    "rater_version": "",
    "round": 0,
}


class Sorted(NamedTuple):
    """A batch sorted out: rows for the config, rows for `pairs-extended`, and config -> reason -> rows left out."""

    complete: pa.RecordBatch
    extended: pa.RecordBatch | None
    left_out: dict[str, Counter[str]]


def release_schema(unit: str) -> pa.Schema:
    """The public columns of a unit, those that a release has where they hold something, and the split."""
    return pa.schema([field for field in TABLES[unit] if field.name not in ("source_id", "provenance")])


def not_judged(unit: str, column: str) -> str:
    """The reason for which a pair without this ranking is left out of the config of its unit."""
    question = "single" if unit == "single-dimension" else column.partition("_")[0]
    return f"{question} is not judged"


def sort_out(unit: str, batch: pa.RecordBatch) -> Sorted:
    """Decide for each row of `TABLES[unit]` where it goes; the results have the columns of `release_schema`."""
    why = _reasons(unit, batch)
    columns = [_filled(batch.column(name), name) for name in release_schema(unit).names]
    batch = pa.RecordBatch.from_arrays(columns, schema=release_schema(unit))
    left_out = {unit: Counter({entry["values"]: entry["counts"] for entry in pc.value_counts(why).to_pylist()})}
    del left_out[unit][None]
    if why.null_count == len(why):
        return Sorted(batch, None, left_out)
    extended = None
    if unit == "default":
        extended, contradict = _extended(batch.filter(why.is_valid()))
        left_out["pairs-extended"] = Counter({CONTRADICT: contradict} if contradict else {})
    return Sorted(batch.filter(why.is_null()), extended, left_out)


def _filled(column: pa.Array, name: str) -> pa.Array:
    value = NOT_RECORDED if name.endswith("_source") else _FILL.get(name)
    return column if value is None or not column.null_count else pc.fill_null(column, value)


def _reasons(unit: str, batch: pa.RecordBatch) -> pa.Array:
    """Why each row is not in the config of its unit: the first thing it lacks, null where it lacks nothing."""
    cases: list[tuple[pa.Array, str]] = []
    needed = [name for name in SCHEMAS[unit].names if name not in OPTIONAL[unit] | set(_FILL)]
    for response in RESPONSES[unit]:
        names = label_columns(unit, response)
        if names and names[0] in needed:
            needed = [name for name in needed if name not in names]
            safe, flags, severity = (batch.column(name).is_valid() for name in names)
            more = pc.or_(flags, severity)
            cases += [
                (pc.invert(pc.or_(safe, more)), NO_LABEL),
                (pc.invert(more), ONLY_SAFE),
                (pc.invert(pc.and_(safe, pc.and_(flags, severity))), "a response is labelled in part"),
            ]
    for name in needed:
        if not name.endswith("_source"):
            reason = not_judged(unit, name) if name.endswith("_response_id") else f"no {name}"
            cases.append((batch.column(name).is_null(), reason))
    if unit == "judgements":
        cases.append((_free_text(batch), FREE_TEXT))
    masks = pc.make_struct(*(mask for mask, _ in cases), field_names=[str(number) for number in range(len(cases))])
    return pc.case_when(masks, *(pa.scalar(reason) for _, reason in cases))


def _free_text(batch: pa.RecordBatch) -> pa.Array:
    """Whether a judgement is a text, or a list with texts, that a person answered a question of their own tool with."""
    person = pc.equal(batch.column("rater_kind"), "person")
    own = pc.invert(pc.is_in(batch.column("question"), value_set=_ASKED))
    words = pc.match_substring_regex(batch.column("value"), _WORDS)
    return pc.fill_null(pc.and_(pc.and_(person, own), words), False)


def _extended(batch: pa.RecordBatch) -> tuple[pa.RecordBatch, int]:
    """Of dual pairs that are not complete, those that have their texts and of which anything is judged.

    A source that judged one response twice may call it safe here and unsafe there. Pairs that then break the logical
    order are no news to anyone who repairs data, so they don't stop a release: the second result is how many there are.
    """
    rows = batch.num_rows
    texts, judged = pa.array([True] * rows, pa.bool_()), pa.array([False] * rows, pa.bool_())
    for response in RESPONSES["default"]:
        for name in ("prompt", response, hash_column("default", response)):
            texts = pc.and_(texts, batch.column(name).is_valid())
        for name in (*(label_columns("default", response) or ()), f"{response}_categories"):
            judged = pc.or_(judged, batch.column(name).is_valid())
    for name in ("better_response_id", "safer_response_id"):
        judged = pc.or_(judged, batch.column(name).is_valid())
    batch = batch.filter(pc.and_(texts, judged))
    first, second = (batch.column(f"is_{response}_safe") for response in RESPONSES["default"])
    unsafe_safer = pc.and_(
        pc.not_equal(first, second), pc.equal(batch.column("safer_response_id"), pc.cast(first, pa.int64()))
    )
    contradict = pc.fill_null(unsafe_safer, False)
    batch = batch.filter(pc.invert(contradict))
    derived = pc.if_else(batch.column("safer_response_id").is_valid(), False, pa.scalar(None, pa.bool_()))
    schema = release_schema("pairs-extended")
    columns = [derived if name == "safer_derived" else batch.column(name) for name in schema.names]
    return pa.RecordBatch.from_arrays(columns, schema=schema), pc.sum(contradict).as_py() or 0
