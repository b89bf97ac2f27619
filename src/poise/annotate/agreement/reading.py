"""The judgements of tables as ratings, question by question.

Each distinct JSON value, rater and item is looked at once; the rest is codes. A null value is unjudged and left out.
Rules (`rater_kind` "rule") are no raters: what they say follows from others' labels. Questions `votes-X`, whose value
is a number, are counts of a crowd that chose X, and become one question "votes" in which the crowd answers often.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from poise.annotate.agreement.ratings import Ints, RaterName, Ratings
from poise.data.corpus import canonical_json
from poise.data.tables import Table, Tables
from poise.errors import PoiseError

Round = Literal["last", "first"]
VOTES = "votes"
_COLUMNS = ("item", "question", "value", "rater", "rater_kind", "round")
_ROWS = 65_536


@dataclass(frozen=True)
class Question:
    """What was answered to one question.

    Args:
        name: of the question.
        ratings: values are JSON values as they were given, in no order.
        names: [I] ids of the items.
        unjudged: judgements without a value.
        repeated: judgements that another round, or a later row of the same round, of the same rater replaces.
    """

    name: str
    ratings: Ratings
    names: pa.Array
    unjudged: int
    repeated: int


def read_questions(
    tables: Tables,
    *,
    without_models: bool = False,
    rater: Callable[[RaterName], bool] | None = None,
    round_: Round = "last",
) -> dict[str, Question]:
    """All questions of the unit `judgements`, in alphabetical order.

    Args:
        without_models: leave out raters of kind "model".
        rater: which raters to keep; None: all.
        round_: which of a rater's answers to one question about one item counts.

    Raises:
        PoiseError: no judgements, or a value that is not JSON.
    """
    if "judgements" not in tables:
        raise PoiseError("no judgements", where=str(tables.folder), do="make some with `poise annotate label`")
    read = _Columns(tables["judgements"])
    raters, rater_of = read.raters()
    kept = [
        name.kind != "rule" and not (without_models and name.kind == "model") and (rater is None or rater(name))
        for name in raters
    ]
    wanted = np.array(kept, bool)[rater_of]
    questions, question_of = read.coded("question")
    if not wanted.any():
        raise PoiseError("no judgement of the raters wanted", where=str(tables.folder), do="keep more raters")
    found: dict[str, Question] = {}
    votes = [i for i, name in enumerate(questions) if name.startswith(f"{VOTES}-")]
    if votes and (rows := np.flatnonzero(wanted & np.isin(question_of, votes))).size:
        found[VOTES] = _votes(read, rows, raters, rater_of, question_of, questions)
    for i, name in enumerate(questions):
        rows = np.flatnonzero(wanted & (question_of == i))
        if i not in votes and rows.size:
            found[name] = _question(name, read, rows, raters, rater_of, round_)
    return dict(sorted(found.items()))


class _Columns:
    """The columns of all judgements, as codes and what they stand for."""

    def __init__(self, table: Table) -> None:
        parts: dict[str, list[pa.Array]] = {name: [] for name in _COLUMNS}
        for batch in table.batches(_COLUMNS, _ROWS):
            for name in _COLUMNS:
                column = batch.column(name)
                parts[name].append(column if name in ("item", "round") else column.dictionary_encode())
        self._codes: dict[str, tuple[list[str], Ints]] = {}
        for name in ("question", "value", "rater", "rater_kind"):
            self._codes[name] = _coded(pa.chunked_array(parts[name]).unify_dictionaries().combine_chunks())
        items = _combined(pa.chunked_array(parts["item"], pa.string()).dictionary_encode())
        self.item_names = items.dictionary
        self.item = _numbers(items.indices)
        self.round = _numbers(_combined(pa.chunked_array(parts["round"], pa.int64())).fill_null(0))
        texts, self.value = self._codes["value"]
        self.value = self._parsed(texts)[self.value] if texts else self.value

    def coded(self, name: str) -> tuple[list[str], Ints]:
        """Distinct texts, and the position of each row's; -1 for null."""
        return self._codes[name]

    def raters(self) -> tuple[list[RaterName], Ints]:
        """Distinct (rater, kind), and the position of each row's."""
        (names, name), (kinds, kind) = self._codes["rater"], self._codes["rater_kind"]
        distinct, place = np.unique(name * len(kinds) + kind, return_inverse=True)
        return [RaterName(names[int(i) // len(kinds)], kinds[int(i) % len(kinds)]) for i in distinct], place

    def _parsed(self, texts: list[str]) -> Ints:
        """Sets `values`; returns the code of each text, and last that of null. 0 and 0.0 are one value."""
        self.values: list[Any] = []
        codes: dict[str, int] = {}
        out = np.full(len(texts) + 1, -1, np.int64)
        for i, text in enumerate(texts):
            try:
                value = json.loads(text)
            except ValueError as error:
                raise PoiseError(f"value {text[:60]!r}", where="judgements", do="write JSON values") from error
            if value is None:
                continue
            if isinstance(value, float) and value.is_integer():
                value = int(value)
            code = codes.setdefault(canonical_json(value), len(self.values))
            if code == len(self.values):
                self.values.append(value)
            out[i] = code
        return out

    values: list[Any] = []  # noqa: RUF012 - set anew for each instance


def _combined(chunked: pa.ChunkedArray) -> pa.Array:
    whole = chunked.combine_chunks()
    return whole.combine_chunks() if isinstance(whole, pa.ChunkedArray) else whole


def _coded(array: pa.Array) -> tuple[list[str], Ints]:
    whole = array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array
    return whole.dictionary.to_pylist(), _numbers(whole.indices.fill_null(-1))


def _numbers(array: pa.Array) -> Ints:
    numbers: Ints = array.to_numpy(zero_copy_only=False).astype(np.int64)
    return numbers


def _question(
    name: str, read: _Columns, rows: Ints, raters: list[RaterName], rater_of: Ints, round_: Round
) -> Question:
    judged = rows[read.value[rows] >= 0]
    item, rater = read.item[judged], rater_of[judged]
    turn = read.round[judged] if round_ == "last" else -read.round[judged]
    order = np.lexsort((np.arange(len(judged)), turn, rater, item))
    item, rater = item[order], rater[order]
    last = np.append((np.diff(item) != 0) | (np.diff(rater) != 0), True) if len(item) else np.empty(0, bool)
    kept = judged[order][last]
    ratings, names = _compact(read, read.item[kept], rater_of[kept], read.value[kept], raters, read.values)
    return Question(name, ratings, names, len(rows) - len(judged), len(judged) - len(kept))


def _votes(
    read: _Columns, rows: Ints, raters: list[RaterName], rater_of: Ints, question_of: Ints, questions: list[str]
) -> Question:
    judged = rows[read.value[rows] >= 0]
    numbers = [read.values[code] for code in read.value[judged]]
    if bad := [n for n in numbers if not isinstance(n, int) or isinstance(n, bool) or n < 0]:
        raise PoiseError(f"{bad[0]!r} votes", where="judgements", do="give whole numbers from 0 for questions votes-X")
    rows_each = np.repeat(judged, np.array(numbers, np.int64))
    rows_each = rows_each[np.argsort(read.item[rows_each], kind="stable")]
    choices = [question.removeprefix(f"{VOTES}-") for question in questions]
    ratings, names = _compact(read, read.item[rows_each], rater_of[rows_each], question_of[rows_each], raters, choices)
    return Question(VOTES, ratings, names, len(rows) - len(judged), 0)


def _compact(
    read: _Columns, item: Ints, rater: Ints, value: Ints, raters: list[RaterName], values: list[Any]
) -> tuple[Ratings, pa.Array]:
    """Ratings of the items, raters and values that occur; `item` is ascending."""
    items, item = np.unique(item, return_inverse=True)
    who, rater = np.unique(rater, return_inverse=True)
    what, value = np.unique(value, return_inverse=True)
    ratings = Ratings(
        item, rater, value, len(items), tuple(raters[i] for i in who), tuple(values[i] for i in what), "nominal"
    )
    return ratings, read.item_names.take(pa.array(items))
