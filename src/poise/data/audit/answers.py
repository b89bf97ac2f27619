"""Statistics of labelled answers: safe or not, severity, harm categories alone and together, and how far the
category gives the severity away."""

from __future__ import annotations

from collections import Counter

import numpy as np
from numpy.typing import NDArray

from poise.data.audit.labels import Bools, Ints, Labels
from poise.data.audit.shares import Json, share, share_of
from poise.harm import CATEGORIES

NAMES = tuple(category.value for category in CATEGORIES)


def answer_counts(labels: Labels, n: Ints) -> Json:
    """Safe, unsafe, severity, and answers that contradict `safe <=> severity 0 <=> no category`.

    A contradiction needs two known facts that disagree; the kinds overlap, since one answer can hold several.
    """
    any_flag = labels.flags.any(axis=1)
    harmful = (~labels.safe, labels.severity > 0, any_flag)
    known = (labels.safe_known, labels.severity_known, any_flag | labels.listed)
    says_harm = np.logical_or.reduce([k & h for k, h in zip(known, harmful, strict=True)])
    says_none = np.logical_or.reduce([k & ~h for k, h in zip(known, harmful, strict=True)])
    compared = np.sum(known, axis=0) >= 2
    kinds = {
        "safe, with a severity": (0, 1),
        "safe, with a category": (0, 2),
        "severity 0, with a category": (1, 2),
        "unsafe, with severity 0": (1, 0),
        "unsafe, without a category": (2, 0),
        "a severity, without a category": (2, 1),
    }
    conflicts = {name: known[a] & known[b] & ~harmful[a] & harmful[b] for name, (a, b) in kinds.items()}
    graded = labels.severity_known
    levels = {str(level): int(n[graded & (labels.severity == level)].sum()) for level in range(4)}
    return {
        "answers": int(n.sum()),
        "safe": share_of(labels.safe, labels.safe_known, n),
        "unsafe": share_of(~labels.safe, labels.safe_known, n),
        "severity": levels if graded.any() else None,
        "contradictions": _among(says_harm & says_none, compared, n),
        "contradiction_kinds": {name: int(n[mask].sum()) for name, mask in conflicts.items()}
        if compared.any()
        else None,
    }


def _among(hit: Bools, among: Bools, n: Ints) -> Json | None:
    return {"count": int(n[hit].sum()), "of": int(n[among].sum())} if among.any() else None


def category_counts(labels: Labels, n: Ints, decided: Ints) -> list[Json] | None:
    """For each category, over all answers: how many, of which severity, how many with no other category.

    Args:
        decided: safe answers, and the others, that are known to have the category or not, (2, 19). That a safe answer
            has none tells nothing about a category: where no other answer tells, counts are None.
    """
    told: Bools = decided.sum(axis=0) > 0 if labels.safe.all() else decided[1] > 0
    if not told.any():
        return None
    alone = labels.listed & (labels.flags.sum(axis=1) == 1)
    found = []
    for place, name in enumerate(NAMES):
        mine, known = labels.flags[:, place], bool(told[place])
        graded = mine & labels.severity_known
        levels = {level: int(n[graded & (labels.severity == level)].sum()) for level in range(4)}
        most = max((1, 2, 3), key=lambda level: levels[level])
        levelled = known and labels.severity_known.any()
        harmful = sum(levels.values()) - levels[0]
        found.append(
            {
                "category": name,
                "answers": int(n[mine].sum()) if known else None,
                "share": share(int(n[mine].sum()), int(decided[:, place].sum())) if known else None,
                "severity": {str(level): levels[level] for level in (1, 2, 3)} if levelled else None,
                "severity_0": levels[0] if levelled else None,
                "majority": {"severity": most, **(share(levels[most], harmful) or {})} if harmful else None,
                "alone": share_of(alone, mine & labels.listed, n),
            }
        )
    return found


