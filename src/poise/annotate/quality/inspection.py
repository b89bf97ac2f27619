"""Inspection of a batch inside a store: labels that stand are drawn, labelled again blind, and the batch is judged.

A batch is a set of labels that stand when it is drawn, and stays that set. Of it the k labels that a model doubts most
may be drawn (a screen), and others at random by hash. Reviewers label the drawn ones in the workbench, blind to what
stands and whose it is; see `poise.annotate.store.batches` for who, and for what becomes of labels that are found wrong.

The verdict holds whatever the inspections that are still missing say: the upper bound counts each of them, and each
that was left unjudged, as an error, the lower bound none. So it can be asked for at any time without looking too often;
only drawing more is another look. A label that was adjudicated after its inspection counts by what the adjudicator
says.

Left out: pairs and single preferences, several inspections of one label, and errors that rater and inspector share.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import sqlalchemy as sa
from pydantic import Field, ValidationError

from poise.annotate.quality.acceptance import sample_size
from poise.annotate.quality.screening import Screened, choose, estimate
from poise.annotate.store import AnnotationStore, batches
from poise.annotate.store.log import parsed
from poise.annotate.store.overlap import Value
from poise.data import uniform_seed
from poise.data.rows import Row
from poise.errors import PoiseError

Verdict = Literal["accept", "reject", "inspect on", "check more"]
_CHUNK = 5000
_STANDING = """
select f.item, f.value, f.version, i.key, {record} as record from final f join item i on i.id = f.item
left join event e on e.seq = f.version
where f.question = 'label' and f.settled and f.value is not null {only} order by f.item
"""
_BY = (
    "and exists (select 1 from counted_judgement j join rater r on r.id = j.rater where j.item = f.item "
    "and j.question = 'label' and r.name = :rater)"
)
_MODEL = """
select j.item, j.value from counted_judgement j join rater r on r.id = j.rater
where j.question = 'label' and r.kind = 'model' and r.name = :model order by j.seq
"""
_DRAWN = """
select t.item, t.part, t.value, i.key, c.value as said, p.answered, a.value as decided,
    case when f.settled then f.value end as now
