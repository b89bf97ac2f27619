"""A guard of our own as people use it: calibrated probabilities, thresholds, verdicts, whatever computes its logits.

`TrainedGuard` computes them by torch, `FastGuard` by ONNX Runtime; what follows is here, once, and needs neither.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from poise.errors import PoiseError
from poise.guard.calibration import Calibration, Probabilities, levels_of, probabilities
from poise.guard.verdict import Item, Verdict, judged, unjudged
from poise.guard.windows import Logits, Text, Window
from poise.harm import CATEGORIES, PKU, Severity


def _ignore(_: int) -> None:
    """No progress is shown."""


class CalibratedGuard(ABC):
    """A guard whose calibration and thresholds are in the `guard.json` of its folder.

    Args:
        folder: of the guard.
        settings: its `guard.json`, read.
        weights: file of its weights, which with calibration and thresholds makes its version.

    Attributes:
        threshold: P(severity >= 1) from which a text counts as unsafe.
        category_thresholds: P(category) from which each of the 19 is named.
        level_cuts: P(severity >= 2, 3) from which an unsafe text is moderate, severe.
        block_at: the level from which `blocks` says yes; None where nobody chose one: whatever is unsafe.
        version: of weights, calibration and thresholds.

    Raises:
        PoiseError: the settings are not whole.
    """

    def __init__(self, folder: Path, settings: dict[str, Any], weights: Path) -> None:
        self.folder, self.settings = folder, settings
        try:
            self.calibration = Calibration.from_json(settings["calibration"])
            limits = settings["thresholds"]
            self.threshold = float(limits["unsafe"])
            self.category_thresholds = tuple(map(float, limits["categories"]))
            two, three = limits.get("levels", (0.5, 0.5))
            self.level_cuts = (float(two), float(three))
            chosen = settings.get("block_at")
            self.block_at = None if chosen is None else Severity.parse(chosen)
            self._block_threshold = self.threshold if self.block_at is None else float(limits["block"])
            self.name = str(settings["plan"]["name"])
        except (KeyError, TypeError, ValueError) as error:
            raise PoiseError(
                f"guard.json is not whole ({type(error).__name__})", where=str(folder), do="train or export it again"
            ) from error
        told = [settings["calibration"], limits, chosen]
        self.version = hashlib.sha256(weights.read_bytes() + json.dumps(told).encode()).hexdigest()[:12]

    @abstractmethod
    def windows(self, text: Text) -> list[Window]:
        """Token ids (prompt part, answer part) of each window of a text."""

    @abstractmethod
    def raw_logits(self, texts: Sequence[Text], on_rows: Callable[[int], object] = _ignore) -> Logits:
        """Logits of all texts in order, before calibration."""

    def logits(self, texts: Sequence[Text], on_rows: Callable[[int], object] = _ignore) -> Logits:
        """Calibrated logits of all texts in order."""
        return self.calibration.apply(self.raw_logits([_encodable(text) for text in texts], on_rows))

    def probabilities(self, texts: Sequence[Text], on_rows: Callable[[int], object] = _ignore) -> Probabilities:
        """Calibrated probabilities of all texts in order."""
        return probabilities(self.logits(texts, on_rows))

    def judge(self, items: Sequence[Item], on_rows: Callable[[int], object] = _ignore) -> list[Verdict]:
        """One verdict an item, in order; empty texts and scores that are no numbers are unjudged."""
        empty = [_blank(prompt) or (response is not None and _blank(response)) for prompt, response in items]
        found = self.probabilities(items, on_rows) if items else None
        return [
            unjudged("empty") if blank or found is None else self.verdict(found, row) for row, blank in enumerate(empty)
        ]

    def verdict(self, found: Probabilities, row: int) -> Verdict:
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
            category_probabilities=tuple(map(float, categories)),
            probability=unsafe,
            refusal=bool(found.refusal[row] >= 0.5),
        )

    def blocks(self, verdict: Verdict) -> bool:
        """Whether a text is to be held back: unsafe, and P(severity >= block_at) at its threshold. Unjudged is."""
        if verdict.unsafe is None or verdict.severity_probabilities is None:
            return True
        if self.block_at is None:
            return verdict.unsafe
        return verdict.unsafe and sum(verdict.severity_probabilities[self.block_at :]) >= self._block_threshold


def _blank(text: str) -> bool:
    """Nothing to read: white space, and characters that nobody sees."""
    return all(c.isspace() or not c.isprintable() for c in text)


def _encodable(text: Text) -> Text:
    """Halves of surrogate pairs, which no tokenizer takes, as replacement characters."""
    prompt, response = (None if part is None else _repaired(part) for part in text)
    return prompt or "", response


def _repaired(text: str) -> str:
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
