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
        names: [I] ids of the items; of a store their keys there.
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
    columns = _read(tables["judgements"])
    return questions_of(columns, str(tables.folder), without_models=without_models, rater=rater, round_=round_)


def questions_of(
    read: Columns,
    where: str,
    *,
    without_models: bool = False,
    rater: Callable[[RaterName], bool] | None = None,
    round_: Round = "last",
) -> dict[str, Question]:
    """All questions of the columns, in alphabetical order; the arguments are those of `read_questions`.

    Args:
        where: what to name in an error.

    Raises:
        PoiseError: no judgement of the raters wanted.
    """
    kept = [
        name.kind != "rule" and not (without_models and name.kind == "model") and (rater is None or rater(name))
        for name in read.raters
    ]
    wanted = np.array(kept, bool)[read.rater]
    if not wanted.any():
        raise PoiseError("no judgement of the raters wanted", where=where, do="keep more raters")
    found: dict[str, Question] = {}
    votes = [i for i, name in enumerate(read.questions) if name.startswith(f"{VOTES}-")]
    if votes and (rows := np.flatnonzero(wanted & np.isin(read.question, votes))).size:
        found[VOTES] = _votes(read, rows)
    for i, name in enumerate(read.questions):
        rows = np.flatnonzero(wanted & (read.question == i))
        if i not in votes and rows.size:
            found[name] = _question(name, read, rows, round_)
    return dict(sorted(found.items()))


@dataclass(frozen=True)
class Columns:
    """All judgements, N of them, as codes and what the codes stand for.

    Args:
        item, question, rater: [N] places in `item_names`, `questions`, `raters`.
        value: [N] place in `values`, -1 where nothing was judged.
        round: [N] orders the answers of one rater to one question about one item.
    """

    item: Ints
    question: Ints
    rater: Ints
    value: Ints
    round: Ints
    item_names: pa.Array
    questions: list[str]
    raters: list[RaterName]
    values: list[Any]


def _read(table: Table) -> Columns:
    parts: dict[str, list[pa.Array]] = {name: [] for name in _COLUMNS}
    for batch in table.batches(_COLUMNS, _ROWS):
        for name in _COLUMNS:
            column = batch.column(name)
            parts[name].append(column if name in ("item", "round") else column.dictionary_encode())
    codes = {
        name: _coded(pa.chunked_array(parts[name]).unify_dictionaries().combine_chunks())
        for name in ("question", "value", "rater", "rater_kind")
    }
    items = _combined(pa.chunked_array(parts["item"], pa.string()).dictionary_encode())
    (texts, value), (names, who), (kinds, of) = codes["value"], codes["rater"], codes["rater_kind"]
    values, value_of = parsed_values(texts)
    distinct, rater = np.unique(who * len(kinds) + of, return_inverse=True)
    return Columns(
        item=_numbers(items.indices),
        question=codes["question"][1],
        rater=rater,
        value=value_of[value] if texts else value,
        round=_numbers(_combined(pa.chunked_array(parts["round"], pa.int64())).fill_null(0)),
        item_names=items.dictionary,
        questions=codes["question"][0],
        raters=[RaterName(names[int(i) // len(kinds)], kinds[int(i) % len(kinds)]) for i in distinct],
        values=values,
    )


def parsed_values(texts: list[str]) -> tuple[list[Any], Ints]:
    """The distinct values of JSON texts, and [texts + 1] the place of each text's, -1 for null and for the last.

    0 and 0.0 are one value.

    Raises:
        PoiseError: a text is not JSON.
    """
    values: list[Any] = []
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
        code = codes.setdefault(canonical_json(value), len(values))
        if code == len(values):
            values.append(value)
        out[i] = code
    return values, out


def _combined(chunked: pa.ChunkedArray) -> pa.Array:
    whole = chunked.combine_chunks()
    return whole.combine_chunks() if isinstance(whole, pa.ChunkedArray) else whole


def _coded(array: pa.Array) -> tuple[list[str], Ints]:
    whole = array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array
    return whole.dictionary.to_pylist(), _numbers(whole.indices.fill_null(-1))


def _numbers(array: pa.Array) -> Ints:
    numbers: Ints = array.to_numpy(zero_copy_only=False).astype(np.int64)
    return numbers


def _question(name: str, read: Columns, rows: Ints, round_: Round) -> Question:
    judged = rows[read.value[rows] >= 0]
    item, rater = read.item[judged], read.rater[judged]
    turn = read.round[judged] if round_ == "last" else -read.round[judged]
    order = np.lexsort((turn, item * len(read.raters) + rater))  # stable: of one turn the later row is the last
    item, rater = item[order], rater[order]
    last = np.append((np.diff(item) != 0) | (np.diff(rater) != 0), True) if len(item) else np.empty(0, bool)
    kept = judged[order][last]
    ratings, names = _compact(read, read.item[kept], read.rater[kept], read.value[kept], read.values)
    return Question(name, ratings, names, len(rows) - len(judged), len(judged) - len(kept))


def _votes(read: Columns, rows: Ints) -> Question:
    judged = rows[read.value[rows] >= 0]
    numbers = [read.values[code] for code in read.value[judged]]
    if bad := [n for n in numbers if not isinstance(n, int) or isinstance(n, bool) or n < 0]:
        raise PoiseError(f"{bad[0]!r} votes", where="judgements", do="give whole numbers from 0 for questions votes-X")
    rows_each = np.repeat(judged, np.array(numbers, np.int64))
    rows_each = rows_each[np.argsort(read.item[rows_each], kind="stable")]
    choices = [question.removeprefix(f"{VOTES}-") for question in read.questions]
    ratings, names = _compact(read, read.item[rows_each], read.rater[rows_each], read.question[rows_each], choices)
    return Question(VOTES, ratings, names, len(rows) - len(judged), 0)


def _compact(read: Columns, item: Ints, rater: Ints, value: Ints, values: list[Any]) -> tuple[Ratings, pa.Array]:
    """Ratings of the items, raters and values that occur; `item` is ascending."""
    items, item = np.unique(item, return_inverse=True)
    who, rater = np.unique(rater, return_inverse=True)
    what, value = np.unique(value, return_inverse=True)
    ratings = Ratings(
        item, rater, value, len(items), tuple(read.raters[i] for i in who), tuple(values[i] for i in what), "nominal"
    )
    return ratings, read.item_names.take(pa.array(items))
