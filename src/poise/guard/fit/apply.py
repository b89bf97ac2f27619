"""A trained guard on texts and on labelled tables: calibrated probabilities, levels, and how good they are."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from poise.annotate.ai.judging import carry, responses_of
from poise.data.records import JudgementRecord, QARecord
from poise.data.tables import Tables, TableWriter
from poise.errors import PoiseError
from poise.guard.fit.calibration import Calibration, levels_of
from poise.guard.fit.model import GuardLogits, GuardModel, Text
from poise.guard.fit.plan import DataPlan, SetUse
from poise.guard.fit.rows import rows_of
from poise.guard.fit.run import Probabilities, measure, probabilities
from poise.guard.verdict import Item, Verdict, codes, judged, unjudged
from poise.harm import CATEGORIES, PKU, Severity, policy_version
from poise.models.encoder import ignore

_AT_A_TIME = 2048


class TrainedGuard:
    """What `poise guard train` wrote, ready to judge.

    Args:
        folder: of the guard.

    Attributes:
        threshold: P(severity >= 1) from which a text counts as unsafe.
        category_thresholds: P(category) from which each of the 19 is named.
        level_cuts: P(severity >= 2, 3) from which an unsafe text is moderate, severe.
        version: of its weights.

    Raises:
        PoiseError: the folder holds no guard.
    """

    def __init__(self, folder: Path) -> None:
        self.model, settings = GuardModel.load(folder)
        try:
            self._calibration = Calibration.from_json(settings["calibration"])
            self.threshold = float(settings["thresholds"]["unsafe"])
            self.category_thresholds = tuple(map(float, settings["thresholds"]["categories"]))
            two, three = settings["thresholds"]["levels"]
            self.level_cuts = (float(two), float(three))
            self.name = str(settings["plan"]["name"])
            self.version = hashlib.sha256((folder / "heads.safetensors").read_bytes()).hexdigest()[:12]
        except (KeyError, TypeError, ValueError) as error:
            raise PoiseError(
                f"guard.json is not whole ({type(error).__name__})", where=str(folder), do="train it again"
            ) from error

    def logits(self, texts: Sequence[Text], on_rows: Callable[[int], object] = ignore) -> GuardLogits:
        """Calibrated logits of all texts in order."""
        return self._calibration.apply(self.model.logits(texts, on_rows=on_rows))

    def probabilities(self, texts: Sequence[Text], on_rows: Callable[[int], object] = ignore) -> Probabilities:
        """Calibrated probabilities of all texts in order."""
        return probabilities(self.logits(texts, on_rows))

    def judge(self, items: Sequence[Item], on_rows: Callable[[int], object] = ignore) -> list[Verdict]:
        """One verdict an item, in order; empty texts and scores that are no numbers are unjudged."""
        empty = [not prompt.strip() or (response is not None and not response.strip()) for prompt, response in items]
        found = self.probabilities(items, on_rows) if items else None
        return [
            unjudged("empty") if blank or found is None else self._verdict(found, row)
            for row, blank in enumerate(empty)
        ]

    def _verdict(self, found: Probabilities, row: int) -> Verdict:
        """Unsafe from the threshold on; then the level is at least minor and at least one category is named."""
        unsafe, severity, categories = float(found.unsafe[row]), found.severity[row], found.categories[row]
        if not np.isfinite([unsafe, *severity, *categories]).all():
            return unjudged("no score")
        level = levels_of(found.at_least[row : row + 1], self.level_cuts, np.array([unsafe >= self.threshold]))
        named = [c.code for c in CATEGORIES if categories[c.index] >= self.category_thresholds[c.index]]
        return judged(
            unsafe >= self.threshold,
            taxonomy=PKU,
            named=(named or [CATEGORIES[int(categories.argmax())].code]) if unsafe >= self.threshold else (),
            severities=(Severity(int(level[0])),),
            severity_probabilities=(float(severity[0]), float(severity[1]), float(severity[2]), float(severity[3])),
            probability=unsafe,
            refusal=bool(found.refusal[row] >= 0.5),
        )


def label_tables(
    guard: TrainedGuard,
    tables: Tables,
    out: Path,
    *,
    replace: bool = False,
    on_rows: Callable[[int], object] = ignore,
) -> Counter[str]:
    """The rows as they are, and the guard's label of every response beside them; returns verdict -> responses.

    Raises:
        PoiseError: there is no response, or `out` is in use.
    """
    counts: Counter[str] = Counter()
    step = {"name": "guard label", "guard": guard.name, "version": guard.version}
    with TableWriter(out, step, [tables], replace=replace) as writer:
        rounds = carry(tables, writer, [guard.name], {"label": guard.version})
        waiting = responses_of(tables)
        while part := list(islice(waiting, _AT_A_TIME)):
            items = [("\n".join([*(turn.content for turn in r.turns), r.prompt]), r.response) for r in part]
            for record, verdict in zip(part, guard.judge(items, on_rows), strict=True):
                counts["unjudged" if verdict.unsafe is None else "unsafe" if verdict.unsafe else "safe"] += 1
                writer.add(_judgement(guard, record, verdict, rounds.get((guard.name, "label"), 0)))
        if not counts:
            raise PoiseError("no response to judge", where=str(tables.folder), do="name tables with responses")
    return counts


def _judgement(guard: TrainedGuard, record: QARecord, verdict: Verdict, round_: int) -> JudgementRecord:
    value = None
    if verdict.unsafe is not None:
        value = {
            "categories": codes(verdict.categories or ()),
            "severity": int(verdict.severity or 0),
            "safe": not verdict.unsafe,
        }
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
        provenance={"severity_probabilities": verdict.severity_probabilities, "reason": verdict.reason}
        if verdict.reason or verdict.severity_probabilities
        else None,
    )


def evaluate(guard: TrainedGuard, tables: Tables, on_rows: Callable[[int], object] = ignore) -> dict[str, Any]:
    """How good the guard is on labelled tables in the 19 categories (see `poise data map`), set by set.

    Rows that say "train" teach the baselines and are not measured; without a split all rows are measured, and there is
    no TF-IDF beside them.

    Raises:
        PoiseError: no row has a label.
    """
    names = {
        name
        for unit in ("qa", "default", "pairs-extended", "prompt")
        if unit in tables
        for batch in tables[unit].batches(["dataset"])
        for name in batch.column("dataset").unique().to_pylist()
    }
    plan = DataPlan(sets={name or "": SetUse(rows=10**9) for name in names}, calibration_share=1e-9)
    rows = rows_of(tables, plan, 0)
    held = [row for row in rows if row.part == "test"] or rows
    train = [row for row in rows if row.part != "test"] if len(held) < len(rows) else []
    if not any(row.unsafe is not None for row in held):
        raise PoiseError("no row with a label", where=str(tables.folder), do="read a labelled set into it")
    logits = guard.logits([(row.prompt, row.response) for row in held], on_rows)
    return measure(logits, held, train, guard.threshold, guard.level_cuts)
