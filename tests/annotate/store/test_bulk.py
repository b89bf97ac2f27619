"""What is settled many at a time comes out as if it had been settled one by one."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from poise.annotate.store import AnnotationStore, OverlapPolicy, import_tables
from poise.annotate.store.log import Log
from poise.annotate.store.settle import Settler
from poise.data.records import DualRecord, JudgementRecord, QARecord, Record
from poise.data.tables import open_tables

from .conftest import BAD, MILD, SAFE, WORST, pair_of, qa_rows, write_rows

RATERS = [("ann", "person"), ("ben", "person"), ("cem", "person"), ("judge", "model"), ("set", "import")]
LABELS = [SAFE, SAFE, MILD, BAD, WORST, None]


def _rows(seed: int) -> list[Record]:
    """Responses, pairs, and cycles of three pairs, each judged by some of the raters, a few of them twice."""
    rng = np.random.default_rng(seed)
    pairs: list[DualRecord] = [pair_of(f"p{n}", "a", "b") for n in range(25)]
    pairs += [pair_of(f"c{n}", *sides) for n in range(8) for sides in (("a", "b"), ("b", "c"), ("c", "a"))]
    alone = [row for row in qa_rows(60) if isinstance(row, QARecord)]
    answers = [(row.item,) for row in alone] + [(side,) for row in pairs for side in row.items]
    asked = [("label", one) for one in dict.fromkeys(answers)]
    asked += [(question, row.items) for row in pairs for question in ("better", "safer", "single")]
    judged: list[Record] = []
    for question, responses in asked:
        for rater, kind in itertools.compress(RATERS, rng.random(len(RATERS)) < 0.5):
            drawn = LABELS[int(rng.integers(6))] if question == "label" else (0, 1, 1, None)[int(rng.integers(4))]
            again = [SAFE] if question == "label" and rng.random() < 0.05 else []
            judged += [_judgement(question, responses, rater, kind, value) for value in (drawn, *again)]
    return [*alone, *pairs, *judged]


def _judgement(question: str, responses: Any, rater: str, kind: Any, value: Any) -> JudgementRecord:
    told: dict[str, Any] = {"item": ":".join(responses), "question": question, "responses": responses}
    return JudgementRecord(rater=rater, rater_kind=kind, value=value, **told)


def _standing(store: AnnotationStore) -> list[Any]:
    with store.database.read() as db:
        final = db.exec_driver_sql(
            "select item, question, value, source, pins is null, settled, cyclic from final order by item, question"
        ).all()
        return [*final, *db.exec_driver_sql("select * from task order by item").all()]


@pytest.mark.parametrize(("people", "keep"), [(2, False), (0, False), (1, True)])
def test_many_at_a_time_is_one_by_one(people: int, keep: bool, tmp_path: Path) -> None:
    policy = OverlapPolicy(people=people, random_share=0.2, keep_labels=keep)
    with AnnotationStore.create(tmp_path / "s.db", policy) as store:
        import_tables(store, open_tables(write_rows(tmp_path / "rows", _rows(people))))
        before = _standing(store)
        with store.database.write() as db:
            log = Log(db, store.now_ms())
            for kind in ("qa", "pair", "single"):
                query = f"select id from item where kind = '{kind}' order by id"
                for item in db.exec_driver_sql(query).scalars().all():
                    Settler(log, store.policy).settle(item)
        after = _standing(store)
        assert [pair for pair in zip(before, after, strict=True) if pair[0] != pair[1]] == []
        states = {row[2] for row in before if row[1] in ("qa", "pair", "single")}
        assert {"open", "adjudicate"} & states and len(states) > 1
        assert store.verify().fault is None
