"""A trained guard on texts and on labelled tables: calibrated probabilities, levels, and how good they are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from poise.annotate import QAScore
from poise.annotate.ai.judging import carry, responses_of
from poise.data import QARow
from poise.data.records import JudgementRecord, QARecord
from poise.data.tables import Tables, TableWriter
from poise.errors import PoiseError
from poise.guard.calibrated import CalibratedGuard
from poise.guard.fit.model import GuardModel
from poise.guard.fit.rows import labelled_rows
from poise.guard.fit.run import measure
from poise.guard.verdict import Verdict, codes, unjudged
from poise.guard.windows import Logits, Text, Window
from poise.harm import policy_version
from poise.models.encoder import ignore

_AT_A_TIME = 2048


class TrainedGuard(CalibratedGuard):
    """What `poise guard train` wrote, ready to judge.

    Args:
        folder: of the guard.

    Raises:
        PoiseError: the folder holds no guard.
    """

    def __init__(self, folder: Path) -> None:
        self.model, settings = GuardModel.load(folder)
        super().__init__(folder, settings, folder / "heads.safetensors")

    def windows(self, text: Text) -> list[Window]:
        """Token ids (prompt part, answer part) of each window of a text."""
        return self.model.windows(text)

    def raw_logits(self, texts: Sequence[Text], on_rows: Callable[[int], object] = ignore) -> Logits:
        """Logits of all texts in order, before calibration."""
        return Logits(*(part.numpy() for part in self.model.logits(texts, on_rows=on_rows)))

    def score(self, rows: Sequence[QARow], on_rows: Callable[[int], object] = ignore) -> list[QAScore | None]:
        """Scores for the `ScoringRater` seam; the guard knows nothing of helpfulness, so `helpful` is 0.

        A row whose score is not a number is None (unjudged).
        """
        if not rows:
            return []
        found = self.probabilities([(row.prompt, row.response) for row in rows], on_rows)
        numbers = np.concatenate([found.severity, found.categories], axis=1)
        return [
            QAScore((s[0], s[1], s[2], s[3]), tuple(c), 0.0, self.level_cuts) if fine else None
            for fine, s, c in zip(
                np.isfinite(numbers).all(axis=1).tolist(),
                found.severity.tolist(),
                found.categories.tolist(),
                strict=True,
            )
        ]


def label_tables(
    guard: CalibratedGuard,
    tables: Tables,
    out: Path,
    *,
    replace: bool = False,
    on_rows: Callable[[int], object] = ignore,
) -> Counter[str]:
    """The rows as they are, and the guard's label of every response beside them; returns verdict -> responses.

    A row with an image is unjudged, as the guard reads texts alone.

    Raises:
        PoiseError: there is no response, or `out` is in use.
    """
    counts: Counter[str] = Counter()
    step = {"name": "guard label", "guard": guard.name, "version": guard.version}
    with TableWriter(out, step, [tables], replace=replace) as writer:
        rounds = carry(tables, writer, [guard.name], {"label": guard.version})
        waiting = responses_of(tables)
        while part := list(islice(waiting, _AT_A_TIME)):
            shown = [r for r in part if r.image is None]
            items = [("\n".join([*(turn.content for turn in r.turns), r.prompt]), r.response) for r in shown]
            verdicts = iter(guard.judge(items, on_rows))
            for record in part:
                verdict = next(verdicts) if record.image is None else unjudged("image")
                counts["unjudged" if verdict.unsafe is None else "unsafe" if verdict.unsafe else "safe"] += 1
                writer.add(_judgement(guard, record, verdict, rounds.get((guard.name, "label"), 0)))
        if not counts:
            raise PoiseError("no response to judge", where=str(tables.folder), do="name tables with responses")
    return counts


def _judgement(guard: CalibratedGuard, record: QARecord, verdict: Verdict, round_: int) -> JudgementRecord:
    value = None
    if verdict.unsafe is not None:
        value = {
            "categories": codes(verdict.categories or ()),
            "severity": int(verdict.severity or 0),
            "safe": not verdict.unsafe,
        }
    told: dict[str, Any] = {"severity_probabilities": verdict.severity_probabilities, "reason": verdict.reason}
    if guard.block_at is not None:
        told["blocked"] = guard.blocks(verdict)
    return JudgementRecord(
        item=record.item,
        question="label",
        value=value,
        rater=guard.name,
        rater_kind="model",
        rater_version=guard.version,
        probability=verdict.probability,
        round=round_,
        policy=policy_version(),
        responses=(record.item,),
        split=record.split,
        dataset=record.dataset,
        provenance=told if verdict.reason or verdict.severity_probabilities else None,
    )


def evaluate(guard: CalibratedGuard, tables: Tables, on_rows: Callable[[int], object] = ignore) -> dict[str, Any]:
    """How good the guard is on labelled tables in the 19 categories (see `poise data map`), set by set.

    Where rows say "test", those are measured and the others teach the baselines; else all rows are measured, and there
    is no TF-IDF beside them.

    Raises:
        PoiseError: no row has a label.
    """
    rows = labelled_rows(tables)
    held = [row for row in rows if row.part == "test"] or rows
    train = [row for row in rows if row.part != "test"] if len(held) < len(rows) else []
    if not any(row.unsafe is not None for row in held):
        raise PoiseError("no row with a label", where=str(tables.folder), do="read a labelled set into it")
    logits = guard.logits([(row.prompt, row.response) for row in held], on_rows)
    return measure(logits, held, train, guard.threshold, guard.level_cuts)
