"""Aligner: a question, an answer and a correction. Lost on writing: sources, and everything that is carried."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from poise.data.adapters.base import Fields, Format, SourceRow
from poise.data.containers import Line
from poise.data.records import CorrectionRecord, JudgementRecord, Record


def _decode(line: Line) -> Iterator[Record]:
    row = Fields(line.row)
    yield CorrectionRecord(
        question=row["question"], answer=row["answer"], correction=row["correction"], source_id=row.id
    )


def _encode(record: Record, judgements: Sequence[JudgementRecord]) -> Iterator[SourceRow]:
    assert isinstance(record, CorrectionRecord)
    yield {"question": record.question, "answer": record.answer, "correction": record.correction}


ALIGNER = Format(
    "aligner",
    "Aligner: question, answer, correction",
    ("question", "answer", "correction"),
    _decode,
    _encode,
    ("corrections",),
    ".json",
)
