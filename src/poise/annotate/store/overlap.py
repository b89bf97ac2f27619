"""How many people are asked, and what their answers come to: pure functions of the votes.

Aggregation: what was adjudicated stands; else what more than half of the votes say; else nothing. A label is put
together part by part: a category applies, and a severity is reached, when more than half of the votes say so. An exact
half anywhere leaves the whole label open, so that two raters who differ are never averaged.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

from pydantic import Field

from poise.data.rows import Row, label_value, uniform_seed
from poise.harm import CATEGORIES, Label

TIE = "tie"
Value = dict[str, Any]
"""{"categories": [codes], "severity": n} or {"choice": 0 | 1 | "tie", "strength": 1 | 2 | None}."""


class OverlapPolicy(Row):
    """Who is asked how often; kept in the store and the same for all its life.

    Args:
        people: people asked about an item.
        more: people asked when they disagree, when a person and a model do, when any vote says severe or names a rare
            category, and about the share that is drawn by hash.
        random_share: of items that always get `more`, so that agreement can be estimated without bias.
        rare: codes of rare categories; a fixed list, so that nothing depends on the order of arrival.
        models_vote: whether models and imports count besides people.
        keep_labels: labels and choices that were imported stand without anybody being asked.
        lease_s: seconds until what was given to somebody is free again.
        seed: of everything that is drawn.
    """

    people: int = Field(default=2, ge=0, le=9)
    more: int = Field(default=3, ge=0, le=9)
    random_share: float = Field(default=0.05, ge=0, le=1)
    rare: tuple[str, ...] = ("S4", "S5", "S13", "S16", "S19")
    models_vote: bool = True
    keep_labels: bool = False
    lease_s: int = Field(default=900, ge=1)
    seed: int = 0

    def drawn(self, key: str) -> bool:
        """Whether an item belongs to the share that always gets `more`."""
        return uniform_seed(self.seed, key, "overlap") < self.random_share * 2**63

    def left(self, key: str, rater: str) -> int:
        """The response of a pair that a rater sees on the left, by the pair's content hash and the rater's name."""
        return uniform_seed(self.seed, rater, key, "left") & 1


class Vote(NamedTuple):
    """What one rater says now."""

    kind: str
    value: Value


class Outcome(NamedTuple):
    """What the votes come to.

    Args:
        value: None while nothing has a majority.
        source: "adjudicated", "unanimous", "majority" or "open".
        state: "open" (people are still wanted), "adjudicate" (they were asked and disagree) or "settled".
        wanted, have: people.
    """

    value: Value | None
    source: str
    state: Literal["open", "adjudicate", "settled"]
    wanted: int
    have: int


Combine = Callable[[Sequence[Value]], Value | None]


def outcome(
    policy: OverlapPolicy,
    votes: Sequence[Vote],
    combine: Combine,
    *,
    adjudicated: Value | None = None,
    careful: bool = False,
    audit: bool = False,
) -> Outcome:
    """What stands, and whether more people are wanted.

    Args:
        adjudicated: what an adjudicator decided, None when nobody did.
        careful: the item is severe, rare or drawn, so that `more` people are asked anyway.
        audit: the item is adjudicated even where the votes agree; labels that are kept from an import are not.
    """
    people = [vote.value for vote in votes if vote.kind == "person"]
    others = [vote.value for vote in votes if vote.kind in ("model", "import")]
    wanted = policy.people
    if careful or _differ(people) or (people and _differ(people + others)):
        wanted = max(policy.more, policy.people) if policy.people else 0
    kept = policy.keep_labels and not people and any(vote.kind == "import" for vote in votes)
    if kept:
        wanted = 0
    if adjudicated is not None:
        return Outcome(adjudicated, "adjudicated", "settled", wanted, len(people))
    counted = people + others if policy.models_vote or not policy.people else people
    value = combine(counted) if counted else None
    source = "open" if value is None else "majority" if _differ(counted) else "unanimous"
    if len(people) < wanted or not counted:
        return Outcome(value, source, "open", wanted, len(people))
    decide = value is None or (audit and not kept)
    return Outcome(value, source, "adjudicate" if decide else "settled", wanted, len(people))


def _differ(values: Sequence[Value]) -> bool:
    """Whether two of the values differ in what they decide; strength does not."""
    return len({(*v["categories"], v["severity"]) if "severity" in v else v["choice"] for v in values}) > 1


def combine_labels(values: Sequence[Value]) -> Value | None:
    """The label of the majority, part by part; None where any part is split in halves or no category is left."""
    n = len(values)
    named = Counter(code for value in values for code in value["categories"])
    levels = [sum(value["severity"] >= level for value in values) for level in (1, 2, 3)]
    if any(2 * count == n for count in (*named.values(), *levels)):
        return None
    codes = [category.code for category in CATEGORIES if 2 * named[category.code] > n]
    severity = sum(2 * count > n for count in levels)
    if bool(codes) != bool(severity):
        return None
    return label_value(Label.of(codes, severity))


def combine_choices(values: Sequence[Value]) -> Value | None:
    """The choice of more than half, with the lower median of its strengths; None where there is none."""
    (choice, count), *_ = Counter(value["choice"] for value in values).most_common()
    if 2 * count <= len(values):
        return None
    strengths = sorted(v["strength"] for v in values if v["choice"] == choice and v.get("strength") is not None)
    return {"choice": choice, "strength": strengths[(len(strengths) - 1) // 2] if strengths else None}


def is_careful(policy: OverlapPolicy, key: str, labels: Sequence[Value]) -> bool:
    """Whether an item gets `more` people anyway, from its key and the labels that anybody gave it."""
    return policy.drawn(key) or any(
        label["severity"] == 3 or not set(policy.rare).isdisjoint(label["categories"]) for label in labels
    )


def is_clear(votes: Sequence[Vote]) -> bool:
    """Whether an item is clear enough for a planted suggestion: a model and a person (or an import) judged it, and all
    who did agree."""
    kinds = {vote.kind for vote in votes}
    return "model" in kinds and bool(kinds & {"person", "import"}) and not _differ([vote.value for vote in votes])


def cyclic(choices: Sequence[tuple[int, int]]) -> set[tuple[int, int]]:
    """The strict choices (better, worse) that lie on a cycle; two answers that tie make none.

    An edge lies on a cycle when its winner can be reached from its loser.
    """
    beats: dict[int, set[int]] = {}
    for winner, loser in choices:
        beats.setdefault(winner, set()).add(loser)

    def reaches(start: int, goal: int) -> bool:
        seen, todo = {start}, [start]
        while todo:
            for node in beats.get(todo.pop(), set()) - seen:
                if node == goal:
                    return True
                seen.add(node)
                todo.append(node)
        return False

    return {(winner, loser) for winner, loser in choices if reaches(loser, winner)}
