"""How far raters agree, question by question, and how good each of them seems, as plain JSON.

For every variable: alpha on its scale with an interval, AC1 (AC2 with ordinal weights for an ordinal scale), percent
agreement, and the same alpha without models where models judged too. The errors of models are correlated, so agreement
among them says less than among people. For every rater: how often they agree with the consensus of Dawid-Skene and the
error it estimates, both on items with two judgements or more. The consensus is made of the same judgements, so the
first flatters; where few items are shared, neither means much. A question that was answered in free text, or with more
values than memory holds, is named with the reason and not measured.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np

from poise.annotate.aggregation.dawid_skene import dawid_skene
from poise.annotate.aggregation.em import Consensus
from poise.annotate.agreement.alpha import alpha, alpha_sets, fits
from poise.annotate.agreement.coefficients import Weights, gwet_ac, percent
from poise.annotate.agreement.estimate import REPLICATES, Estimate
from poise.annotate.agreement.ratings import MODEL_KINDS, Ints, Ratings
from poise.annotate.agreement.reading import Question
from poise.annotate.agreement.variables import Variable, free_text, variables

MOST_VALUES = 20
"""A scale of more values is no scale for Dawid-Skene."""
MOST_THREADS = 4
"""Variables that are measured at a time; each holds some counts of all items."""


def report(
    questions: Mapping[str, Question],
    *,
    orders: Mapping[str, Sequence[Any]] | None = None,
    replicates: int = REPLICATES,
    seed: int = 0,
    progress: Callable[[int], object] = lambda _: None,
) -> dict[str, Any]:
    """The report on all questions; `progress` hears of each variable that is done.

    Raises:
        PoiseError: as `variables`.
    """
    told = []
    for question in questions.values():
        measured = []
        asked, reason = _measurable(question, orders)
        with ThreadPoolExecutor(min(MOST_THREADS, os.cpu_count() or 1)) as pool:  # NumPy computes outside the lock
            one = partial(measure, replicates=replicates, seed=seed)
            for found in pool.map(one, asked):
                measured.append(found)
                progress(1)
        told.append(
            {
                "question": question.name,
                "items": question.ratings.items,
                "judgements": len(question.ratings.item),
                "raters": len(question.ratings.raters),
                "unjudged": question.unjudged,
                "repeated": question.repeated,
                "variables": measured,
                **({} if reason is None else {"not_measured": reason}),
            }
        )
    return {"seed": seed, "replicates": replicates, "questions": told}


def _measurable(question: Question, orders: Mapping[str, Sequence[Any]] | None) -> tuple[list[Variable], str | None]:
    """The variables of a question, or why there are none."""
    if question.name not in (orders or {}) and (reason := free_text(question)) is not None:
        return [], reason
    found = variables(question, orders)
    if large := [v for v in found if v.ratings.scale != "set" and not fits(v.ratings)]:
        return [], f"{len(large[0].ratings.values):,} different values"
    return found, None


def measure(variable: Variable, *, replicates: int = REPLICATES, seed: int = 0) -> dict[str, Any]:
    """One variable: agreement, its values, raters, and persons against models where both judged."""
    ratings = variable.ratings
    found: dict[str, Any] = {
        "name": variable.name,
        "scale": ratings.scale,
        "items": int((ratings.per_item > 0).sum()),
        "pairable_items": int((ratings.per_item > 1).sum()),
        "judgements": len(ratings.item),
        "raters": len(ratings.present()),
        "alpha": _alpha(ratings, replicates, seed).to_json(),
    }
    if ratings.scale == "ordinal":
        found["alpha_nominal"] = alpha(ratings, "nominal", replicates=replicates, seed=seed).to_json()
    if ratings.scale != "set" and len(ratings.values) <= MOST_VALUES:
        weights: Weights = "ordinal" if ratings.scale == "ordinal" else "identity"
        found["gwet"] = gwet_ac(ratings, weights, replicates=replicates, seed=seed).to_json()
        found["percent"] = percent(ratings, replicates=replicates, seed=seed).to_json()
        shares = np.bincount(ratings.value, minlength=len(ratings.values)) / max(len(ratings.value), 1)
        found["values"] = [
            {"value": value, "share": round(float(share), 6)}
            for value, share in zip(ratings.values, shares, strict=True)
        ]
        several = ratings.per_item[ratings.item] > 1
        shared = ratings if several.all() else ratings.keep(several)
        if len(shared.item):
            found["per_rater"] = per_rater(shared, dawid_skene(shared))
    kinds = {ratings.raters[rater].kind in MODEL_KINDS for rater in ratings.present()}
    if kinds == {True, False}:
        ours = ratings.without_models()
        found["alpha_without_models"] = _alpha(ours, replicates, seed).to_json()
        if "per_rater" in found:
            found["persons_and_models"] = persons_and_models(ratings, ours)
    return found


def per_rater(ratings: Ratings, consensus: Consensus) -> list[dict[str, Any]]:
    """For each rater: judgements, share that equals the consensus, and the error that the consensus estimates."""
    choice = consensus.choice()[ratings.item]
    size = len(ratings.raters)
    outcome = (choice >= 0).astype(np.int64) + (choice == ratings.value)  # 0 undecided, 1 another value, 2 the same
    counted = np.bincount(3 * ratings.rater + outcome, minlength=3 * size).reshape(size, 3)
    judged, compared, equal = counted.sum(1), counted[:, 1:].sum(1), counted[:, 2]
    return [
        {
            "rater": name.name,
            "kind": name.kind,
            "judgements": int(judged[i]),
            "agrees_with_consensus": _number(equal[i] / compared[i]) if compared[i] else None,
            "estimated_error": _number(1.0 - consensus.quality[i]),
        }
        for i, name in enumerate(ratings.raters)
        if judged[i]
    ]


def persons_and_models(ratings: Ratings, persons: Ratings) -> dict[str, Any]:
    """The majority of persons (rows) against that of models (columns), on items where both have one.

    Args:
        persons: the ratings without those of models.
    """
    ours, theirs = _votes(persons.counts), _votes(ratings.counts - persons.counts)
    both = (ours >= 0) & (theirs >= 0)
    size = len(ratings.values)
    table = np.bincount(ours[both] * size + theirs[both], minlength=size * size).reshape(size, size)
    return {"values": list(ratings.values), "items": int(both.sum()), "confusion": table.tolist()}


def _votes(counts: Ints) -> Ints:
    """[I] the most frequent value of each row of [I, K] counts; -1 where there is none or two are equally frequent."""
    best, most = np.full(len(counts), -1), np.zeros(len(counts), np.int64)
    for value, column in enumerate(counts.T):  # a column at a time: rows of two or four numbers are slow to reduce
        best = np.where(column > most, value, np.where(column == most, -1, best))
        most = np.maximum(most, column)
    return best


def _alpha(ratings: Ratings, replicates: int, seed: int) -> Estimate:
    if ratings.scale == "set":
        return alpha_sets(ratings, "masi", replicates=replicates, seed=seed)
    return alpha(ratings, ratings.scale, replicates=replicates, seed=seed)


def _number(value: float) -> float | None:
    return None if math.isnan(value) else round(float(value), 6)
