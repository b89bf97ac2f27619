"""The open tasks of one stage as a file for another annotation tool: the texts alone, nobody's answers.

People there answer blind, as in the store. One file is one project, since a tool asks the same questions about all that
is in it; for Label Studio its labelling configuration lies beside it. Nothing is leased: give a stage to one tool at a
time, or the same item is answered in both. (With answers and predictions: `poise annotate export`, then `poise data
convert`.)
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from poise.annotate.store.exporting import records_of_kind
from poise.annotate.store.queue import STAGES
from poise.annotate.store.store import AnnotationStore
from poise.data.adapters import label_studio
from poise.data.adapters.base import Format
from poise.data.containers import write_lines
from poise.data.records import UNKNOWN, DualRecord, QARecord, Record, SingleRecord
from poise.errors import PoiseError

CONFIGS = {
    "qa": label_studio.CONFIG,
    "pair": label_studio.pair_config(("better", "safer")),
    "single": label_studio.pair_config(("single",)),
}
"""Stage -> the labelling configuration of Label Studio."""


def export_tasks(store: AnnotationStore, path: Path, stage: str, format: Format, *, replace: bool = False) -> int:
    """Write the open tasks of a stage; returns how many.

    Args:
        path: ends with the format's suffix.
        format: one that shows texts and asks questions, such as `LABEL_STUDIO` or `ARGILLA`.

    Raises:
        PoiseError: no such stage, nothing is open, a file is there, another suffix, or the disk is full.
    """
    if stage not in STAGES:
        raise PoiseError(f"{stage!r} is no stage", where=str(path), do=f"name one of {', '.join(STAGES)}")
    if path.suffix != format.suffix:
        raise PoiseError(f"suffix {path.suffix!r}", where=str(path), do=f"end the name with {format.suffix}")
    if path.exists() and not replace:
        raise PoiseError("already exists", where=str(path), do="choose another file or --force")
    with store.database.read() as connection:
        rows = _encoded(connection, stage, format)
        if (first := next(rows, None)) is None:
            raise PoiseError(f"no open task of stage {stage}", where=store.database.name, do="nothing is left to ask")
        count = write_lines(path, itertools.chain([first], rows))
    if format is label_studio.LABEL_STUDIO:
        path.with_suffix(".xml").write_text(CONFIGS[stage] + "\n", encoding="utf-8")
    return count


def _encoded(connection: sa.Connection, stage: str, format: Format) -> Iterator[Mapping[str, Any]]:
    assert format.encode is not None
    opened = "exists (select 1 from task t where t.item = i.id and t.state = 'open')"
    for record in records_of_kind(connection, stage, opened):
        yield from format.encode(_bare(record), ())


def _bare(record: Record) -> QARecord | DualRecord:
    """The texts without labels, choices and whatever the row carried along."""
    bare = {"provenance": None, "source_id": None}
    if isinstance(record, QARecord):
        return record.model_copy(update={**bare, "label": UNKNOWN})
    assert isinstance(record, SingleRecord)
    kept = {name: getattr(record, name) for name in ("prompt", "responses", "turns", "image", "hashes", "language")}
    return DualRecord(**kept)
