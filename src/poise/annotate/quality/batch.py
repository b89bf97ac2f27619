"""Screening on tables: which QA rows to label again, and what the new labels say about the batch.

The batch is the labelled QA rows of a folder, each response once. A screener's doubt is the probability it gives to the
other verdict (safe or unsafe); without probabilities it is 1 or 0. What it left unjudged, or was never asked, comes
first. The rows to check are written as tables without their labels, in the order of a hash, so that whoever labels them
again sees neither the label nor the stratum; both stand in `screen.json`, for the lead.

Left out: doubt about categories and severity, and about pairs. A label is wrong when the check says the other verdict.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from poise.annotate.quality.screening import Screened, choose, estimate
from poise.data import uniform_seed
from poise.data.folders import write_json
from poise.data.records import JudgementRecord, PartialLabel, QARecord
from poise.data.tables import Tables, TableWriter
from poise.errors import PoiseError

PLAN = "screen.json"


@dataclass(frozen=True)
class Plan:
    """What `screen.json` holds.

    Args:
        batch: labelled responses. unlabelled: responses without a label, which are not in the batch.
        unknown: those of the batch about which the screener said nothing.
        top, rest: item -> whether its label says safe.
    """

    screener: str
    seed: int
    batch: int
    unlabelled: int
    unknown: int
    top: dict[str, bool]
    rest: dict[str, bool]


def screen_tables(tables: Tables, out: Path, screener: str | None, k: int, seed: int, *, replace: bool = False) -> Plan:
    """Write the rows to check to `out`, with `screen.json` beside them.

    Args:
        screener: name of the rater of kind "model"; None: the only one there is.
        k: how many rows of the greatest doubt, and how many of the others.

    Raises:
        PoiseError: no labelled row, no such screener, or the folder is in use.
    """
    where = str(tables.folder)
    rows = _labels(tables)
    labels = {item: safe for item, safe in rows.items() if safe is not None}
    if not labels:
        raise PoiseError("no labelled row of the unit qa", where=where, do="label it, or `poise annotate aggregate`")
    name, unsafe = _screener(tables, screener)
    items = list(labels)
    doubt = np.array([_doubt(labels[item], unsafe.get(item)) for item in items])
    chosen = choose(items, doubt, k, seed)
    top, rest = ({items[i]: labels[items[i]] for i in places} for places in chosen)
    plan = Plan(name, seed, len(items), len(rows) - len(items), int(np.isnan(doubt).sum()), top, rest)
    texts: dict[str, QARecord] = {}
    for row in tables["qa"].records():
        if isinstance(row, QARecord) and (row.item in top or row.item in rest):
            texts.setdefault(row.item, row)
    with TableWriter(out, {"name": "annotate screen", "k": k, "seed": seed}, [tables], replace=replace) as writer:
        for item in sorted(texts, key=lambda item: uniform_seed(seed, item, "order")):
            writer.add(texts[item].model_copy(update={"label": PartialLabel(), "provenance": None}))
        write_json(writer.parts / PLAN, plan.__dict__)
    return plan


def read_plan(folder: Path) -> Plan:
    """The plan of a screen.

    Raises:
        PoiseError: there is none, or it is damaged.
    """
    path = folder / PLAN
    try:
        return Plan(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise PoiseError("no plan of a screen", where=str(path), do="make one with `poise annotate screen`") from error


def screened(plan: Plan, checked: Tables, confidence: float = 0.95) -> Screened:
    """What the labels of `checked` say about the batch.

    Raises:
        PoiseError: a row of the plan is not there; one without a label is unjudged.
    """
    labels = _labels(checked)
    missing = [item for item in [*plan.top, *plan.rest] if item not in labels]
    if missing:
        raise PoiseError(
            f"{len(missing)} of {len(plan.top) + len(plan.rest)} rows to check are not there, as {missing[0][:12]}",
            where=str(checked.folder),
            do="give the tables of the screen with their new labels",
        )
    top, rest = ([_wrong(safe, labels[item]) for item, safe in part.items()] for part in (plan.top, plan.rest))
    return estimate(plan.batch, top, rest, confidence)


def _wrong(safe: bool, checked: bool | None) -> float:
    return np.nan if checked is None else float(checked != safe)


def _labels(tables: Tables) -> dict[str, bool | None]:
    """Item -> whether it is safe by its first row that says, None where none does."""
    labels: dict[str, bool | None] = {}
    for row in tables["qa"].records() if "qa" in tables else ():
        if isinstance(row, QARecord) and labels.get(row.item) is None:
            labels[row.item] = row.label.safe
    return labels


def _screener(tables: Tables, wanted: str | None) -> tuple[str, dict[str, float]]:
    """Its name, and item -> its probability of unsafe in its last round; an unjudged item is NaN."""
    last: dict[str, dict[str, tuple[int, float]]] = {}
    for row in tables["judgements"].records() if "judgements" in tables else ():
        if isinstance(row, JudgementRecord) and row.rater_kind == "model" and row.question in ("label", "safe"):
            said = last.setdefault(row.rater, {})
            if row.item not in said or said[row.item][0] <= row.round:
                said[row.item] = row.round, _unsafe(row)
    names = ", ".join(sorted(last)) or "none"
    if wanted is None and len(last) == 1:
        (wanted,) = last
    if wanted is None or wanted not in last:
        what = f"no labels by a model {wanted!r}" if wanted else "no single model to screen with"
        raise PoiseError(what, where=str(tables.folder), do=f"name one of those that labelled: {names}")
    return wanted, {item: unsafe for item, (_, unsafe) in last[wanted].items()}


def _unsafe(row: JudgementRecord) -> float:
    if row.value is None:
        return np.nan
    if row.probability is not None:
        return row.probability
    value: Any = row.value
    if isinstance(value, Mapping):
        value = value.get("safe", value["severity"] == 0 if value.get("severity") is not None else None)
    return np.nan if not isinstance(value, bool) else float(not value)


def _doubt(safe: bool, unsafe: float | None) -> float:
    if unsafe is None:
        return np.nan
    return unsafe if safe else 1 - unsafe
