"""The judgements of an annotation store as ratings, without an export between.

All answers of raters that were not undone are read in one query; which of a rater's answers counts is decided on
arrays. A tie is a third value of a choice, which tables do not have. Left out: the strength of a choice, answers after
a planted wrong suggestion, and what adjudicators decided, since they had seen the answers of the others. (In exported
tables an adjudication stands as a judgement of its rater.)
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import sqlalchemy as sa

from poise.annotate.agreement.ratings import Ints, RaterName
from poise.annotate.agreement.reading import Columns, Question, Round, parsed_values, questions_of
from poise.annotate.store import AnnotationStore
from poise.annotate.store.log import parsed
from poise.data.corpus import canonical_json

_STEP = 50_000
"""Events that one row of the answer holds: the database puts their columns together as texts, a line for each, since
making an object of every field would take longer than all that follows."""
_JOIN = {"sqlite": "group_concat({}, char(10))", "postgresql": "string_agg(({})::text, chr(10))"}
_ANSWERS = """
select {seq} as seq, {item} as item, {rater} as rater, {told} as told from event
where seq > :after and seq <= :until and kind in ('judge', 'import')
and (shown is null or shown not like '{{"arm":"planted",%')
and seq not in (select target from event where target is not null)
"""
_COLUMNS = {"seq": "seq", "item": "item", "rater": "rater", "told": "question || ' ' || coalesce(value, 'null')"}
_RATERS = "select id, name, kind from rater order by id"


def read_store(
    store: AnnotationStore,
    *,
    without_models: bool = False,
    rater: Callable[[RaterName], bool] | None = None,
    round_: Round = "last",
) -> dict[str, Question]:
    """All questions that were answered, as `poise.annotate.agreement.reading.read_questions` gives them.

    Raises:
        PoiseError: no judgement of the raters wanted.
    """
    read = _columns(store)
    return questions_of(read, store.database.name, without_models=without_models, rater=rater, round_=round_)


def _columns(store: AnnotationStore) -> Columns:
    with store.database.read() as db:
        raters = db.execute(sa.text(_RATERS)).all()
        (seq, item, rater, told), texts = _answers(db)
    split = [text.split(" ", 1) for text in texts]
    values, value_of = parsed_values([_without_strength(value) for _, value in split])
    questions = list(dict.fromkeys(question for question, _ in split))
    question_of = np.array([questions.index(question) for question, _ in split], np.int64)
    names = list(dict.fromkeys(RaterName(name, kind) for _, name, kind in raters))  # one name, several versions
    places = np.array([names.index(RaterName(name, kind)) for _, name, kind in raters], np.int64)
    items, place = np.unique(item, return_inverse=True)
    return Columns(
        item=place,
        question=question_of[told] if texts else told,
        rater=places[np.searchsorted(np.array([row.id for row in raters], np.int64), rater)],
        value=value_of[told] if texts else told,
        round=seq,
        item_names=pa.array(items).cast(pa.string()),
        questions=questions,
        raters=names,
        values=values,
    )


def _answers(db: sa.Connection) -> tuple[Ints, list[str]]:
    """[4, N] number, keys of item and rater, code of question and value; and what the codes stand for."""
    join = _JOIN[db.dialect.name]
    columns = {name: join.format(column) for name, column in _COLUMNS.items()}
    query = sa.text(_ANSWERS.format(**columns))
    most = db.execute(sa.text("select max(seq) from event")).scalar() or 0
    codes: dict[str, int] = {}
    parts = [np.empty((4, 0), np.int64)]
    for after in range(0, most, _STEP):
        row = db.execute(query, {"after": after, "until": after + _STEP}).one()
        if row.seq is None:
            continue
        told = row.told.split("\n")
        for text in set(told) - codes.keys():
            codes[text] = len(codes)
        coded = np.fromiter(map(codes.__getitem__, told), np.int64, len(told))
        parts.append(np.stack([_numbers(row.seq), _numbers(row.item), _numbers(row.rater), coded]))
    return np.concatenate(parts, axis=1), list(codes)


def _numbers(lines: str) -> Ints:
    return np.fromstring(lines, np.int64, sep="\n")


def _without_strength(text: str) -> str:
    """JSON of a choice alone; everything else as it is."""
    value = parsed(text)
    return canonical_json(value["choice"]) if isinstance(value, dict) and "choice" in value else text
