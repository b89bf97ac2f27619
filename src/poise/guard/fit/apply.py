"""A trained guard on texts and on labelled tables: calibrated probabilities, levels, and how good they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from poise.data.tables import Tables
from poise.errors import PoiseError
from poise.guard.fit.calibration import Calibration
from poise.guard.fit.model import GuardLogits, GuardModel, Text
from poise.guard.fit.plan import DataPlan, SetUse
from poise.guard.fit.rows import rows_of
from poise.guard.fit.run import Probabilities, measure, probabilities
from poise.models.encoder import ignore


class TrainedGuard:
    """What `poise guard train` wrote, ready to judge.

    Args:
        folder: of the guard.

    Attributes:
        threshold: P(severity >= 1) from which a text counts as unsafe.
        category_thresholds: P(category) from which each of the 19 is named.

    Raises:
        PoiseError: the folder holds no guard.
    """

    def __init__(self, folder: Path) -> None:
        self.model, settings = GuardModel.load(folder)
        try:
            self._calibration = Calibration.from_json(settings["calibration"])
            self.threshold = float(settings["thresholds"]["unsafe"])
            self.category_thresholds = tuple(map(float, settings["thresholds"]["categories"]))
            self.name = str(settings["plan"]["name"])
        except (KeyError, TypeError, ValueError) as error:
            raise PoiseError(
                f"guard.json is not whole ({type(error).__name__})", where=str(folder), do="train it again"
            ) from error

    def logits(self, texts: Sequence[Text], on_rows: Callable[[int], object] = ignore) -> GuardLogits:
        """Calibrated logits of all texts in order."""
        return self._calibration.apply(self.model.logits(texts, on_rows=on_rows))

    def judge(self, texts: Sequence[Text], on_rows: Callable[[int], object] = ignore) -> Probabilities:
        """Calibrated probabilities of all texts in order."""
        return probabilities(self.logits(texts, on_rows))


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
    return measure(logits, held, train, guard.threshold)
