"""What mode "repair" mends in tables: only what the row itself decides.

* `response-hash`: computed again from the texts.
* `safe-severity-category`: a fact that two others outvote (safe, severity, categories) is set by them, where setting it
  needs no choice: a safe flag, severity 0, no category.
* `logical-order`: the safe response is made the safer one.

A later copy of a row is left out by validation itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from poise.data.columns import HARM_CATEGORY, RESPONSES, hash_column, label_columns
from poise.data.rules import CHECKS, Mask, View
from poise.harm import CATEGORIES


def mended(view: View, found: Mapping[str, Mask]) -> tuple[pa.RecordBatch, Counter[str]]:
    """The batch with its mendable rows mended, and rule -> rows that no longer break it."""
    if "encoding" in found:
        return view.batch, Counter()
    columns = dict(zip(view.batch.schema.names, view.batch.columns, strict=True))
    if "response-hash" in found:
        for response, hashes in view.hashes.items():
            columns[hash_column(view.unit, response)] = pa.array(hashes, type=pa.string())
    if "safe-severity-category" in found:
        for response in RESPONSES[view.unit]:
            _mend_label(view, response, found["safe-severity-category"], columns)
    batch = pa.RecordBatch.from_arrays(list(columns.values()), schema=view.batch.schema)
    if "logical-order" in found:
        again = View(view.unit, batch, view.strict)
        wrong = CHECKS["logical-order"](again)
        safer, _ = again.number("safer_response_id")
        place = batch.schema.get_field_index("safer_response_id")
        right = pc.if_else(pa.array(wrong), pa.array(1 - np.clip(safer, 0, 1)), batch.column(place))
        batch = batch.set_column(place, batch.schema.field(place), right)
    after = View(view.unit, batch, view.strict)
    fixed = {rule: int((mask & ~CHECKS[rule](after)).sum()) for rule, mask in found.items() if rule in CHECKS}
    return batch, Counter({rule: count for rule, count in fixed.items() if count})


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