from batch_item t join item i on i.id = t.item
left join probe p on p.item = t.item and p.rater = t.rater and p.kind = 'inspect'
left join current_check c on c.item = t.item and c.rater = t.rater and c.question = 'label'
left join current_adjudication a on a.item = t.item and a.question = 'label' and a.seq > c.seq
left join final f on f.item = t.item and f.question = 'label'
where t.drawn = true and t.batch = :batch order by i.key
"""


class Plan(Row):
    """How a batch is judged, fixed when it is drawn.

    Args:
        limit: the rate of wrong labels that it may have at most.
        confidence: of the bounds. looks: how often more may be drawn and decided again, as in `acceptance.decide`.
        measure: when a label is wrong, see `batches.MEASURES`.
        size: labels in the batch.
        model: whose labels screen it; None where all are drawn at random. unknown: labels that it did not judge.
        seed: of the draw. draws: how often was drawn. chosen: which labels belong to it, in words and values.
    """

    limit: float = Field(ge=0, lt=1)
    confidence: float = Field(default=0.95, gt=0.5, lt=1)
    looks: int = Field(default=1, ge=1)
    measure: Literal["verdict", "exact"] = "verdict"
    size: int = Field(default=0, ge=0)
    model: str | None = None
    unknown: int = 0
    seed: int = 0
    draws: int = 1
    chosen: dict[str, Any] = Field(default_factory=dict)

    @property
    def each(self) -> float:
        """The confidence of one look (Bonferroni)."""
        return 1 - (1 - self.confidence) / self.looks


@dataclass(frozen=True)
class Wrong:
    """A label that an inspection found wrong.

    `state`: "upheld" or "confirmed" by an adjudicator since; "corrected", when what stands now fits the inspection;
    else "to adjudicate".
    """

    item: str
    label: Value
    inspected: Value
    state: Literal["to adjudicate", "upheld", "confirmed", "corrected"]


@dataclass(frozen=True)
class Inspection:
    """How the inspection of a batch stands.

    Args:
        drawn, inspected, unjudged: labels to inspect, those that were, and those of them without an answer.
        wrong: those found wrong, by key.
        errors: of them those that no adjudicator upheld.
        lower, upper: one-sided bounds of the share of wrong labels in the batch.
        more: how many further labels pass the batch when all of them are right; None where none is to be drawn, in a
            screen, or where not even all of them would do.
        screen: precision and recall of the model, rates of error, with two-sided intervals of `plan.confidence`.
    """

    name: str
    at_ms: int
    plan: Plan
    drawn: int
    inspected: int
    unjudged: int
    wrong: tuple[Wrong, ...]
    errors: int
    lower: float
    upper: float
    verdict: Verdict
    more: int | None
    screen: Screened


def draw(
    store: AnnotationStore,
    name: str,
    *,
    check: int,
    top: int = 0,
    model: str | None = None,
    since_ms: int | None = None,
    until_ms: int | None = None,
    rater: str | None = None,
    dataset: str | None = None,
    **plan: Any,
) -> Inspection:
    """Draw a batch: all labels that stand and fit, of which some are inspected.

    Args:
        name: of the batch, new in this store.
        check: labels drawn at random, from those that are not among the `top` that `model` doubts most.
        since_ms, until_ms: the label has stood since then, or a later time, and before then, UTC.
        rater: somebody of this name has judged it. dataset: of the row.
        plan: see `Plan`.

    Raises:
        PoiseError: a name that is taken, nothing to draw, or a number out of range.
    """
    where = f"batch {name!r}"
    if check < 1 or top < 0 or bool(top) != (model is not None):
        raise PoiseError(f"{check} at random, {top} by doubt", where=where, do="draw at least 1; name a model with top")
    chosen = {"since_ms": since_ms, "until_ms": until_ms, "rater": rater, "dataset": dataset}
    told = {part: value for part, value in chosen.items() if value is not None}
    try:
        wanted = Plan(**plan, model=model, chosen=told)
    except ValidationError as error:
        fault = error.errors()[0]
        raise PoiseError(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}", where=where, do="change it") from error
    with store.database.write() as db:
        if not name.strip() or db.execute(sa.text("select 1 from batch where name = :n"), {"n": name}).first():
            raise PoiseError("a batch of this name is there", where=where, do="give it another one")
        rows = _standing(db, told)
        if not rows:
            raise PoiseError("no label stands that fits", where=where, do="choose by something else, or label first")
        doubt = _doubt(db, rows, model) if model is not None else np.zeros(len(rows))
        picked = choose([row.key for row in rows], doubt, top, wanted.seed, check)
        unknown = int(np.isnan(doubt).sum())
        wanted = wanted.model_copy(update={"size": len(rows), "unknown": unknown})
        values = {"name": name, "plan": wanted.model_dump_json(), "at_ms": store.now_ms()}
        number = db.execute(sa.insert(batches.batch).values(**values).returning(batches.batch.c.id)).scalar_one()
        _write(db, number, rows, set(picked.top.tolist()), set(picked.rest.tolist()), wanted.seed)
        return _inspection(db, number)


def draw_more(store: AnnotationStore, name: str, count: int) -> Inspection:
    """Draw more labels of a batch at random, those that come next by the same hash.

    Raises:
        PoiseError: there is no such batch, nothing is left of it, or no look.
    """
    with store.database.write() as db:
        number, table = _number(db, name), batches.batch_item
        plan = _plan(db, number)
        if plan.draws >= plan.looks:
            do = "draw a new batch with more --looks; a bound holds for the looks that were planned"
            raise PoiseError(f"{plan.looks} looks were planned and taken", where=f"batch {name!r}", do=do)
        rest = sa.select(table.c.item).where(table.c.batch == number, ~table.c.drawn, table.c.part == "rest")
        items = db.execute(rest.order_by(table.c.draw).limit(max(count, 0))).scalars().all()
        if not items:
            raise PoiseError(f"{count} more", where=f"batch {name!r}", do="ask for at least 1; no more than are left")
        for at in range(0, len(items), _CHUNK):
            here = table.c.batch == number, table.c.item.in_(items[at : at + _CHUNK])
            db.execute(sa.update(table).where(*here).values(drawn=True))
        text = plan.model_copy(update={"draws": plan.draws + 1}).model_dump_json()
        db.execute(sa.update(batches.batch).where(batches.batch.c.id == number).values(plan=text))
        return _inspection(db, number)


def inspections(store: AnnotationStore, name: str | None = None) -> list[Inspection]:
    """All batches, or the one named, oldest first.

    Raises:
        PoiseError: there is none of that name.
    """
    with store.database.read() as db:
        if name is not None:
            return [_inspection(db, _number(db, name))]
        return [_inspection(db, number) for number in db.execute(sa.text("select id from batch order by id")).scalars()]


def _standing(db: sa.Connection, chosen: dict[str, Any]) -> Sequence[sa.Row[Any]]:
    only = {"since_ms": "and e.at_ms >= :since_ms", "until_ms": "and e.at_ms < :until_ms", "rater": _BY}
    conditions = " ".join(only[part] for part in chosen if part in only)
    record = "i.record" if "dataset" in chosen else "null"
    query = sa.text(_STANDING.format(record=record, only=conditions))
    rows = db.execute(query, {part: value for part, value in chosen.items() if part in only}).all()
    wanted = chosen.get("dataset")
    return rows if wanted is None else [row for row in rows if json.loads(row.record).get("dataset") == wanted]


def _doubt(db: sa.Connection, rows: Sequence[sa.Row[Any]], model: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    """[N] 1 where the model says the other of safe and harmful, a half where another label, 0; NaN where nothing."""
    said = {row.item: parsed(row.value) for row in db.execute(sa.text(_MODEL), {"model": model})}
    if not said:
        names = "select distinct r.name from event e join rater r on r.id = e.rater and r.kind = 'model' order by 1"
        told = ", ".join(db.execute(sa.text(names)).scalars()) or "none"
        raise PoiseError(
            f"no labels by a model {model!r}", where="inspect", do=f"name one of those that judged: {told}"
        )

    def of(stands: Value, by_model: Value | None) -> float:
        if by_model is None:
            return math.nan
        return 0.5 * (batches.is_wrong("verdict", stands, by_model) + batches.is_wrong("exact", stands, by_model))

    return np.array([of(parsed(row.value), said.get(row.item)) for row in rows])


def _write(
    db: sa.Connection, number: int, rows: Sequence[sa.Row[Any]], top: set[int], rest: set[int], seed: int
) -> None:
    for at in range(0, len(rows), _CHUNK):
        part = [
            {
                "batch": number,
                "item": row.item,
                "value": row.value,
                "version": row.version,
                "part": "top" if place in top else "rest",
                "draw": uniform_seed(seed, row.key, "screen"),
                "drawn": place in top or place in rest,
                "rater": None,
            }
            for place, row in enumerate(rows[at : at + _CHUNK], at)
        ]
        db.execute(sa.insert(batches.batch_item), part)


def _number(db: sa.Connection, name: str) -> int:
    found = db.execute(sa.text("select id from batch where name = :name"), {"name": name}).scalar()
    if found is None:
        names = ", ".join(db.execute(sa.text("select name from batch order by id")).scalars()) or "none"
        raise PoiseError("no such batch", where=repr(name), do=f"name one that was drawn: {names}")
    return int(found)


def _plan(db: sa.Connection, number: int) -> Plan:
    text = db.execute(sa.text("select plan from batch where id = :id"), {"id": number}).scalar_one()
    return Plan.model_validate_json(text)


def _inspection(db: sa.Connection, number: int) -> Inspection:
    kept = db.execute(sa.text("select name, at_ms from batch where id = :id"), {"id": number}).one()
    plan = _plan(db, number)
    rows = db.execute(sa.text(_DRAWN), {"batch": number}).all()
    answered = [row for row in rows if row.answered]
    found = {row.key: wrong for row in answered if (wrong := _wrong(plan, row)) is not None}

    def error(row: sa.Row[Any]) -> float:
        if not row.answered or row.said is None:
            return math.nan
        return float(row.key in found and found[row.key].state != "upheld")

    top, rest = ([error(row) for row in rows if row.part == part] for part in ("top", "rest"))
    bounds = estimate(plan.size, top, rest, 2 * plan.each - 1).error_rate
    errors = sum(one.state != "upheld" for one in found.values())
    unjudged = sum(row.said is None for row in answered)
    verdict, more = _verdict(plan, bounds.low, bounds.high, len(rows) - len(answered)), None
    if verdict == "check more" and plan.model is None and plan.draws < plan.looks:
        needed = sample_size(plan.size, plan.limit, errors + unjudged, plan.each)
        more = None if needed is None else needed - len(rows)
    return Inspection(
        name=kept.name,
        at_ms=kept.at_ms,
        plan=plan,
        drawn=len(rows),
        inspected=len(answered),
        unjudged=unjudged,
        wrong=tuple(found.values()),
        errors=errors,
        lower=bounds.low,
        upper=bounds.high,
        verdict=verdict,
        more=more,
        screen=estimate(plan.size, top, rest, plan.confidence),
    )


def _wrong(plan: Plan, row: sa.Row[Any]) -> Wrong | None:
    label, said, decided = parsed(row.value), parsed(row.said), parsed(row.decided)
    if said is None or not batches.is_wrong(plan.measure, label, said):
        return None
    if decided is None:
        now = parsed(row.now)
        fits = now is not None and not batches.is_wrong(plan.measure, now, said)
        return Wrong(row.key, label, said, "corrected" if fits else "to adjudicate")
    return Wrong(row.key, label, said, "confirmed" if batches.is_wrong(plan.measure, label, decided) else "upheld")


def _verdict(plan: Plan, lower: float, upper: float, missing: int) -> Verdict:
    if upper <= plan.limit + 1e-9:
        return "accept"
    if lower > plan.limit + 1e-9:
        return "reject"
    return "inspect on" if missing else "check more"
