"""Batches of labels under inspection: what was drawn, who inspects what, and which labels an inspection contradicts.

An inspection is a label by somebody who sees the text alone: neither the label that stands nor whose it was. In the
queue it is a hidden check of the kind "inspect" (see `probes`), in the log an event of kind "check": no vote, label or
export is made of it. It goes to one inspector, who has said nothing about the item before; when their time runs out, to
another. What an inspection contradicts is not settled any more and goes to adjudication, by somebody else.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from poise.annotate.store import schema
from poise.annotate.store.giving import ALLOWED, BLIND
from poise.annotate.store.log import parsed
from poise.annotate.store.overlap import Value

INSPECT = "inspect"
"""The kind of these checks."""
MEASURES = ("verdict", "exact")
"""When a label is wrong: the inspection says the other of safe and harmful, or any other category or severity."""

batch = sa.Table(
    "batch",
    schema.metadata,
    sa.Column("id", schema.ID, primary_key=True),
    sa.Column("name", sa.Text, nullable=False, unique=True),
    sa.Column("plan", sa.Text, nullable=False),
    sa.Column("at_ms", schema.ID, nullable=False),
)
"""A set of labels that stood at one moment; `plan`: JSON of `quality.inspection.Plan`."""

batch_item = sa.Table(
    "batch_item",
    schema.metadata,
    sa.Column("batch", schema.ID, sa.ForeignKey("batch.id"), primary_key=True),
    sa.Column("item", schema.ID, sa.ForeignKey("item.id"), primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
    sa.Column("version", schema.ID, nullable=False),
    sa.Column("part", sa.Text, nullable=False),
    sa.Column("draw", schema.ID, nullable=False),
    sa.Column("drawn", sa.Boolean, nullable=False),
    sa.Column("rater", schema.ID, sa.ForeignKey("rater.id")),
    sa.Index("batch_item_drawn", "drawn", "batch"),
    sa.Index("batch_item_rater", "item", "rater"),
)
"""Each label of a batch as it stood (`value`, `version`); whether a model doubts it most ("top") or it belongs to the
others ("rest"), of which those with the lowest `draw` are `drawn`; and who inspects it."""

_FREE = """
select t.batch, t.item from batch_item t join item i on i.id = t.item
where t.drawn = true and i.kind = :stage
and (t.rater is null or not exists (select 1 from probe a
    where a.item = t.item and a.rater = t.rater and a.kind = 'inspect' and a.answered))
and not exists (select 1 from lease h where h.item = t.item and h.probe = 'inspect' and h.expires_ms > :now)
and not exists (select 1 from event e where e.item = t.item and e.rater = :rater)
and not exists (select 1 from probe p where p.item = t.item and p.rater = :rater)
and {allowed} and {blind}
"""
_CONTRADICTING = """
select c.value, b.plan from current_check c
join batch_item t on t.item = c.item and t.rater = c.rater join batch b on b.id = t.batch
where c.item = :item and c.question = 'label' and c.value is not null and not exists
    (select 1 from current_adjudication a where a.item = c.item and a.question = c.question and a.seq > c.seq)
"""
_INSPECTED = """
select b.name, t.value, t.version from batch_item t join batch b on b.id = t.batch
join probe p on p.item = t.item and p.rater = t.rater and p.kind = 'inspect'
where t.item = :item and t.rater = :rater
"""


def is_wrong(measure: str, label: Value, inspected: Value) -> bool:
    """Whether a label is wrong by what the inspection says, see `MEASURES`."""
    if measure == "verdict":
        return bool(label["severity"]) != bool(inspected["severity"])
    return (sorted(label["categories"]), label["severity"]) != (sorted(inspected["categories"]), inspected["severity"])


def contradicted(db: sa.Connection, item: int, label: Value) -> bool:
    """Whether an inspection says that a label is wrong, and nobody has adjudicated it since."""
    rows = db.execute(sa.text(_CONTRADICTING), {"item": item})
    return any(is_wrong(parsed(row.plan)["measure"], label, parsed(row.value)) for row in rows)


def free(db: sa.Connection, rater: int, stage: str, now_ms: int, most: int = 1) -> list[tuple[int, int]]:
    """(batch, item) of what the rater may be given to inspect, in an order that tells nothing about the draw."""
    query = _FREE.format(allowed=ALLOWED, blind=BLIND[stage]) + " order by t.batch, i.key limit :most"
    told = {"rater": rater, "stage": stage, "now": now_ms, "most": most}
    return [(row.batch, row.item) for row in db.execute(sa.text(query), told)]


def give(db: sa.Connection, rater: int, stage: str, now_ms: int) -> int | None:
    """Make the rater the inspector of the next label; the item, None where there is nothing to inspect."""
    if not (found := free(db, rater, stage, now_ms)):
        return None
    ((number, item),) = found
    here = batch_item.c.batch == number, batch_item.c.item == item
    before = db.execute(sa.select(batch_item.c.rater).where(*here)).scalar()
    probe = schema.probe
    if before is not None:
        db.execute(sa.delete(probe).where(probe.c.item == item, probe.c.rater == before, probe.c.kind == INSPECT))
    db.execute(sa.update(batch_item).where(*here).values(rater=rater))
    row = {"item": item, "rater": rater, "kind": INSPECT, "given_ms": now_ms, "answered": False}
    db.execute(sa.insert(probe).values(**row))
    return item


def recorded(db: sa.Connection, item: int, rater: int, shown: dict[str, Any]) -> dict[str, Any]:
    """Question -> what the log keeps beside an answer; with an inspection, which label of which batch it inspects."""
    row = db.execute(sa.text(_INSPECTED), {"item": item, "rater": rater}).first()
    if row is None:
        return shown
    told = {"inspects": {"batch": row.name, "label": parsed(row.value), "version": row.version}}
    return shown | {"label": (shown.get("label") or {}) | told}


def is_inspection(db: sa.Connection, item: int, rater: int) -> bool:
    """Whether a rater's answers to checks on an item are inspections."""
    return db.execute(sa.text(_INSPECTED), {"item": item, "rater": rater}).first() is not None


def open_again(db: sa.Connection, item: int) -> None:
    """Forget blind votes on an item that is disputed, so that whoever decides it again votes again; those of decisions
    stay in the log."""
    query = "delete from blind_vote where item = :item and exists (select 1 from task t where t.item = :item and "
    db.execute(sa.text(query + "t.state = 'adjudicate')"), {"item": item})
