"""A verdict in our fields, and in the categories of others through the crosswalk.

A category of theirs counts as **evaluated** only where one of our 19 is it or lies inside it (`=`, `<`). Where ours
merely overlap with it (`~`) or are wider (`>`), a guard that knows our 19 can't say, and it is not evaluated: OpenAI's
`self-harm` and the sub-types by intent, Azure's SelfHarm, Perspective's THREAT and PROFANITY. Harm to minors is never
derived. An unsafe text none of whose categories lies inside one of theirs is flagged under those evaluated ones that
they overlap, and these are named as approximate: the guard's "unsafe" must not read as "nothing found".
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any, NamedTuple

from poise.guard.verdict import Verdict, codes
from poise.harm import CATEGORIES, PKU, Category, Severity, load_crosswalk, translate, translate_scores
from poise.harm.crosswalk import SETTING
from poise.harm.taxonomy import load_taxonomy


class View(NamedTuple):
    """A verdict in another taxonomy.

    Args:
        flagged: keys that apply.
        approximate: those of `flagged` that our categories only overlap with.
        evaluated: keys that the guard can say something of and did.
        scores: every key -> P in [0, 1]; 0 where it was not evaluated.
    """

    flagged: frozenset[str]
    approximate: frozenset[str]
    evaluated: frozenset[str]
    scores: dict[str, float]


@cache
def sources(taxonomy: str) -> dict[str, frozenset[Category]]:
    """Keys of theirs that can be evaluated -> our categories that are it or lie inside it."""
    crosswalk = load_crosswalk(PKU, taxonomy)
    found = {}
    for category in load_taxonomy(taxonomy).categories:
        cells = [cell for cell in crosswalk.into(category.key) if cell.relation in SETTING]
        if cells and (category.derivable or not any(cell.lossy for cell in cells)):
            found[category.key] = frozenset(Category.parse(cell.source) for cell in cells)
    return found


def view(verdict: Verdict, taxonomy: str) -> View:
    """The verdict in `taxonomy`; nothing is evaluated in an unjudged one."""
    inside = sources(taxonomy)
    flagged: frozenset[str] = frozenset()
    approximate: frozenset[str] = frozenset()
    if verdict.categories:
        moved = translate([category.value for category in verdict.categories], load_crosswalk(PKU, taxonomy))
        flagged = (moved.categories or frozenset()) & frozenset(inside)
        if not flagged:
            flagged = approximate = moved.possible & frozenset(inside)
    known = frozenset() if verdict.unsafe is None else frozenset(CATEGORIES) - verdict.undecided
    evaluated = frozenset(key for key, ours in inside.items() if key in flagged or ours <= known)
    scores = dict.fromkeys(load_taxonomy(taxonomy).keys, 0.0)
    if verdict.category_probabilities is not None:
        given = {c.value: p for c, p in zip(CATEGORIES, verdict.category_probabilities, strict=True)}
        mapped = translate_scores(given, load_crosswalk(PKU, taxonomy))
        scores |= {key: mapped[key].probability for key in evaluated}
    else:
        certain = 1.0 if verdict.probability is None else verdict.probability
        scores |= dict.fromkeys(flagged, certain)
    return View(flagged, approximate, evaluated, scores)


def worst(verdict: Verdict) -> Severity | None:
    """The gravest level that the guard's word may stand for, None where it tells none."""
    return max(verdict.severities, default=None)


def in_order(keys: Iterable[str], taxonomy: str) -> list[str]:
    """Keys in the owner's order."""
    chosen = frozenset(keys)
    return [key for key in load_taxonomy(taxonomy).keys if key in chosen]


def our_fields(verdict: Verdict, *, pair: bool) -> dict[str, Any]:
    """What is added to every API's own fields where its clients keep what they don't know.

    Args:
        verdict: of one item.
        pair: a response was judged with its prompt, and not a text alone.
    """
    level, found, absent = verdict.severity, verdict.categories or frozenset(), verdict.absent
    shares, scores = verdict.severity_probabilities, verdict.category_probabilities
    return {
        "unjudged": verdict.reason,
        "unsafe_score": verdict.probability,
        "severity": None if level is None else level.label,
        "severity_level": None if level is None else int(level),
        "severity_scores": None if shares is None else {s.label: _share(shares[s]) for s in Severity},
        "harm_categories": {c.value: c in found or (None if c not in absent else False) for c in CATEGORIES},
        "harm_category_scores": None if scores is None else {c.value: scores[c.index] for c in CATEGORIES},
        "refusal": verdict.refusal,
        "unit": "pair" if pair else "text",
    }


def whole(verdict: Verdict, *, pair: bool) -> dict[str, Any]:
    """Everything a verdict says but the guard's raw answers, which may quote the text."""
    return {
        "unsafe": verdict.unsafe,
        **our_fields(verdict, pair=pair),
        "severities": [level.label for level in verdict.severities],
        "categories": None if verdict.categories is None else [c.value for c in CATEGORIES if c in verdict.categories],
        "undecided": codes(verdict.undecided) if verdict.unsafe else [],
        "taxonomy": verdict.taxonomy,
        "named": list(verdict.named),
        "level": verdict.level,
        "prompt_unsafe": verdict.prompt_unsafe,
    }


def reason_of(verdict: Verdict) -> str:
    """Categories and level of an unsafe verdict in one line, for people; no text and no score."""
    names = ", ".join(c.value for c in CATEGORIES if c in (verdict.categories or ())) or "category unknown"
    level = worst(verdict)
    return f"{names} ({'severity unknown' if level is None else level.label})"


def _share(value: float) -> float:
    return min(1.0, max(0.0, value))
