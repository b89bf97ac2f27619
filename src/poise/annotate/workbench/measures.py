"""What the dashboard shows that takes seconds to work out: days, grid, agreement, raters; all of one moment.

Every current answer is read once and coded as integers; agreement is then arithmetic (`poise.annotate.agreement`).
Answers of rules are left out, and so are answers after a planted suggestion and those to "safer" under labels that have
changed since. Opt-outs, skips and what a person was exposed to are not counted here: they say nothing about the quality
of work.
"""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import sqlalchemy as sa

from poise.annotate.agreement import Estimate, Question, RaterName, Ratings, alpha, alpha_sets, variables
from poise.annotate.agreement.ratings import Ints
from poise.annotate.store import AnnotationStore
from poise.annotate.store.known import tallies
from poise.annotate.store.log import parsed
from poise.annotate.workbench.dashboard import moment
from poise.harm import CATEGORIES
from poise.metrics import Interval

DAYS = 14
REPLICATES = 200
"""Resamples of an interval."""
_DAY_MS = 86_400_000

_BY_DAY = """
select e.at_ms / 86400000 as day, e.kind, r.kind as rater, count(*) as n from event e join rater r on r.id = e.rater
where e.kind <> 'import' and r.kind <> 'rule' and e.at_ms >= :since group by e.at_ms / 86400000, e.kind, r.kind
"""
_GRID = "select value, count(*) as n from final where question = 'label' and settled group by value"
_SAID = """
select j.item, j.rater, j.value, j.client_ms, j.shown from counted_judgement j join rater r on r.id = j.rater
left join final f on f.item = j.item and f.question = j.question
where j.question = :question and j.value is not null and r.kind <> 'rule' and (j.pins is null or j.pins = f.pins)
"""
_DECIDED = "select item, value from final where question = :question and source = 'adjudicated' and settled"
QUESTIONS = ("label", "better", "safer", "single")


@dataclass(frozen=True)
class Day:
    """What was done on one day (UTC)."""

    day: date
    by_people: int
    by_models: int
    adjudicated: int
    undone: int


@dataclass(frozen=True)
class Grid:
    """Settled labels: [19][3] by category and severity 1..3 (a label may stand in several rows), and the safe ones."""

    cells: tuple[tuple[int, int, int], ...]
    safe: int
    harmful: int


@dataclass(frozen=True)
class Agreement:
    """Krippendorff's alpha of one variable; `people` is that among people, where models judged too."""

    question: str
    name: str
    scale: str
    all: Estimate
    people: Estimate | None


@dataclass(frozen=True)
class RaterLine:
    """One rater.

    Args:
        answers: current ones.
        median_s: of the time an answer took, None where it was not recorded.
        shown, overridden: answers before which a model's suggestion was shown, and those of them that differ from it.
        decided, as_decided: answers to what was adjudicated, and those of them that say the same.
        gold: share of answers to hidden gold items that are exact, with its interval; None without any.
    """

    name: str
    kind: str
    version: str
    answers: int
    median_s: float | None
    shown: int
    overridden: int
    decided: int
    as_decided: int
    gold: Interval | None


@dataclass(frozen=True)
class Measures:
    """All of it, and of when: `events` is the length of the log, `seconds` how long it took, `doubted` the gold items
    that are under review."""

    at: datetime
    events: int
    seconds: float
    days: tuple[Day, ...]
    grid: Grid
    agreement: tuple[Agreement, ...]
    raters: tuple[RaterLine, ...]
    doubted: int


def measure(store: AnnotationStore) -> Measures:
    """Work everything out in one reading transaction."""
    began, now = time.perf_counter(), store.now_ms()
    with store.database.read() as db:
        events = db.execute(sa.text("select max(seq) from event")).scalar() or 0
        told = [answers for question in QUESTIONS if len((answers := _answers(db, question)).item)]
        names = {row.id: row for row in db.execute(sa.text("select id, name, kind, version from rater"))}
        days, grid, gold = _days(db, now), _grid(db), tallies(db)
        doubted = db.execute(sa.text("select count(*) from gold where state = 'review'")).scalar() or 0
    agreement = [line for answers in told for line in _agreement(answers, names)]
    return Measures(
        at=moment(now),
        events=int(events),
        seconds=time.perf_counter() - began,
        days=days,
        grid=grid,
        agreement=tuple(agreement),
        raters=_raters(told, names, {key: tally.accuracy() for key, tally in gold.items() if tally.judged}),
        doubted=int(doubted),
    )


@dataclass(frozen=True)
class _Answers:
    """The current answers to one question as codes; N answers.

    Args:
        item, rater, value: [N]; keys of the store, and positions in `values`.
        seconds: [N], NaN where not recorded.
        shown: [N] position of the suggestion that was shown, -1 for none.
        decided: [N] position of the adjudicated value, -1 for none.
    """

    question: str
    item: Ints
    rater: Ints
    value: Ints
    values: list[Any]
    seconds: Any
    shown: Ints
    decided: Ints


