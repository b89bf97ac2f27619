"""Tables whose labels and choices are the consensus of the judgements beside them.

Labels (questions "label", and "safe" for answers that have no "label") go to `qa` and to the responses of pairs;
"better" and "safer" to dual pairs, "single" to `single-dimension`. Only true and false answer "safe", only 0 and 1 a
choice; all else, words too, is unjudged. A row that nobody judged stays as it is. One that was judged without a
decision (a tie, or below the threshold) loses what it had and is counted. The posterior stands in `provenance` under
"aggregation". Where the final labels say that exactly one response is safe, it is the safer one, whatever the
judgements say: the logical order.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from poise.annotate.aggregation.dawid_skene import dawid_skene
from poise.annotate.aggregation.em import Consensus
from poise.annotate.aggregation.labels import Labels, Method, labels_of, merged
from poise.annotate.aggregation.mace import mace
from poise.annotate.aggregation.majority import majority
from poise.annotate.aggregation.one_coin import one_coin
from poise.annotate.agreement.ratings import Floats, Ints
from poise.annotate.agreement.reading import Question
from poise.annotate.agreement.variables import CHOICES, SAFE, decisive, variables
from poise.data.columns import HARM_CATEGORY, RESPONSES, TABLES, hash_column, label_columns
from poise.data.corpus import canonical_json
from poise.data.folders import write_json
from poise.data.tables import Tables, TableWriter, open_tables
from poise.errors import PoiseError
from poise.harm import CATEGORIES

METHODS: dict[str, Method] = {
    "majority": majority,
    "dawid-skene": dawid_skene,
    "one-coin": one_coin,
    "mace": mace,
}
"""Name -> how ratings become a consensus."""

_CHOICES = {
    "default": {"better": "better_response_id", "safer": "safer_response_id"},
    "pairs-extended": {"better": "better_response_id", "safer": "safer_response_id"},
    "single-dimension": {"single": "better_response_id"},
}


class Choices(NamedTuple):
    """Pairs [I] by name ("hash:hash"), the chosen response (0, 1; -1 undecided), and P(response 1)."""

    names: pa.Array
    choice: Ints
    probability: Floats


def aggregate_tables(
    tables: Tables,
    questions: Mapping[str, Question],
    out: Path,
    method: str = "dawid-skene",
    *,
    threshold: float = 0.5,
    settings: Mapping[str, Any] | None = None,
    replace: bool = False,
) -> tuple[Tables, dict[str, Any]]:
    """Write the tables and `aggregation.json` (counts, raters' quality); returns both.

    Args:
        questions: the judgements to use, see `read_questions`.
        threshold: least posterior of a decision, 0.5..1.
        settings: how the judgements were chosen, for the manifest.

    Raises:
        PoiseError: an unknown method, a threshold outside 0.5..1, nothing to aggregate, or the folder is in use.
    """
    if method not in METHODS:
        raise PoiseError(f"method {method!r}", do=f"use one of {', '.join(METHODS)}")
    if not 0.5 <= threshold <= 1.0:
        raise PoiseError(f"threshold {threshold}", do="use a posterior from 0.5 to 1")
    labels, choices, raters = _consensus(questions, METHODS[method], threshold)
    if labels is None and not choices:
        raise PoiseError(
            "no judgements of label, safe, better, safer or single",
            where=str(tables.folder),
            do="see the questions with `poise annotate agreement`",
        )
    counts: Counter[str] = Counter()
    step = {"name": "aggregate", "method": method, "threshold": threshold, **(settings or {})}
    with TableWriter(out, step, [tables], replace=replace) as writer:
        for unit, table in tables.items():
            for batch in table.batches():
                writer.write(unit, _aggregated(unit, batch, labels, choices, method, counts))
        report = {"method": method, "threshold": threshold, "counts": dict(sorted(counts.items())), "raters": raters}
        write_json(writer.parts / "aggregation.json", report)
    return open_tables(out), report


def _consensus(
    questions: Mapping[str, Question], method: Method, threshold: float
) -> tuple[Labels | None, dict[str, Choices], dict[str, Any]]:
    labels: Labels | None = None
    choices, raters = {}, {}
    questions = {name: decisive(question) for name, question in questions.items()}
    for name in ("label", SAFE):
        if name in questions and len(questions[name].ratings.item):
            found, consensus = labels_of(questions[name], method, threshold)
            labels = found if labels is None else merged(labels, found)
            raters[name] = {part: _quality(questions[name], told) for part, told in consensus.items()}
    for name in CHOICES:
        if name in questions and len(questions[name].ratings.item):
            (variable,) = variables(questions[name])
            told = method(variable.ratings)
            choices[name] = Choices(questions[name].names, told.choice(threshold), told.posterior[:, -1])
            raters[name] = {name: _quality(questions[name], told)}
    return labels, choices, raters


def _quality(question: Question, told: Consensus) -> dict[str, Any]:
    names = question.ratings.raters
    known = {f"{n.name} ({n.kind})": float(q) for n, q in zip(names, told.quality, strict=True) if not np.isnan(q)}
    return {"iterations": told.iterations, "converged": told.converged, "quality": known}


def _aggregated(
    unit: str,
    batch: pa.RecordBatch,
    labels: Labels | None,
    choices: Mapping[str, Choices],
    method: str,
    counts: Counter[str],
) -> pa.RecordBatch:
    columns = {name: batch.column(name) for name in batch.schema.names}
    notes: list[dict[str, Any]] = [{} for _ in range(batch.num_rows)]
    if labels is not None:
        for response in RESPONSES[unit]:
            _set_labels(unit, response, columns, labels, notes, counts)
    for question, column in _CHOICES.get(unit, {}).items():
        if question in choices:
            _set_choices(unit, question, column, columns, choices[question], notes, counts)
    if "safer_response_id" in columns:
        _keep_order(unit, columns, counts)
    if any(notes):
        texts = zip(columns["provenance"].to_pylist(), notes, strict=True)
        columns["provenance"] = pa.array([_told(text, note, method) for text, note in texts], pa.string())
    return pa.RecordBatch.from_arrays([columns[f.name] for f in TABLES[unit]], schema=TABLES[unit])


def _told(text: str | None, note: dict[str, Any], method: str) -> str | None:
    if not note:
        return text
    return canonical_json({**(json.loads(text) if text else {}), "aggregation": {"method": method, **note}})


def _set_labels(
    unit: str,
    response: str,
    columns: dict[str, pa.Array],
    labels: Labels,
    notes: list[dict[str, Any]],
    counts: Counter[str],
) -> None:
    names = label_columns(unit, response)
    if names is None:
        return
    place = _places(columns[hash_column(unit, response)], labels.names)
    rows = np.flatnonzero(place >= 0)
    judged, at = place >= 0, np.maximum(place, 0)
    safe, flags, severity = names
    old = columns[flags]
    columns[safe] = _or_old(judged, labels.safe[at] == 1, labels.safe[at] < 0, columns[safe])
    columns[severity] = _or_old(judged, labels.severity[at], labels.severity[at] < 0, columns[severity])
    parts = [
        _or_old(judged, labels.flags[at, c.index], ~labels.known[at], pc.struct_field(old, c.value)) for c in CATEGORIES
    ]
    empty = np.where(judged, ~labels.known[at], old.is_null().to_numpy(zero_copy_only=False))
    columns[flags] = pa.StructArray.from_arrays(parts, fields=list(HARM_CATEGORY), mask=pa.array(empty))
    foreign = "categories" if unit == "qa" else f"{response}_categories"
    columns[foreign] = pc.if_else(pa.array(judged), pa.nulls(len(judged), columns[foreign].type), columns[foreign])
    if unit == "qa":
        columns["taxonomy"] = pc.if_else(pa.array(judged), pa.nulls(len(judged), pa.string()), columns["taxonomy"])
    counts[f"{unit} {response}: labelled"] += int((labels.safe[place[rows]] >= 0).sum())
    counts[f"{unit} {response}: undecided"] += int((labels.safe[place[rows]] < 0).sum())
    counts[f"{unit} {response}: not judged"] += len(place) - len(rows)
    for row in rows:
        notes[row][response] = _label_note(labels, int(place[row]))


def _label_note(labels: Labels, at: int) -> dict[str, Any]:
    """The posterior, rounded; categories below 0.01 are left out."""
    note: dict[str, Any] = {}
    if not np.isnan(labels.unsafe[at]):
        note["unsafe"] = round(float(labels.unsafe[at]), 4)
    if not np.isnan(labels.severities[at]).any():
        note["severity"] = [round(float(p), 4) for p in labels.severities[at]]
    likely = np.flatnonzero(np.nan_to_num(labels.categories[at]) >= 0.01)
    if len(likely):
        note["categories"] = {CATEGORIES[i].value: round(float(labels.categories[at, i]), 4) for i in likely}
    return note


def _set_choices(
    unit: str,
    question: str,
    column: str,
    columns: dict[str, pa.Array],
    found: Choices,
    notes: list[dict[str, Any]],
    counts: Counter[str],
) -> None:
    items = pc.binary_join_element_wise(columns["response_0_sha256"], columns["response_1_sha256"], ":")
    place = _places(items, found.names)
    judged, at = place >= 0, np.maximum(place, 0)
    columns[column] = _or_old(judged, found.choice[at], found.choice[at] < 0, columns[column])
    if question == "safer" and "safer_derived" in columns:
        columns["safer_derived"] = _or_old(
            judged, np.zeros(len(at), bool), found.choice[at] < 0, columns["safer_derived"]
        )
    counts[f"{unit} {question}: chosen"] += int((found.choice[at] >= 0)[judged].sum())
    counts[f"{unit} {question}: undecided"] += int((found.choice[at] < 0)[judged].sum())
    counts[f"{unit} {question}: not judged"] += int((~judged).sum())
    for row in np.flatnonzero(judged):
        if not np.isnan(found.probability[place[row]]):
            notes[row][f"{question}_1"] = round(float(found.probability[place[row]]), 4)


def _keep_order(unit: str, columns: dict[str, pa.Array], counts: Counter[str]) -> None:
    """Where exactly one response is safe it is the safer one."""
    first, second = (columns[f"is_response_{i}_safe"] for i in (0, 1))
    decided = pc.fill_null(pc.xor(first, second), False)
    by_order = pc.if_else(first, 0, 1).cast(pa.int64())
    changed = pc.and_(decided, pc.fill_null(pc.not_equal(columns["safer_response_id"], by_order), True))
    counts[f"{unit} safer: by the logical order"] += pc.sum(changed).as_py() or 0
    columns["safer_response_id"] = pc.if_else(decided, by_order, columns["safer_response_id"])
    if "safer_derived" in columns:
        columns["safer_derived"] = pc.if_else(changed, True, columns["safer_derived"])


def _places(names: pa.Array, known: pa.Array) -> Ints:
    """Where each name stands among the known ones, -1 where it does not."""
    places: Ints = pc.fill_null(pc.index_in(names, value_set=known), -1).to_numpy(zero_copy_only=False).astype(np.int64)
    return places


def _or_old(judged: Any, new: Any, null: Any, old: pa.Array) -> pa.Array:
    """The new value where the row was judged (null where that is not known), else the old one."""
    return pc.if_else(pa.array(judged), pa.array(new, old.type, mask=np.asarray(null)), old)
