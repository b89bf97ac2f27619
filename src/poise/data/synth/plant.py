"""What is planted into a synthetic corpus on purpose, so that a check can be held against the truth."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from poise.data.columns import TABLES, response_hash
from poise.data.synth.texts import Ids, draw
from poise.data.tables import BATCH
from poise.errors import PoiseError

Row = dict[str, Any]


@dataclass(frozen=True)
class Plant:
    """How much is planted.

    Args:
        violations: of each rule that can be broken in a row; each broken row breaks that rule and no other.
        prompts, answers: share of prompts, and of answers that are in no pair, that are edited copies of another,
            0..0.5; nothing is copied twice. The truth says how like its original each is: some lie below the usual
            threshold on purpose.
        contradictions: the eight answers of the public release whose safe flag contradicts their severity: both flags
            of two pairs of safe answers and of two pairs of unsafe ones are the other way round, which leaves every
            published count as it is.

    Raises:
        PoiseError: a share or a number out of range.
    """

    violations: int = 0
    prompts: float = 0.0
    answers: float = 0.0
    contradictions: bool = False

    def __post_init__(self) -> None:
        if self.violations < 0:
            raise PoiseError(f"{self.violations} violations of each rule", do="give 0 or more")
        for name in ("prompts", "answers"):
            if not 0 <= getattr(self, name) <= 0.5:
                raise PoiseError(f"share of near-duplicate {name} {getattr(self, name)}", do="give one from 0 to 0.5")


@dataclass
class Truth:
    """What was planted where; rows count from 0 in their unit.

    Args:
        violations: (rule, unit, row).
        near_duplicates: (unit, row, row of the original, kind of edit, Jaccard similarity of the character 5-grams);
            kinds are "case", "word" and "words".
    """

    violations: list[tuple[str, str, int]] = field(default_factory=list)
    near_duplicates: list[tuple[str, int, int, str, float]] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"violations": self.violations, "near_duplicates": self.near_duplicates}


KINDS = ("case", "word", "words")


def edited(text: str, kind: str, number: int) -> str:
    """A text that says nearly the same: other case and blanks, one other word, or one in 40, 20, 10 or 5 of them."""
    words = text.split(" ")
    if kind == "case":
        return "  ".join(word.capitalize() for word in words)
    step = len(words) if kind == "word" else min((40, 20, 10, 5)[number // 97 % 4], len(words) // 2)
    for place in range(number % step, len(words), step):
        words[place] = f"replaced{number % 97}"
    return " ".join(words)


def _blank(row: Row, before: Row) -> Row:
    """A blank response, of a length of its own: two of one prompt are no copies of each other."""
    blanks = " " * (1 + int(row["sha256"][:3], 16))
    return row | {"response": blanks, "sha256": response_hash(row["prompt"], blanks)}


BREAKS: dict[str, tuple[str, Callable[[Row, Row], Row]]] = {
    "empty-text": ("qa", _blank),
    "id-range": ("default", lambda row, _: row | {"better_response_id": 2}),
    "unknown-category": ("prompt", lambda row, _: row | {"category": "S20"}),
    "safe-severity-category": ("qa", lambda row, _: row | {"is_safe": not row["is_safe"]}),
    "logical-order": ("default", lambda row, _: row | {"safer_response_id": 1 - row["safer_response_id"]}),
    "response-hash": ("qa", lambda row, _: row | {"sha256": "0" * 64}),
    "duplicate-row": ("single-dimension", lambda row, before: before),
}
"""Rule -> unit and what breaks it: (row, the row before it) -> broken row."""


class Planter:
    """Breaks rows of batches as they pass.

    Args:
        eligible: rule -> rows of its unit that can break it; places are a hash of the seed, no two side by side.

    Raises:
        PoiseError: there are too few rows for so many violations.
    """

    def __init__(self, plant: Plant, eligible: Mapping[str, Ids], seed: int, truth: Truth) -> None:
        self._rules: dict[str, dict[int, str]] = {unit: {} for unit, _ in BREAKS.values()}
        for number, (rule, (unit, _)) in enumerate(BREAKS.items() if plant.violations else ()):
            rows = eligible[rule][eligible[rule] % BATCH > 0]  # a row that has one before it in its batch
            taken, chosen = self._rules[unit], list[int]()
            for row in rows[np.argsort(draw(seed, 900 + number, rows), kind="stable")].tolist():
                if len(chosen) < plant.violations and not {row - 1, row, row + 1} & taken.keys():
                    taken[row] = rule
                    chosen.append(row)
            if len(chosen) < plant.violations:
                raise PoiseError(
                    f"no room for {plant.violations} violations of {rule}", do="ask for fewer or more rows"
                )
        truth.violations += [
            (rule, unit, row) for unit, rules in self._rules.items() for row, rule in sorted(rules.items())
        ]

    def broken(self, unit: str, batch: pa.RecordBatch, before: int) -> pa.RecordBatch:
        """The batch with its planted rows; `before` rows of the unit came before it."""
        places = [row for row in self._rules.get(unit, {}) if before <= row < before + batch.num_rows]
        if not places:
            return batch
        rows = batch.to_pylist()
        for place in places:
            index = place - before
            rows[index] = BREAKS[self._rules[unit][place]][1](rows[index], rows[index - 1])
        return pa.RecordBatch.from_pylist(rows, schema=TABLES[unit])


def near_duplicates(seed: int, purpose: int, ids: Ids, share: float) -> dict[int, tuple[int, str]]:
    """id -> (id of the original, kind of edit) for a share of ids; no original is itself a copy or copied twice."""
    count = min(round(share * len(ids)), len(ids) // 2)
    order = ids[np.argsort(draw(seed, purpose, ids), kind="stable")]
    copies, chosen = order[:count], order[count : 2 * count]
    kinds = draw(seed, purpose + 1, copies) % np.uint64(len(KINDS))
    return {int(c): (int(o), KINDS[int(k)]) for c, o, k in zip(copies, chosen, kinds, strict=True)}
