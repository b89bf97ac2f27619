"""What mode "repair" mends in tables: only what the row itself decides.

* `response-hash`: computed again from the texts.
* `safe-severity-category`: a fact that two others outvote (safe, severity, categories) is set by them, where setting it
  needs no choice: a safe flag, severity 0, no category.
* `logical-order`: the safe response is made the safer one.

A row that breaks another rule as well, or cannot be mended altogether, stays as it was read. A later copy of a row is
left out by validation itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from poise.data.columns import HARM_CATEGORY, RESPONSES, hash_column, label_columns
from poise.data.rules import CHECKS, Mask, View, broken_rows
from poise.harm import CATEGORIES


def mended(view: View, found: Mapping[str, Mask]) -> tuple[pa.RecordBatch, Mask]:
    """The batch with its mendable rows mended, and which rows those are: shape (N,)."""
    broken = np.logical_or.reduce([view.nothing, *found.values()])
    given = dict(zip(view.batch.schema.names, view.batch.columns, strict=True))
    columns = dict(given)
    for response in RESPONSES[view.unit]:
        if (wrong := found.get("response-hash")) is not None:
            name = hash_column(view.unit, response)
            known = pc.and_(pa.array(wrong), columns[name].is_valid())
            columns[name] = pc.if_else(known, pa.array(view.hashes[response], type=pa.string()), columns[name])
        if (torn := found.get("safe-severity-category")) is not None:
            _mend_label(view, response, torn, columns)
    after = _view(view, columns)
    misordered = CHECKS["logical-order"](after) & broken
    if misordered.any():
        safer, _ = after.number("safer_response_id")
        right = pc.if_else(pa.array(misordered), pa.array(1 - np.clip(safer, 0, 1)), columns["safer_response_id"])
        columns["safer_response_id"] = right
        after = _view(view, columns)
    fixed = broken & ~np.logical_or.reduce([view.unreadable, *broken_rows(after).values()])
    chosen = [
        old if columns[name] is old else pc.if_else(pa.array(fixed), columns[name], old) for name, old in given.items()
    ]
    return pa.RecordBatch.from_arrays(chosen, schema=view.batch.schema), fixed


def _view(view: View, columns: Mapping[str, Any]) -> View:
    return View(view.unit, pa.RecordBatch.from_arrays(list(columns.values()), schema=view.batch.schema), view.strict)


def _mend_label(view: View, response: str, broken: Mask, columns: dict[str, Any]) -> None:
    names = label_columns(view.unit, response)
    if names is None:
        return
    safe, flags, severity = names
    label = view.labels[RESPONSES[view.unit].index(response)]
    all_known = broken & label.safe_known & label.severity_known & label.listed
    unsafe_votes = (~label.safe).astype(int) + (label.severity > 0) + label.harmful
    says_unsafe = all_known & (unsafe_votes == 2)
    says_safe = all_known & (unsafe_votes == 1)
    set_safe = (says_safe & ~label.safe) | (says_unsafe & label.safe)
    columns[safe] = pc.if_else(pa.array(set_safe), pa.array(says_safe), columns[safe])
    columns[severity] = pc.if_else(pa.array(says_safe), pa.scalar(0, pa.int64()), columns[severity])
    none = pa.scalar(dict.fromkeys((category.value for category in CATEGORIES), False), HARM_CATEGORY)
    columns[flags] = pc.if_else(pa.array(says_safe), none, columns[flags])