def _answers(db: sa.Connection, question: str) -> _Answers:
    """Read the answers; each distinct text is parsed once."""
    codes: dict[str, int] = {}
    values: list[Any] = []
    same: dict[str, int] = {}

    def code(text: str) -> int:
        if text not in codes:
            value = json.loads(text)
            if isinstance(value, dict) and "choice" in value:
                value = value["choice"]  # how strongly is no part of agreement
            key = json.dumps(value, sort_keys=True)
            if key not in same:
                same[key] = len(values)
                values.append(value)
            codes[text] = same[key]
        return codes[text]

    decided = {row.item: code(row.value) for row in db.execute(sa.text(_DECIDED), {"question": question})}
    rows = db.execution_options(yield_per=5000).execute(sa.text(_SAID), {"question": question})
    table = [
        (item, rater, code(value), -1 if ms is None else ms, -1 if shown is None else _suggested(shown, code))
        for item, rater, value, ms, shown in rows
    ]
    columns = np.array(table, np.int64).reshape(-1, 5)
    columns = columns[np.argsort(columns[:, 0], kind="stable")]
    item, rater, value, ms, shown = columns.T
    return _Answers(
        question=question,
        item=item,
        rater=rater,
        value=value,
        values=values,
        seconds=np.where(ms < 0, np.nan, ms / 1000.0),
        shown=shown,
        decided=np.array([decided.get(one, -1) for one in item.tolist()], np.int64),
    )


def _suggested(shown: str, code: Callable[[str], int]) -> int:
    """The suggestion that was shown before the answer, as a value; -1 where there was none."""
    told = parsed(shown)
    value = told.get("suggestion") if isinstance(told, dict) else None
    return -1 if value is None else code(json.dumps(value))


def _ratings(answers: _Answers, names: dict[int, Any]) -> Ratings:
    items, item = np.unique(answers.item, return_inverse=True)
    raters, rater = np.unique(answers.rater, return_inverse=True)
    known = tuple(RaterName(names[key].name, names[key].kind) for key in raters.tolist())
    return Ratings(item, rater, answers.value, len(items), known, tuple(answers.values))


def _agreement(answers: _Answers, names: dict[int, Any]) -> list[Agreement]:
    ratings = _ratings(answers, names)
    question = Question(answers.question, ratings, pa.array([], pa.string()), 0, 0)
    lines = []
    for variable in variables(question):
        kinds = {variable.ratings.raters[rater].kind == "person" for rater in variable.ratings.present()}
        people = [i for i, name in enumerate(variable.ratings.raters) if name.kind == "person"]
        lines.append(
            Agreement(
                answers.question,
                variable.name,
                variable.ratings.scale,
                _alpha(variable.ratings),
                _alpha(variable.ratings.by(people)) if kinds == {True, False} else None,
            )
        )
    return lines


def _alpha(ratings: Ratings) -> Estimate:
    if ratings.scale == "set":
        return alpha_sets(ratings, "masi", replicates=0)
    return alpha(ratings, ratings.scale, replicates=REPLICATES)


def _raters(told: list[_Answers], names: dict[int, Any], gold: dict[int, Interval]) -> tuple[RaterLine, ...]:
    lines = []
    for key in sorted({int(rater) for answers in told for rater in np.unique(answers.rater)} | gold.keys()):
        count: Counter[str] = Counter()
        seconds = []
        for answers in told:
            mine = answers.rater == key
            value, shown, decided = answers.value[mine], answers.shown[mine], answers.decided[mine]
            took = answers.seconds[mine]
            seconds.append(took[~np.isnan(took)])
            count["answers"] += len(value)
            count["shown"] += int((shown >= 0).sum())
            count["overridden"] += int(((shown >= 0) & (shown != value)).sum())
            count["decided"] += int((decided >= 0).sum())
            count["as_decided"] += int((decided == value).sum())
        times, name = np.concatenate([np.empty(0), *seconds]), names[key]
        median = float(np.median(times)) if len(times) else None
        fields = {field: count[field] for field in ("answers", "shown", "overridden", "decided", "as_decided")}
        lines.append(RaterLine(name.name, name.kind, name.version, median_s=median, **fields, gold=gold.get(key)))
    return tuple(sorted(lines, key=lambda line: (line.kind != "person", -line.answers, line.name)))


def _days(db: sa.Connection, now: int) -> tuple[Day, ...]:
    """The last `DAYS` days that end today, also those on which nothing happened."""
    today = now // _DAY_MS
    found: Counter[tuple[int, str]] = Counter()
    for row in db.execute(sa.text(_BY_DAY), {"since": (today - DAYS + 1) * _DAY_MS}):
        answered = row.kind in ("judge", "check")
        what = row.kind if not answered else "person" if row.rater == "person" else "model"
        found[int(row.day), what] += row.n
    return tuple(
        Day(
            day=moment(day * _DAY_MS).date(),
            by_people=found[day, "person"],
            by_models=found[day, "model"],
            adjudicated=found[day, "adjudicate"],
            undone=found[day, "undo"],
        )
        for day in range(today - DAYS + 1, today + 1)
    )


def _grid(db: sa.Connection) -> Grid:
    cells: Counter[tuple[str, int]] = Counter()
    safe = harmful = 0
    for row in db.execute(sa.text(_GRID)):
        value = parsed(row.value)
        if value is None:
            continue
        if value["severity"] == 0:
            safe += row.n
            continue
        harmful += row.n
        cells.update({(code, value["severity"]): row.n for code in value["categories"]})
    rows = [(cells[c.code, 1], cells[c.code, 2], cells[c.code, 3]) for c in CATEGORIES]
    return Grid(tuple(rows), safe, harmful)


def known(estimate: Estimate) -> bool:
    """Whether a coefficient is defined."""
    return not math.isnan(estimate.value)