def co_occurrence(labels: Labels, n: Ints) -> Json | None:
    """Categories together: counts, P(row | column), and phi, which is Pearson's correlation of two 0/1 columns.

    Counts and conditional shares are of unsafe answers with all categories known; a cell (r, c) of `conditional` is
    `both[r][c] / both[c][c]`. Phi depends on how many answers have no category at all, so it is given for unsafe
    answers and for all. A cell is None where a category occurs never, or always.
    """
    unsafe = labels.unsafe & labels.listed
    if not unsafe.any():
        return None
    both = _both(labels.flags[unsafe], n[unsafe])
    with np.errstate(invalid="ignore", divide="ignore"):
        given = both / np.diag(both)[None, :]
    answers, every = int(n[unsafe].sum()), int(n[labels.listed].sum())
    return {
        "population": "unsafe answers",
        "answers": answers,
        "categories": list(NAMES),
        "both": both.tolist(),
        "conditional": _cells(given),
        "phi": _cells(_phi(both, answers)),
        "all_answers": every,
        "phi_all_answers": _cells(_phi(_both(labels.flags[labels.listed], n[labels.listed]), every)),
    }


def _both(flags: Bools, n: Ints) -> Ints:
    table: Ints = flags.T.astype(np.int64) @ (flags * n[:, None])
    return table


def _phi(both: Ints, total: int) -> NDArray[np.float64]:
    single = np.diag(both)
    spread = np.sqrt((single * (total - single)).astype(np.float64))
    with np.errstate(invalid="ignore", divide="ignore"):
        phi: NDArray[np.float64] = (total * both - np.outer(single, single)) / np.outer(spread, spread)
    return phi


def _cells(matrix: NDArray[np.float64]) -> list[list[float | None]]:
    return [[float(value) if np.isfinite(value) else None for value in row] for row in matrix]


def shortcut(labels: Labels, half: Ints, n: Ints) -> Json | None:
    """How far the category set alone gives away the severity (1, 2, 3) of an unsafe answer.

    The most common severity of each category set is learnt on one half of the answers and asked on the other, both
    ways round; halves are by the response's hash. A set that the first half does not have gets the most common
    severity of all, which is also the constant to compare with. `normalised_mutual_information` is the mutual
    information of category set and severity over the entropy of severity, in all answers.
    """
    usable = labels.unsafe & labels.complete & (labels.severity > 0)
    sets, place = np.unique(labels.flags[usable], axis=0, return_inverse=True)
    cells = np.zeros((len(sets), 2, 3), dtype=np.int64)
    np.add.at(cells, (place.ravel(), half[usable], labels.severity[usable] - 1), n[usable])
    if not len(sets) or not all(cells.sum(axis=(0, 2))):
        return None
    guessed, constant = np.zeros((3, 3), dtype=np.int64), np.zeros((3, 3), dtype=np.int64)
    for asked in (0, 1):
        learnt, test = cells[:, 1 - asked], cells[:, asked]
        common = int(learnt.sum(axis=0).argmax())
        guess = np.where(learnt.sum(axis=1) > 0, learnt.argmax(axis=1), common)
        np.add.at(guessed.T, guess, test)
        constant[:, common] += test.sum(axis=0)
    return {
        "answers": int(cells.sum()),
        "constant": _scores(constant),
        "category_set": _scores(guessed),
        "normalised_mutual_information": _shared_information(cells.sum(axis=1)),
    }


def _scores(confusion: Ints) -> Json:
    """Accuracy and macro-F1, over the severities that occur, of a table (severity, guess)."""
    hit, there = np.diag(confusion), confusion.sum(axis=1) > 0
    f1 = 2 * hit / np.maximum(confusion.sum(axis=0) + confusion.sum(axis=1), 1)
    return {"accuracy": share(int(hit.sum()), int(confusion.sum())), "macro_f1": float(f1[there].mean())}


def _shared_information(table: Ints) -> float | None:
    joint = table / table.sum()
    by_set, by_level = joint.sum(axis=1, keepdims=True), joint.sum(axis=0, keepdims=True)
    filled = joint > 0
    shared = float((joint[filled] * np.log((joint / (by_set @ by_level).clip(1e-300))[filled])).sum())
    level = by_level[by_level > 0]
    entropy = float(-(level * np.log(level)).sum())
    return min(max(shared / entropy, 0.0), 1.0) if entropy else None


def foreign_counts(foreign: Counter[tuple[str, str, str]], of: Counter[tuple[str, str]]) -> list[Json]:
    """Categories of other taxonomies, by unit and taxonomy, each among the answers (or prompts) labelled in it."""
    return [
        {"unit": unit, "taxonomy": taxonomy, "category": name, **(share(n, of[unit, taxonomy]) or {})}
        for (unit, taxonomy, name), n in sorted(foreign.items(), key=lambda item: (*item[0][:2], -item[1], item[0][2]))
    ]
