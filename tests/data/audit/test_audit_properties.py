"""What holds for any corpus: shares add up, order of rows, responses, files and batches does not matter, and a plain
loop over rows counts the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poise.data.audit import audit
from poise.data.records import DualRecord, PartialLabel, SingleRecord
from poise.data.tables import open_tables
from poise.harm import CATEGORIES

from .conftest import ANSWERS, CHOICES, PAIRS, WARNING

LABEL = st.builds(
    PartialLabel,
    safe=st.none() | st.booleans(),
    categories=st.none() | st.sets(st.sampled_from([c.value for c in CATEGORIES[:3]])).map(tuple),
    severity=st.none() | st.integers(0, 3),
)
ID = st.none() | st.integers(0, 1)
PAIR = st.builds(
    DualRecord,
    prompt=st.sampled_from("pq"),
    responses=st.tuples(*[st.sampled_from(["a", "bb", "ccc", WARNING])] * 2).filter(lambda texts: texts[0] != texts[1]),
    labels=st.tuples(LABEL, LABEL),
    better=ID,
    safer=ID,
    response_sources=st.tuples(*[st.sampled_from([None, "x", "y"])] * 2),
)
SINGLE = st.builds(
    SingleRecord,
    prompt=st.sampled_from("pq"),
    responses=st.sampled_from([("a", "bb"), ("bb", "ccc"), ("ccc", "a")]),
    better=ID,
)
fast = settings(max_examples=30, deadline=None)


def turned(record: SingleRecord) -> SingleRecord:
    """The same judgements with the responses the other way round."""
    update = {
        "responses": record.responses[::-1],
        "response_sources": record.response_sources[::-1],
        "better": None if record.better is None else 1 - record.better,
    }
    if isinstance(record, DualRecord):
        update |= {"labels": record.labels[::-1], "safer": None if record.safer is None else 1 - record.safer}
    return record.model_copy(update=update)


@fast
@given(st.lists(PAIR, min_size=1, max_size=12), st.lists(SINGLE, max_size=6))
def test_response_order_does_not_matter_but_for_the_position_probe(
    make: Callable, pairs: list[DualRecord], singles: list[SingleRecord]
) -> None:
    one, other = audit(make([*pairs, *singles])), audit(make([turned(record) for record in [*pairs, *singles]]))
    for name in ("better", "safer", "single"):
        first, second = one["probes"].pop(f"first_is_{name}"), other["probes"].pop(f"first_is_{name}")
        assert (first is None) == (second is None)
        if first is not None:
            assert first["of"] == second["of"] and first["count"] + second["count"] == first["of"]
    assert one == other


@fast
@given(st.lists(PAIR, min_size=1, max_size=12))
def test_shares_add_up_and_a_plain_loop_counts_the_same(make: Callable, pairs: list[DualRecord]) -> None:
    found = audit(make(pairs))
    states: Counter[int] = Counter()
    rungs: Counter[int] = Counter()
    for pair in pairs:
        a, b = pair.labels
        if a.safe is not None and b.safe is not None:
            states[a.safe + b.safe] += 1
        if None in (a.safe, b.safe, a.severity, b.severity, a.categories, b.categories):
            continue
        differs = (a.safe != b.safe, a.severity != b.severity, a.categories != b.categories)
        rungs[3 - differs.index(True) if any(differs) else 0] += 1
    total = sum(states.values())
    for name, number in (("both_safe", 2), ("mixed", 1), ("both_unsafe", 0)):
        share = found["pairs"]["states"][name]
        assert (share and (share["count"], share["of"])) == ((states[number], total) if total else None)
    if total:
        assert sum(share["share"] for share in found["pairs"]["states"].values()) == pytest.approx(1)
    assert [rung["count"] for rung in found["ladder"] or []] == [rungs[place] for place in range(4) if rungs]
    answers = [label for pair in pairs for label in pair.labels]
    listed = [label for label in answers if label.categories is not None]
    told = bool(listed) and (any(not label.safe for label in listed) or all(label.safe for label in answers))
    assert (found["categories"] is not None) == told
    for category, entry in zip(CATEGORIES if told else (), found["categories"] or [], strict=True):
        mine = [label for label in listed if category.value in label.categories]
        assert (entry["answers"], entry["share"]["of"]) == (len(mine), len(listed))
        assert (entry["alone"] or {"count": 0})["count"] == sum(len(label.categories) == 1 for label in mine)
    _same_phi(found, [label for label in listed if label.safe is False])


def _same_phi(found: dict, unsafe: list[PartialLabel]) -> None:
    flags = np.array([[c.value in (label.categories or ()) for c in CATEGORIES[:3]] for label in unsafe], dtype=float)
    for a, b in ((0, 1), (0, 2), (1, 2)) if unsafe else ():
        if flags[:, [a, b]].std(axis=0).all():
            expected = np.corrcoef(flags[:, a], flags[:, b])[0, 1]
            assert found["co_occurrence"]["phi"][a][b] == pytest.approx(expected)
        else:
            assert found["co_occurrence"]["phi"][a][b] is None


@fast
@given(st.lists(PAIR, min_size=2, max_size=12), st.lists(SINGLE, max_size=6), st.randoms(use_true_random=False))
def test_row_order_does_not_matter(
    make: Callable, pairs: list[DualRecord], singles: list[SingleRecord], random: object
) -> None:
    rows = [*pairs, *singles]
    one = audit(make(rows))
    random.shuffle(rows)  # type: ignore[attr-defined]
    assert audit(make(rows)) == one


def test_batch_size_and_file_order_do_not_matter(make: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    records = [*PAIRS, *PAIRS[:4], *CHOICES, *ANSWERS]
    tables = make(records)
    whole = audit(tables)
    monkeypatch.setattr("poise.data.audit.count._ROWS", 3)
    assert audit(tables) == whole
    monkeypatch.setattr("poise.data.audit.tally._MERGE_AT", 2)
    for table in tables.values():
        rows = pq.read_table(table.files[0])
        table.files[0].unlink()
        for name, part in (("z", rows.slice(0, 2)), ("a", rows.slice(2))):
            pq.write_table(part, table.files[0].with_name(f"{name}.parquet"))
    again = open_tables(tables.folder)
    assert len(again["default"].files) == 2
    assert audit(again) == whole
