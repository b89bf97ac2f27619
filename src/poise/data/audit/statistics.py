"""The statistics of an audit from the counts of one pass: plain JSON values under stable keys.

Names and definitions follow what is published about PKU-SafeRLHF (arXiv 2406.15513 and independent audits of the
release). A share comes with its numerator and denominator. What a data set does not tell is None, "not in this data"
on the page, never 0.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from poise.data.audit.answers import answer_counts, category_counts, co_occurrence, foreign_counts, shortcut
from poise.data.audit.count import Counts
from poise.data.audit.labels import Labels
from poise.data.audit.pairs import Pairs, dual_and_single, ladder, pair_counts, probes
from poise.data.audit.phrases import DISCLAIMERS, REFUSALS
from poise.data.audit.shares import Json

LABELLED = ("default", "qa", "pairs-extended")
"""Units with labels; the first that knows some is the population of what is said about categories."""
PAIRED = ("default", "pairs-extended")
"""Units with judged pairs; the first that is there is the population of what is said about pairs."""
QUANTILES = {"q10": 10, "q25": 25, "median": 50, "q75": 75, "q90": 90}
"""Key -> percent."""


def statistics(counts: Counts, split: str | None) -> Json:
    """Everything an audit says."""
    found = {unit: tally.found() for unit, tally in counts.answers.items()}
    labels = {unit: Labels.of(codes >> 1) for unit, (codes, _) in found.items()}
    told = {unit for unit, x in labels.items() if (x.safe_known | x.severity_known | x.flags.any(1) | x.listed).any()}
    population = next((unit for unit in LABELLED if unit in told), None)
    paired = next((unit for unit in PAIRED if unit in counts.pairs), None)
    pairs = Pairs.of(counts.pairs[paired]) if paired else None
    repeats = counts.book.repeats() if paired == "default" else (0, 0)
    result: Json = {
        "split": split,
        "rows": _nested(counts.rows),
        "prompts": {unit: len(keys) for unit, keys in counts.prompts.items()},
        "prompts_in_all": len(np.unique(np.concatenate(list(counts.prompts.values())))) if counts.prompts else None,
        "responses": {unit: len(keys) for unit, keys in counts.responses.items()},
        "prompt_sources": {unit: _ordered(names) for unit, names in counts.prompt_sources.items()},
        "subsets": {unit: _ordered(names) for unit, names in counts.subsets.items()},
        "answers": {unit: answer_counts(labels[unit], found[unit][1]) for unit in found if unit in told},
        "population": population,
        "categories": None,
        "co_occurrence": None,
        "shortcut": None,
        "foreign_categories": foreign_counts(counts.foreign, counts.foreign_of),
        "paired": paired,
        "pairs": pair_counts(pairs, repeats if repeats[1] else None) if pairs else None,
        "ladder": ladder(pairs) if pairs else None,
        "dual_and_single": dual_and_single(counts.single),
        "probes": probes(pairs, counts),
        "phrases": {"disclaimers": list(DISCLAIMERS), "refusals": list(REFUSALS)},
        "lengths": _lengths(counts),
    }
    if population:
        codes, n = found[population]
        result["categories"] = category_counts(labels[population], n, counts.decided[population])
        result["co_occurrence"] = co_occurrence(labels[population], n)
        result["shortcut"] = shortcut(labels[population], codes & 1, n)
    return result


def _nested(rows: Counter[tuple[str, str]]) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for (unit, split), n in sorted(rows.items()):
        found.setdefault(unit, {})[split] = n
    return found


def _ordered(names: Counter[str]) -> dict[str, int]:
    return dict(sorted(names.items(), key=lambda item: (-item[1], item[0])))


def _lengths(counts: Counts) -> list[Json]:
    """Characters of responses, for each unit, source and state; a quantile is the smallest length that reaches it."""
    codes, n = counts.lengths.found()
    group, length = codes >> 32, codes & 0xFFFFFFFF
    found = []
    for (unit, source, state), number in sorted(counts.groups.items()):
        mine = slice(*np.searchsorted(group, [number, number + 1]))
        lengths, weights = length[mine], n[mine]
        total = int(weights.sum())
        if not total:
            continue
        reached = np.cumsum(weights)
        at = {name: int(lengths[np.searchsorted(reached * 100, q * total)]) for name, q in QUANTILES.items()}
        mean = int((lengths * weights).sum()) / total
        found.append({"unit": unit, "source": source, "state": state, "answers": total, "mean": mean, **at})
    return found
