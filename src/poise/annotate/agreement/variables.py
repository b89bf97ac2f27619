"""What a question asks, as variables that agreement can be measured of.

A "label" is many: whether it is safe, its severity, its set of categories, and each of the 19 as yes or no; one that
contradicts itself is unjudged. Numbers are ordinal, lists of names are sets, all else is nominal unless an order is
given.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa

from poise.annotate.agreement.ratings import Ints, Ratings, Scale
from poise.annotate.agreement.reading import Question
from poise.data.corpus import canonical_json
from poise.errors import PoiseError
from poise.harm import CATEGORIES, PKU, Category

SAFE, SEVERITY, CATEGORY_SET = "safe", "severity", "categories"
CHOICES = ("better", "safer", "single")
MOST_NAMES = 63
"""Names that a set can be made of, one bit each."""
_DECISIVE: dict[str, tuple[Any, Any]] = {SAFE: (False, True)} | dict.fromkeys(CHOICES, (0, 1))


@dataclass(frozen=True)
class Variable:
    """One thing that was judged: `ratings` on its scale.

    Args:
        name: "safe", "severity", "categories", a category's public name, or the question where it is one variable.
    """

    name: str
    ratings: Ratings


def variables(question: Question, orders: Mapping[str, Sequence[Any]] | None = None) -> list[Variable]:
    """The variables of a question, the coarsest first.

    Args:
        orders: question -> its values in their order, which makes it ordinal.

    Raises:
        PoiseError: a label that cannot be read, a value that the given order does not have, too many names.
    """
    ratings = question.ratings
    if question.name == "label":
        return _label_variables(ratings)
    if order := (orders or {}).get(question.name):
        return [Variable(question.name, _recoded(ratings, order, "ordinal", question.name))]
    if all(isinstance(value, list) for value in ratings.values):
        return [Variable(question.name, _sets(ratings, question.name))]
    return [Variable(question.name, _recoded(ratings, *_scale(question.name, ratings.values), question.name))]


def free_text(question: Question) -> str | None:
    """Why the values of a source's own question are texts and no scale; None where they may be one."""
    values = question.ratings.values
    if question.name == "label" or question.name in _DECISIVE:
        return None
    if all(isinstance(value, list) for value in values):
        names = {str(name) for value in values for name in value}
        return f"sets of {len(names):,} names" if len(names) > MOST_NAMES else None
    texts = sum(not isinstance(value, int | float) for value in values)
    return f"{texts:,} different texts" if texts > MOST_NAMES else None


def decisive(question: Question) -> Question:
    """The answers to "safe" that are true or false, those to a choice that are 0 or 1; all else is unjudged."""
    if question.name not in _DECISIVE:
        return question
    values = _DECISIVE[question.name]
    ratings = question.ratings.recoded(_places(question.ratings.values, values), values)
    items, item = np.unique(ratings.item, return_inverse=True)
    return replace(
        question,
        ratings=replace(ratings, item=item, items=len(items)),
        names=question.names.take(pa.array(items)),
        unjudged=question.unjudged + len(question.ratings.item) - len(item),
    )


def _scale(name: str, values: Sequence[Any]) -> tuple[Sequence[Any], Scale]:
    """All values in their order, and what scale they make."""
    if name in CHOICES and all(value in (0, 1) and not isinstance(value, bool) for value in values):
        return (0, 1), "nominal"
    if all(isinstance(value, bool) for value in values):
        return (False, True), "nominal"
    if all(_is_number(value) for value in values):
        return sorted(values), "ordinal"
    return sorted(values, key=canonical_json), "nominal"


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _recoded(ratings: Ratings, order: Sequence[Any], scale: Scale, where: str) -> Ratings:
    """The values in the order given."""
    codes = _places(ratings.values, order)
    if (codes < 0).any():
        missing = ratings.values[int(codes.argmin())]
        raise PoiseError(f"value {missing!r} has no place in the order", where=where, do="name all values")
    return ratings.recoded(codes, order, scale)


def _places(values: Sequence[Any], order: Sequence[Any]) -> Ints:
    """[K] where each value stands in the order, -1 where it does not."""
    places = {canonical_json(value): i for i, value in enumerate(order)}
    return np.array([places.get(canonical_json(value), -1) for value in values], np.int64)


def _sets(ratings: Ratings, where: str) -> Ratings:
    names = sorted({str(name) for value in ratings.values for name in value})
    if len(names) > MOST_NAMES:
        raise PoiseError(f"sets of {len(names)} names", where=where, do=f"use at most {MOST_NAMES} names")
    place = {name: i for i, name in enumerate(names)}
    masks = [sum(1 << place[name] for name in {str(name) for name in value}) for value in ratings.values]
    return _by_mask(ratings, masks)


def _by_mask(ratings: Ratings, masks: Sequence[int]) -> Ratings:
    """Sets as values; -1 is not judged."""
    distinct = sorted({mask for mask in masks if mask >= 0})
    place = {mask: i for i, mask in enumerate(distinct)}
    return ratings.recoded(np.array([place.get(mask, -1) for mask in masks], np.int64), distinct, "set")


def _label_variables(ratings: Ratings) -> list[Variable]:
    """Safe, severity, the set, and every category; what a label does not tell is not judged."""
    parsed = [_parts(value) for value in ratings.values]
    safe = np.array([-1 if flag is None else int(flag) for flag, _, _ in parsed], np.int64)
    severity = np.array([-1 if level is None else level for _, level, _ in parsed], np.int64)
    masks = [mask for _, _, mask in parsed]
    found = [
        Variable(SAFE, ratings.recoded(safe, (False, True))),
        Variable(SEVERITY, ratings.recoded(severity, (0, 1, 2, 3), "ordinal")),
        Variable(CATEGORY_SET, _by_mask(ratings, masks)),
    ]
    for category in CATEGORIES:
        flags = np.array([-1 if mask < 0 else mask >> category.index & 1 for mask in masks], np.int64)
        found.append(Variable(category.value, ratings.recoded(flags, (False, True))))
    return [variable for variable in found if len(variable.ratings.item)]


@cache
def _bit(name: str) -> int:
    return 1 << Category.parse(name).index


def _parts(value: object) -> tuple[bool | None, int | None, int]:
    """(safe, severity, mask of categories or -1) of one label; whichever of the three tells whether it is safe.

    A label whose parts contradict each other tells nothing.
    """
    if not isinstance(value, dict):
        raise PoiseError(f"label {value!r}", where="judgements", do="write an object with categories and severity")
    severity, named, safe = value.get("severity"), value.get("categories"), value.get("safe")
    mask = -1
    if (
        isinstance(named, list)
        and all(isinstance(name, str) for name in named)
        and value.get("taxonomy") in (None, PKU)
    ):
        try:
            mask = sum({_bit(name) for name in named})
        except ValueError as error:
            raise PoiseError(str(error), where="label in judgements", do="use names of the 19 categories") from error
    if severity is not None and (isinstance(severity, bool) or severity not in (0, 1, 2, 3)):
        raise PoiseError(f"severity {severity!r}", where="label in judgements", do="use 0, 1, 2 or 3")
    told = [safe] if isinstance(safe, bool) else []
    told += [severity == 0] if severity is not None else []
    told += [mask == 0] if mask >= 0 else []
    if len(set(told)) > 1:
        return None, None, -1
    if not told and isinstance(named, list):
        told = [not named]
    return told[0] if told else None, severity, mask
