"""The store as tables: every item with what stands about it, and the judgements behind it.

A label or a choice stands in a row when enough people were asked and it was adjudicated or has a majority; otherwise
the row says nothing (null). So does the choice of a pair that is stale, waits for labels, ties, or lies on a cycle. The
same log gives the same bytes from SQLite and from PostgreSQL. People are named by pseudonyms (see
`poise.annotate.store.pseudonyms`), all other raters as they are. The store keeps what is no data and left out here:
answers after a planted wrong suggestion, gold items that are nothing else, and answers to hidden checks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from poise.annotate.store.log import parsed
from poise.annotate.store.pseudonyms import Naming, keyed, numbered
from poise.annotate.store.store import AnnotationStore
from poise.data.records import DualRecord, JudgementRecord, PartialLabel, QARecord, Record, SingleRecord
from poise.data.tables import Tables, TableWriter, open_tables
from poise.harm import CATEGORIES, decided_safer

_NAMES = {category.code: category.value for category in CATEGORIES}
_STEP = {"name": "annotate export", "aggregation": "adjudicated, else majority, else unlabelled"}

_ITEMS = """
select i.id, i.kind, i.record, i.hash_0, i.hash_1, p.body as prompt, a.body as response_0, b.body as response_1,
    own.value as label, l0.value as label_0, l1.value as label_1, be.value as better, sa.value as safer,
    si.value as single
from item i join text p on p.id = i.prompt join text a on a.id = i.response_0 left join text b on b.id = i.response_1
{joins} where i.kind = :kind and {only} order by i.id
"""
_STANDS = (
    "left join final {alias} on {alias}.item = i.{column} and {alias}.question = '{question}' and {alias}.settled "
    "and not {alias}.cyclic"
)
_JOINS = (
    ("own", "id", "label"),
    ("l0", "qa_0", "label"),
    ("l1", "qa_1", "label"),
    ("be", "id", "better"),
    ("sa", "id", "safer"),
    ("si", "id", "single"),
)

DATA = "not exists (select 1 from gold g where g.item = i.id and not g.data)"
"""Condition in SQL on an item `i`: it is data, and not gold alone."""

_JUDGEMENTS = """
select e.seq, e.kind, e.question, e.value, e.pins, e.policy, e.guideline, e.reason, e.shown, e.client_ms, e.at_ms,
    i.hash_0, i.hash_1, i.record, r.name, r.kind as rater_kind, r.version, f.pins as now_pins,
    (select count(*) from event b where b.item = e.item and b.question = e.question and b.rater = e.rater
        and b.seq < e.seq and b.kind not in {unlike}) as round
