"""One label of an answer out of the consensus on its parts, so that the parts cannot contradict each other.

Whether it is safe, its severity and each category are aggregated apart. Then the first decides, and the others follow:

* safe (P(safe) > 1/2): severity 0 and no category, whatever the others say;
* unsafe: the severity is the median of P(severity | severity >= 1), so 1 to 3; the categories are those with
  P > 1/2, and where there is none the likeliest, so at least one.

A part that nobody told stays unknown. The confidence of a label is that of its first decision.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from poise.annotate.aggregation.em import Consensus
from poise.annotate.agreement.ratings import Floats, Ints, Ratings
from poise.annotate.agreement.reading import Question
from poise.annotate.agreement.variables import SAFE, SEVERITY, variables
from poise.harm import CATEGORIES

Method = Callable[[Ratings], Consensus]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Labels:
    """Labels of I answers.

    Args:
        names: [I] hashes of the answers.
        safe: [I] 1 safe, 0 unsafe, -1 undecided.
        severity: [I] 0..3, -1 unknown.
        flags: [I, 19] categories, False where unknown.
        known: [I] the categories are known.
        unsafe: [I] P(unsafe), NaN where nobody told.
        severities: [I, 4] P(severity), NaN where nobody told.
        categories: [I, 19] P(category), NaN where nobody told.
    """

    names: pa.Array
    safe: Ints
    severity: Ints
    flags: Flags
    known: Flags
    unsafe: Floats
    severities: Floats
    categories: Floats

    @property
    def confidence(self) -> Floats:
        """[I] P of the decision safe or unsafe."""
        return np.maximum(self.unsafe, 1.0 - self.unsafe)


def joint_labels(names: pa.Array, unsafe: Floats, severities: Floats, categories: Floats, threshold: float) -> Labels:
    """Labels that keep safe <=> severity 0 <=> no category.

    Args:
        unsafe, severities, categories: posteriors, see `Labels`.
        threshold: least confidence of a label, 0.5..1; below it, and at exactly one half, nothing is said.
    """
    confidence = np.nan_to_num(np.maximum(unsafe, 1.0 - unsafe), nan=0.0)
    decided = (confidence >= threshold) & (confidence > 0.5 + 1e-9)
    harmful = decided & (unsafe > 0.5)
    level = _median_level(severities)
    severity = np.where(~decided, -1, np.where(harmful, level, 0))
    told = ~np.isnan(categories).any(1)
    filled = np.nan_to_num(categories, nan=0.0)
    flags = filled > 0.5
    none = told & ~flags.any(1)
    flags[np.flatnonzero(none), filled[none].argmax(1)] = True
    flags &= (harmful & told)[:, None]
    return Labels(
        names,
        np.where(decided, np.where(harmful, 0, 1), -1),
        severity,
        flags,
        decided & (~harmful | told),
        unsafe,
        severities,
        categories,
    )


def _median_level(severities: Floats) -> Ints:
    """[I] the median of P(severity | severity >= 1), -1 where it is not known; 1 where no harm has any probability."""
    at_least = severities[:, ::-1].cumsum(1)[:, ::-1]  # P(severity >= level)
    half = at_least[:, 1] / 2.0
    level = 1 + (at_least[:, 2] > half).astype(np.int64) + (at_least[:, 3] > half).astype(np.int64)
    return np.where(np.isnan(half), -1, level)


def labels_of(question: Question, method: Method, threshold: float) -> tuple[Labels, dict[str, Consensus]]:
    """Labels of the answers that were asked "label" or "safe" about, and the consensus on every variable.

    Severity and categories that say an answer is harmless are no news about how harmful it would be if it were not:
    the severity of unsafe answers is taken from levels 1 to 3 of the posterior.
    """
    ratings = question.ratings
    found = {}
    for variable in variables(question):
        if variable.ratings.scale != "set" and len(variable.ratings.item):
            found[variable.name] = method(variable.ratings)
    unsafe = found[SAFE].posterior[:, 0] if SAFE in found else np.full(ratings.items, np.nan)
    unknown = np.full((ratings.items, 4), np.nan)
    severities = found[SEVERITY].posterior if SEVERITY in found else unknown
    columns = [
        found[category.value].posterior[:, 1] if category.value in found else np.full(ratings.items, np.nan)
        for category in CATEGORIES
    ]
    return joint_labels(question.names, unsafe, severities, np.stack(columns, axis=1), threshold), found


def merged(first: Labels, second: Labels) -> Labels:
    """The labels of both; an answer that both have keeps those of the first."""
    other = np.flatnonzero(~np.isin(np.array(second.names.to_pylist()), np.array(first.names.to_pylist())))
    parts = {
        name: np.concatenate([getattr(first, name), getattr(second, name)[other]])
        for name in ("safe", "severity", "flags", "known", "unsafe", "severities", "categories")
    }
    names = pa.array([*first.names.to_pylist(), *second.names.take(pa.array(other)).to_pylist()], pa.string())
    return replace(first, names=names, **parts)
