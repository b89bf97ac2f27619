"""The quality report of a store: every rater on gold, people against themselves, the gold items; and suggestions.

It reads judgements and answers to hidden checks. Skips, opt-outs, breaks, drafts and checks that were not answered are
not read: what people do for their wellbeing is no measure of their work. Intervals are at 95 %. A suggestion needs one
of 99 % on the wrong side, since a report looks at many people at once; it names what to look at and is no verdict.
Raters are named as in the store: the report is for a lead, not for release.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import sqlalchemy as sa

from poise.annotate.quality.consistency import left_share, repeats
from poise.annotate.quality.gold import Tally, safety_right
from poise.annotate.quality.habits import habits_of
from poise.annotate.quality.policy import QualityPolicy
from poise.annotate.store.exporting import answers_of, records_of_kind
from poise.annotate.store.known import Graded, graded, quality_policy
from poise.annotate.store.log import parsed
from poise.annotate.store.settle import QUESTIONS
from poise.annotate.store.store import AnnotationStore
from poise.data.records import JudgementRecord, Record
from poise.metrics import Interval, wilson_interval

SURE = 0.99
"""Coverage of the intervals behind suggestions."""
_HURRIED = 0.02
"""Share of answers faster than reading that is no matter for a talk."""
_TIMED = "exists (select 1 from event e where e.item = i.id and e.client_ms is not null)"
_ITEMS = """
select g.state, i.kind, i.key, g.history, (select count(*) from probe p where p.item = g.item and p.kind = 'gold')
    as shown from gold g join item i on i.id = g.item order by g.item
"""


def quality_report(store: AnnotationStore, *, cut: float = 3.5, fastest_wpm: float = 600.0) -> dict[str, Any]:
    """All of it as JSON: `policy`, `raters`, `habits` (of people, see `habits.habits_of`), `gold`.

    Args:
        cut, fastest_wpm: as in `poise.annotate.quality.timing.too_fast`.
    """
    with store.database.read() as db:
        policy = quality_policy(db) or QualityPolicy()
        people = [row for row in answers_of(db) if row.rater_kind == "person"]
        habits = habits_of(people, _texts(db), cut=cut, fastest_wpm=fastest_wpm)
        answers: dict[int, list[Graded]] = defaultdict(list)
        for one in graded(db):
            answers[one.rater].append(one)
        names = db.execute(sa.text("select id, name, kind, version from rater order by name, version")).all()
        told = suggestions(people, habits, {row.name: answers[row.id] for row in names if row.kind == "person"}, policy)
        seen = {row.rater for row in people}
        return {
            "policy": policy.model_dump(),
            "raters": [
                {"name": row.name, "kind": row.kind, "version": row.version, "gold": _on_gold(answers[row.id])}
                | {"suggestions": told.get(row.name, []) if row.kind == "person" else []}
                for row in sorted(names, key=lambda row: row.kind != "person")
                if answers[row.id] or (row.kind == "person" and row.name in seen)
            ],
            "habits": habits,
            "gold": _gold(db, policy, [one for row in names if row.kind == "person" for one in answers[row.id]]),
        }


def suggestions(
    rows: Sequence[JudgementRecord], habits: dict[str, Any], gold: dict[str, list[Graded]], policy: QualityPolicy
) -> dict[str, list[str]]:
    """Person -> what a lead may want to look at; nothing where nothing is sure.

    Args:
        rows: what people said. habits: of the same rows. gold: person -> answers to gold items.
    """
    found: dict[str, list[str]] = defaultdict(list)
    for name, answers in gold.items():
        tally = _tally(answers)
        if tally.accuracy(SURE).high < policy.accuracy_goal:
            share = f"{tally.accuracy().mean:.0%} of {tally.judged} gold answers are exact"
            found[name].append(f"retrain: {share}, the goal is {policy.accuracy_goal:.0%}")
    lowest: dict[str, tuple[str, Interval]] = {}
    for (name, question), again in repeats(rows, SURE).items():
        if name not in lowest or again.high < lowest[name][1].high:
            lowest[name] = question, again
    for name, (question, again) in lowest.items():
        if again.high < policy.accuracy_goal:
            same = f"{again.mean:.0%} of {again.n} answers are the same the second time"
            found[name].append(f"look at repeats: {question}, {same}")
    for (name, question), left in left_share(rows, SURE).items():
        if left.low > 0.5 or left.high < 0.5:
            found[name].append(f"look at sides: {left.mean:.0%} of {left.n} choices of {question} went to the left")
    for times in habits["times"]:
        if times["by_floor"] > max(2, _HURRIED * times["answers"]):
            told = f"{times['by_floor']} of {times['answers']} answers came faster than reading"
            found[times["rater"]].append(f"look at times: {told}")
    return found


def _texts(db: sa.Connection) -> Iterator[Record]:
    for kind in QUESTIONS:
        yield from records_of_kind(db, kind, _TIMED)


def _tally(answers: Sequence[Graded]) -> Tally:
    return Tally.of(one.grade for one in answers if not one.doubted)


def _on_gold(answers: Sequence[Graded]) -> dict[str, Any]:
    tally = _tally(answers)
    labels = [one for one in answers if not one.doubted and one.given is not None and "severity" in one.known]
    right = sum(safety_right(one.known, one.given) for one in labels if one.given is not None)
    return {
        "accuracy": _json(tally.accuracy()),
        "exact": tally.exact,
        "severity_off_by_one": tally.near,
        "wrong": tally.wrong,
        "unjudged": tally.unjudged,
        "with_half_points": tally.partial(),
        "safe_or_harmful": _json(wilson_interval(right, len(labels))),
        "in_review": sum(one.doubted for one in answers),
    }


def _gold(db: sa.Connection, policy: QualityPolicy, answers: Sequence[Graded]) -> dict[str, Any]:
    """How many items there are, how much they were used, and how people found each category."""
    rows = db.execute(sa.text(_ITEMS)).all()
    known, found, named = Counter[str](), Counter[str](), Counter[str]()
    for one in answers:
        if one.doubted or one.given is None or "categories" not in one.known:
            continue
        known.update(one.known["categories"])
        named.update(one.given["categories"])
        found.update(set(one.known["categories"]) & set(one.given["categories"]))
    return {
        "items": dict(sorted(Counter(f"{row.kind} {row.state}" for row in rows).items())),
        "shown": sum(row.shown for row in rows),
        "at_cap": sum(row.state == "active" and row.shown >= policy.cap for row in rows),
        "review": [
            {"key": f"{row.kind}:{row.key}", "why": parsed(row.history)[-1]["why"]}
            for row in rows
            if row.state == "review"
        ],
        "by_category": {
            code: {
                "found": _json(wilson_interval(found[code], known[code])),
                "named_rightly": _json(wilson_interval(found[code], named[code])),
            }
            for code in sorted(known | named, key=lambda code: int(code[1:]))
        },
    }


def _json(interval: Interval) -> dict[str, Any]:
    """As JSON; what is undefined is null."""
    told = interval._asdict().items()
    return {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in told}
