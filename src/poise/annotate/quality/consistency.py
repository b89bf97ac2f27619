"""A rater against themselves: the same item again, and the same pair with its sides changed.

All functions read judgement records as `poise annotate export` writes them: `round` counts a rater's answers to one
question about one item, and in the provenance `shown.page.left`, or `shown.left` where no store wrote it, is the
response (0 or 1) that stood on the left. Answers after a suggestion and adjudications are left out, since they are not
the rater's own; so are rules, and answers without a value. A rater is one version: a model with another prompt is
another rater.

Left out: whether a repeat was recognised, and the time between both answers.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, TypeGuard

from poise.data.corpus import canonical_json
from poise.data.records import JudgementRecord
from poise.metrics import Interval, wilson_interval

Key = tuple[str, str]
"""(rater, question); for labels the question is "label: safe", "label: severity" or "label: categories"."""


class Swaps(NamedTuple):
    """Pairs that one rater saw in both orders.

    Args:
        same: share in which the same response was chosen both times.
        left, right: pairs in which the left (right) one was chosen both times, whatever stood there.
    """

    same: Interval
    left: int
    right: int


def repeats(records: Iterable[JudgementRecord], level: float = 0.95) -> dict[Key, Interval]:
    """Share of items on which a rater's first two answers agree, with Wilson's interval over items.

    Args:
        level: coverage, 0..1.
    """
    answers: dict[tuple[str, str, str, str], dict[int, JudgementRecord]] = defaultdict(dict)
    for row in own(records):
        answers[row.rater, row.rater_version, row.question, row.item].setdefault(row.round, row)
    found: dict[Key, list[bool]] = defaultdict(list)
    for (rater, _, question, _), rounds in answers.items():
        if len(rounds) < 2:
            continue
        first, second = (_parts(question, rounds[i].value) for i in sorted(rounds)[:2])
        for name in first.keys() & second.keys():
            found[rater, name].append(first[name] == second[name])
    return {key: wilson_interval(sum(same), len(same), level) for key, same in sorted(found.items())}


def left_share(records: Iterable[JudgementRecord], level: float = 0.95) -> dict[Key, Interval]:
    """P(left is chosen) by rater and question, with Wilson's interval; .5 without a bias, as the side is drawn by hash.

    A rater's first answer about a pair in each order counts. Ties name no side and are left out.

    Args:
        level: coverage, 0..1.
    """
    chosen: dict[Key, list[bool]] = defaultdict(list)
    for (rater, _, question, _), sides in _sides(records).items():
        chosen[rater, question] += [left == choice for left, choice in sides.items()]
    return {key: wilson_interval(sum(left), len(left), level) for key, left in sorted(chosen.items())}


def swaps(records: Iterable[JudgementRecord], level: float = 0.95) -> dict[Key, Swaps]:
    """Consistency over pairs that a rater chose from in both orders; a pair is known by its two responses.

    Args:
        level: coverage, 0..1.
    """
    counts: dict[Key, list[int]] = defaultdict(lambda: [0, 0, 0])
    for (rater, _, question, _), sides in _sides(records).items():
        if len(sides) == 2:
            lefts = sum(left == choice for left, choice in sides.items())  # 1: the same response in both orders
            counts[rater, question][lefts] += 1
    return {
        key: Swaps(wilson_interval(same, right + same + left, level), left, right)
        for key, (right, same, left) in sorted(counts.items())
    }


def own(records: Iterable[JudgementRecord]) -> Iterator[JudgementRecord]:
    """Answers with a value, of raters that could have answered otherwise, given without suggestion or others' votes."""
    for row in records:
        adjudicated = (row.provenance or {}).get("kind") == "adjudicate"
        if row.value is not None and row.rater_kind != "rule" and not adjudicated and "suggestion" not in _shown(row):
            yield row


def _sides(records: Iterable[JudgementRecord]) -> dict[tuple[str, str, str, tuple[str, ...]], dict[str, str]]:
    """(rater, version, question, the two hashes sorted) -> hash on the left -> hash chosen, of the earliest round."""
    found: dict[tuple[str, str, str, tuple[str, ...]], dict[str, str]] = defaultdict(dict)
    for row in sorted(own(records), key=lambda row: row.round):
        left = _left(row)
        if len(set(row.responses)) == 2 and _is_side(left) and _is_side(row.value):
            key = (row.rater, row.rater_version, row.question, tuple(sorted(row.responses)))
            pair: tuple[str, ...] = row.responses
            found[key].setdefault(pair[left], pair[row.value])
    return found


def _left(row: JudgementRecord) -> Any:
    shown = _shown(row)
    page = shown.get("page")
    return page.get("left") if isinstance(page, Mapping) else shown.get("left")


def _shown(row: JudgementRecord) -> Mapping[str, Any]:
    shown = (row.provenance or {}).get("shown")
    return shown if isinstance(shown, Mapping) else {}


def _is_side(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value in (0, 1)


def _parts(question: str, value: Any) -> dict[str, Hashable]:
    """What of a value is compared, by the name it is reported under."""
    if question != "label" or not isinstance(value, Mapping):
        return {question: canonical_json(value)}
    parts: dict[str, Hashable] = {f"label: {name}": value[name] for name in ("safe", "severity") if name in value}
    if isinstance(value.get("categories"), list | tuple):
        parts["label: categories"] = tuple(sorted(value["categories"]))
    return parts
