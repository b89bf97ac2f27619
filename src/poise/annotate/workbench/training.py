"""Practice on items whose answers are known: rounds, feedback after each answer, scores, and the gate before real work.

The items are the project's own labelled examples (`poise.data.seeds`). A round is drawn by hash when it begins: about a
third of it is harmless, the rest covers as many categories and severities as it can, without the categories that the
person has opted out of. An answer stands as it was first given, and none of them enters the judgement log.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import sqlalchemy as sa
from pydantic import Field

from poise.annotate.store import AnnotationStore, schema
from poise.annotate.store.answers import checked_value
from poise.annotate.store.chain import canonical
from poise.annotate.store.log import parsed
from poise.annotate.workbench.guidelines import ANCHORS
from poise.data.corpus import latest
from poise.data.rows import Row, uniform_seed
from poise.data.seeds import load_seeds
from poise.errors import PoiseError
from poise.harm import Category, Label, Severity
from poise.harm.guidelines import guidelines

_SETTINGS = "training"
"""Key of the settings in the table `meta`."""


class TrainingSettings(Row):
    """How people are trained; kept in the store.

    Args:
        required: a person is sent to the training first, until a round is passed.
        items: practice items of a round.
        pass_mark: share of the points that a round needs, for categories and for severity alike.
    """

    required: bool = False
    items: int = Field(default=15, ge=3, le=60)
    pass_mark: float = Field(default=0.7, ge=0, le=1)


@dataclass(frozen=True)
class Practice:
    """An item whose answer is known."""

    id: str
    prompt: str
    response: str
    label: Label


@dataclass(frozen=True)
class Note:
    """A sentence of the guideline that explains a difference.

    Args:
        why: "missed", "not meant", or "severity".
        category: None for severity none.
    """

    why: str
    category: Category | None
    version: str
    text: str


@dataclass(frozen=True)
class Feedback:
    """How an answer differs from the known one.

    Args:
        category_points: shared categories over all that either names, 1 where neither names any.
        severity_points: 1 for the same level, 1/2 for the next one of the harmful levels, otherwise 0.
    """

    practice: Practice
    given: Label
    missed: tuple[Category, ...]
    extra: tuple[Category, ...]
    category_points: float
    severity_points: float
    notes: tuple[Note, ...]

    @property
    def right(self) -> bool:
        """Whether nothing differs."""
        return self.given == self.practice.label


@dataclass(frozen=True)
class Tally:
    """Points of the items that concern one category or one severity."""

    name: str
    items: int
    points: float


@dataclass(frozen=True)
class Progress:
    """How far a person is in the present round.

    Args:
        number: of the round, 1 for the first; 0 before any.
        passed: None while it goes on.
        categories, severity: share of the points so far, None before the first answer.
        by_category, by_severity: the same in parts; by the known answer.
        qualified: whether any round was passed.
    """

    number: int
    done: int
    of: int
    passed: bool | None
    categories: float | None
    severity: float | None
    by_category: tuple[Tally, ...]
    by_severity: tuple[Tally, ...]
    qualified: bool


@cache
def practice_items() -> dict[str, Practice]:
    """All practice items by id."""
    seeds = load_seeds()
    labels = latest(seeds.judgements, "label")
    return {row.id: Practice(row.id, row.prompt, row.response, labels[row.id].label()) for row in seeds.qa}


def draw(count: int, *seed: str, besides: Collection[str] = ()) -> list[str]:
    """Ids of the items of a round, in the order in which they are shown.

    Args:
        count: items of the round; fewer when there are not so many.
        seed: what the draw depends on: the person and the number of the round.
        besides: codes of categories that are left out.
    """
    order = sorted(practice_items(), key=lambda item: uniform_seed(0, item, "training", *seed))
    items = [practice_items()[item] for item in order]
    safe = [one.id for one in items if one.label.safe]
    left = [one for one in items if not one.label.safe and not {c.code for c in one.label.categories} & set(besides)]
    chosen = safe[: max(count - len(left), round(count / 3))]
    seen: dict[object, int] = defaultdict(int)
    while left and len(chosen) < count:
        best = min(left, key=lambda one: (min(seen[c] for c in one.label.categories), seen[one.label.severity]))
        left.remove(best)
        chosen.append(best.id)
        for part in (*best.label.categories, best.label.severity):
            seen[part] += 1
    return sorted(chosen, key=order.index)


def compare(practice: Practice, given: Label) -> Feedback:
    """The difference between an answer and the known one, with the sentences of the guideline that say why."""
    known = practice.label
    missed = _in_order(known.categories - given.categories)
    extra = _in_order(given.categories - known.categories)
    either = known.categories | given.categories
    apart = abs(known.severity - given.severity)
    near = 0.5 if apart == 1 and not known.safe and not given.safe else 0.0
    notes = [_note("missed", category, guidelines()[category].definition) for category in missed]
    notes += [_note("not meant", category, guidelines()[category].definition) for category in extra]
    if apart:
        notes += [
            _note("severity", category, guidelines()[category].levels[known.severity])
            for category in _in_order(known.categories)[:1]
        ]
        if known.safe:
            notes.append(Note("severity", None, "", ANCHORS[Severity.NONE]))
    return Feedback(
        practice,
        given,
        missed,
        extra,
        category_points=len(known.categories & given.categories) / len(either) if either else 1.0,
        severity_points=1.0 if not apart else near,
        notes=tuple(notes),
    )


class Training:
    """The training of all people of a store."""

    def __init__(self, store: AnnotationStore) -> None:
        self._store = store

    def settings(self) -> TrainingSettings:
        """What was set, or the defaults."""
        with self._store.database.read() as db:
            return _settings(db)

    def set(self, settings: TrainingSettings) -> None:
        """Keep settings; a round that has begun keeps its items, and its end is judged by the new mark."""
        with self._store.database.write() as db:
            db.execute(sa.delete(schema.meta).where(schema.meta.c.key == _SETTINGS))
            db.execute(sa.insert(schema.meta).values(key=_SETTINGS, value=settings.model_dump_json()))

    def qualified(self, rater: int) -> bool:
        """Whether a person has passed any round."""
        passed = sa.text("select 1 from training_round where rater = :rater and passed")
        with self._store.database.read() as db:
            return db.execute(passed, {"rater": rater}).first() is not None

    def begin(self, rater: int) -> int:
        """Begin the first round, or the next one after one that ended; returns the number of the present round."""
        with self._store.database.write() as db:
            now = _round(db, rater)
            if now is not None and now["passed"] is None:
                return int(now["number"])
            number = 1 if now is None else now["number"] + 1
            out = sa.text("select category from opt_out where rater = :rater")
            besides = db.execute(out, {"rater": rater}).scalars().all()
            items = draw(_settings(db).items, str(rater), str(number), besides=besides)
            row = {"rater": rater, "number": number, "items": canonical(items), "at_ms": self._store.now_ms()}
            db.execute(sa.insert(schema.training_round).values(**row))
            return int(number)

    def next(self, rater: int) -> Practice | None:
        """The item that comes next; None before a round and after its last item."""
        with self._store.database.read() as db:
            now = _round(db, rater)
            if now is None or now["passed"] is not None:
                return None
            given = _answers(db, rater, now["number"])
            return next((one for one in _items(now) if one.id not in given), None)

    def answer(self, rater: int, item: str, value: Any) -> Feedback:
        """Answer an item of the present round; sent again, the first answer stands. The last one ends the round.

        Raises:
            PoiseError: no label, or an item that is not in the present round.
        """
        checked = checked_value("label", value, f"practice {item}")
        if checked is None:
            raise PoiseError("nothing is answered", where=f"practice {item}", do="give a label")
        with self._store.database.write() as db:
            now = _round(db, rater)
            items = [] if now is None else _items(now)
            if now is None or item not in {one.id for one in items}:
                raise PoiseError("this item is not in the present round", where=f"practice {item}", do="go on with it")
            given = _answers(db, rater, now["number"])
            if item not in given:
                row = {"rater": rater, "number": now["number"], "item": item, "value": canonical(checked)}
                db.execute(sa.insert(schema.training_answer).values(**row, at_ms=self._store.now_ms()))
                given[item] = Label.of(**checked)
            told = [compare(one, given[one.id]) for one in items if one.id in given]
            if now["passed"] is None and len(told) == len(items):
                mark, table = _settings(db).pass_mark, schema.training_round
                passed = min(_share(told, "category_points"), _share(told, "severity_points")) >= mark
                here = table.c.rater == rater, table.c.number == now["number"]
                db.execute(sa.update(table).where(*here).values(passed=passed))
            return next(one for one in told if one.practice.id == item)

    def feedback(self, rater: int, item: str) -> Feedback | None:
        """The feedback on an item of the present round that was answered; None for any other."""
        with self._store.database.read() as db:
            now = _round(db, rater)
            given = {} if now is None else _answers(db, rater, now["number"])
        return compare(practice_items()[item], given[item]) if item in given and item in practice_items() else None

    def progress(self, rater: int) -> Progress:
        """How far a person is."""
        with self._store.database.read() as db:
            now = _round(db, rater)
            if now is None:
                return Progress(0, 0, _settings(db).items, None, None, None, (), (), False)
            given, items = _answers(db, rater, now["number"]), _items(now)
        told = [compare(one, given[one.id]) for one in items if one.id in given]
        return Progress(
            number=now["number"],
            done=len(told),
            of=len(items),
            passed=None if now["passed"] is None else bool(now["passed"]),
            categories=_share(told, "category_points") if told else None,
            severity=_share(told, "severity_points") if told else None,
            by_category=_by_category(told),
            by_severity=_by_severity(told),
            qualified=self.qualified(rater),
        )


def _settings(db: sa.Connection) -> TrainingSettings:
    kept = db.execute(sa.text("select value from meta where key = :key"), {"key": _SETTINGS}).scalar()
    return TrainingSettings() if kept is None else TrainingSettings.model_validate_json(kept)


def _round(db: sa.Connection, rater: int) -> sa.RowMapping | None:
    query = sa.text(
        "select number, items, passed from training_round where rater = :rater order by number desc limit 1"
    )
    return db.execute(query, {"rater": rater}).mappings().first()


def _items(row: sa.RowMapping) -> list[Practice]:
    """The items of a round that this version of the package still has."""
    return [practice_items()[item] for item in json.loads(row["items"]) if item in practice_items()]


def _answers(db: sa.Connection, rater: int, number: int) -> dict[str, Label]:
    query = sa.text("select item, value from training_answer where rater = :rater and number = :number")
    rows = db.execute(query, {"rater": rater, "number": number})
    return {row.item: Label.of(**parsed(row.value)) for row in rows}


def _share(told: Sequence[Feedback], points: str) -> float:
    return sum(float(getattr(one, points)) for one in told) / len(told)


def _by_category(told: Sequence[Feedback]) -> tuple[Tally, ...]:
    """For each category that is right or was named: how often both agree on it."""
    found: dict[Category, list[float]] = defaultdict(list)
    for one in told:
        for category in one.practice.label.categories | one.given.categories:
            found[category].append(float(category in one.practice.label.categories & one.given.categories))
    return tuple(Tally(f"{c.code} {c.value}", len(found[c]), sum(found[c])) for c in _in_order(found))


def _by_severity(told: Sequence[Feedback]) -> tuple[Tally, ...]:
    found: dict[Severity, list[float]] = defaultdict(list)
    for one in told:
        found[one.practice.label.severity].append(one.severity_points)
    return tuple(Tally(level.label, len(found[level]), sum(found[level])) for level in sorted(found))


def _note(why: str, category: Category, text: str) -> Note:
    return Note(why, category, guidelines()[category].version, text)


def _in_order(categories: Collection[Category]) -> tuple[Category, ...]:
    return tuple(sorted(categories, key=lambda category: category.index))