from event e join item i on i.id = e.item join rater r on r.id = e.rater
left join final f on f.item = e.item and f.question = e.question
where e.seq in (select seq from counted_judgement union all select seq from {also}) order by e.seq
"""


def export_tables(store: AnnotationStore, out: Path, *, key: bytes | None = None, replace: bool = False) -> Tables:
    """Write the tables of one state of the store; it goes on working meanwhile.

    Args:
        key: of the pseudonyms of people; without one they are numbered.
        replace: allow `out` to be an earlier result.

    Raises:
        PoiseError: the folder is in use, or the disk is full.
    """
    with store.database.read() as connection:
        log = connection.execute(sa.text("select seq, hash from event order by seq desc limit 1")).first()
        step = _STEP | {"events": log.seq if log else 0, "head": log.hash if log else None}
        sources = [Path(store.database.name)] if store.database.sqlite else []
        with TableWriter(out, step, replace=replace, sources=sources) as writer:
            for record in records_of(connection, None if key is None else keyed(key)):
                writer.add(record)
    return open_tables(out)


def records_of(connection: sa.Connection, naming: Naming | None = None) -> Iterator[Record]:
    """Everything that is exported: QA rows, pairs, single preferences, judgements.

    Args:
        naming: gives people their pseudonyms; None: numbers.
    """
    naming = naming or numbered(connection)
    for kind in _MAKE:
        yield from records_of_kind(connection, kind)
    query = _JUDGEMENTS.format(also="current_adjudication", unlike="('undo', 'check')")
    for row in connection.execution_options(yield_per=2000).execute(sa.text(query)).mappings():
        yield _judgement(row, naming)


def answers_of(connection: sa.Connection) -> Iterator[JudgementRecord]:
    """What raters say now and what they answered to hidden checks, named as in the store; for reports, no data.

    `round` counts both, so a repeat is a later round of its item; the `kind` in the provenance tells them apart.
    """
    query = _JUDGEMENTS.format(also="current_check", unlike="('undo')")
    for row in connection.execution_options(yield_per=2000).execute(sa.text(query)).mappings():
        yield _judgement(row, str)


def records_of_kind(connection: sa.Connection, kind: str, only: str = DATA) -> Iterator[Record]:
    """The items of one kind with what stands about them.

    Args:
        only: a condition in SQL on the item `i`.
    """
    joins = "\n".join(_STANDS.format(alias=a, column=c, question=q) for a, c, q in _JOINS)
    query = sa.text(_ITEMS.format(joins=joins, only=only))
    for row in connection.execution_options(yield_per=2000).execute(query, {"kind": kind}).mappings():
        yield _MAKE[kind](row)


def _carried(record: Mapping[str, Any]) -> dict[str, Any]:
    names = ("split", "language", "dataset", "licence", "source_id", "image", "provenance")
    return {name: record.get(name) for name in names} | {"turns": tuple(record.get("turns") or ())}


def _label(text: str | None) -> PartialLabel:
    if (value := parsed(text)) is None:
        return PartialLabel()
    names = tuple(_NAMES[code] for code in value["categories"])
    return PartialLabel(safe=value["severity"] == 0, categories=names, severity=value["severity"])


def _choice(text: str | None) -> int | None:
    value = parsed(text)
    return value["choice"] if value is not None and value["choice"] in (0, 1) else None


def _qa(row: sa.RowMapping) -> QARecord:
    record = parsed(row["record"])
    return QARecord(
        prompt=parsed(row["prompt"]),
        response=parsed(row["response_0"]),
        prompt_source=record["prompt_source"],
        response_source=record["response_sources"][0],
        label=_label(row["label"]),
        sha256=row["hash_0"],
        **_carried(record),
    )


def _texts(row: sa.RowMapping) -> dict[str, Any]:
    record = parsed(row["record"])
    return {
        "prompt": parsed(row["prompt"]),
        "responses": (parsed(row["response_0"]), parsed(row["response_1"])),
        "prompt_source": record["prompt_source"],
        "response_sources": tuple(record["response_sources"]),
        "hashes": (row["hash_0"], row["hash_1"]),
        **_carried(record),
    }


def _pair(row: sa.RowMapping) -> DualRecord:
    labels = _label(row["label_0"]), _label(row["label_1"])
    safer = _choice(row["safer"])
    if labels[0].safe is None or labels[1].safe is None:
        safer = None
    elif (decided := decided_safer(*(_Known(bool(label.safe)) for label in labels))) is not None and safer != decided:
        raise AssertionError(f"item {row['id']}: the store breaks the logical order")
    return DualRecord(**_texts(row), labels=labels, better=_choice(row["better"]), safer=safer)


class _Known:
    def __init__(self, safe: bool) -> None:
        self.safe = safe


def _single(row: sa.RowMapping) -> SingleRecord:
    return SingleRecord(**_texts(row), better=_choice(row["single"]))


_MAKE: dict[str, Callable[[sa.RowMapping], Record]] = {"qa": _qa, "pair": _pair, "single": _single}


def _judgement(row: sa.RowMapping, naming: Naming) -> JudgementRecord:
    """What a rater says now; a choice is a response id, and how it was said stands in `provenance`."""
    value, record = parsed(row["value"]), parsed(row["record"])
    choice = value if isinstance(value, dict) and "choice" in value else None
    told = {
        "seq": row["seq"],
        "kind": row["kind"],
        "guideline": row["guideline"],
        "at_ms": row["at_ms"],
        "client_ms": row["client_ms"],
        "choice": choice,
        "reason": row["reason"],
        "shown": parsed(row["shown"]),
        "label_versions": parsed(row["pins"]),
        "stale": True if row["pins"] is not None and row["pins"] != row["now_pins"] else None,
    }
    hashes = (row["hash_0"],) if row["hash_1"] is None else (row["hash_0"], row["hash_1"])
    return JudgementRecord(
        item=":".join(hashes),
        question=row["question"],
        value=_response_id(choice) if choice is not None else _told_label(value),
        rater=naming(row["name"]) if row["rater_kind"] == "person" else row["name"],
        rater_kind=row["rater_kind"],
        rater_version=row["version"],
        round=row["round"],
        policy=row["policy"],
        responses=hashes,
        split=record.get("split"),
        dataset=record.get("dataset"),
        provenance={name: part for name, part in told.items() if part is not None},
    )


def _response_id(choice: Mapping[str, Any]) -> int | None:
    return choice["choice"] if choice["choice"] in (0, 1) else None


def _told_label(value: Any) -> Any:
    return {**value, "safe": value["severity"] == 0} if isinstance(value, dict) else value
