"""Label Studio and Argilla: judgements go there and back, raw entries stay as they were, no answer is a guess."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poise.data.adapters.base import BadRowError
from poise.data.adapters.items import hashes_of
from poise.data.adapters.label_studio import CONFIG, PAIR_CONFIG
from poise.data.adapters.registry import FORMATS, detect
from poise.data.containers import Line
from poise.data.records import DualRecord, JudgementRecord, QARecord, Record, Turn
from poise.harm import CATEGORIES

TOOLS = ("label-studio", "argilla")
WORDS = st.text(st.characters(categories=["L", "N", "P"], codec="utf-8"), min_size=1, max_size=12)
TURNS = st.lists(WORDS, max_size=1).map(lambda said: tuple(Turn(role="system", content=text) for text in said))
CARRIED = {"prompt": WORDS, "turns": TURNS, "image": st.one_of(st.none(), WORDS)}
ITEMS = st.one_of(
    st.builds(QARecord, response=WORDS, **CARRIED),
    st.builds(DualRecord, responses=st.tuples(WORDS, WORDS), **CARRIED),
)
LABELS = st.fixed_dictionaries(
    {"categories": st.lists(st.sampled_from([category.code for category in CATEGORIES]), unique=True, max_size=3)},
    optional={"severity": st.integers(0, 3)},
)
ANSWERS = st.one_of(
    st.tuples(st.just("label"), LABELS),
    st.tuples(st.just("label"), st.just({"safe": False, "categories": ["self_harm"], "taxonomy": "beavertails-14"})),
    st.tuples(st.just("safe"), st.booleans()),
    st.tuples(st.sampled_from(["better", "safer", "single"]), st.integers(0, 1)),
    st.tuples(st.just("note"), WORDS),
    st.tuples(st.just("minutes"), st.integers(0, 9)),
    st.tuples(st.just("tags"), st.lists(WORDS, min_size=1, max_size=2)),
)


def decode(name: str, row: dict[str, Any]) -> tuple[QARecord | DualRecord, list[JudgementRecord]]:
    record, *judged = FORMATS[name].decode(Line(row, Path("f"), 1))
    assert isinstance(record, QARecord | DualRecord)
    return record, [j for j in judged if isinstance(j, JudgementRecord)]


def encode(name: str, record: Record, judgements: list[JudgementRecord]) -> dict[str, Any]:
    make = FORMATS[name].encode
    assert make is not None
    (row,) = make(record, judgements)
    return dict(row)


@pytest.mark.parametrize("name", TOOLS)
@given(record=ITEMS, told=st.lists(st.tuples(ANSWERS, st.sampled_from(["person", "model"])), max_size=4))
def test_judgements_go_there_and_back(name: str, record: QARecord | DualRecord, told: list[Any]) -> None:
    """The item, every question, value and kind of rater survive; and what was read is written back as it was."""
    hashes = hashes_of(record)
    judged = [
        JudgementRecord(
            item=":".join(hashes), question=q, value=v, rater=f"r{n}", rater_kind=kind, responses=hashes, probability=p
        )
        for n, ((q, v), kind) in enumerate(told)
        for p in [0.5 if kind == "model" else None]
    ]
    row = encode(name, record, judged)
    again, back = decode(name, row)
    computed = {"hashes", "sha256"}
    assert again.model_dump(exclude=computed) == record.model_dump(exclude=computed)

    def facts(j: JudgementRecord) -> tuple[str, ...]:
        return (
            j.item,
            j.question,
            json.dumps(j.value, sort_keys=True),
            j.rater_kind,
            repr(j.probability),
            j.rater.rpartition(":")[2],
        )

    assert sorted(map(facts, back)) == sorted(map(facts, judged))
    assert encode(name, again, back) == row


def test_what_a_task_holds_beside_its_answers_is_written_back() -> None:
    task = {
        "id": 3,
        "data": {"prompt": "p", "response": "r", "prompt_source": "web", "batch": 1},
        "annotations": [
            {"completed_by": 1, "was_cancelled": True, "result": []},
            {"completed_by": 1, "result": [{"from_name": "safe", "value": {"choices": ["safe"]}}]},
            {"completed_by": 1, "result": [{"from_name": "safe", "value": {"choices": ["safe"]}}]},
        ],
        "predictions": [],
        "meta": {"x": 1},
        "inner_id": 9,
    }
    record, judged = decode("label-studio", task)
    assert [(j.question, j.value, j.round) for j in judged] == [
        ("label", None, 0),
        ("safe", True, 0),
        ("safe", True, 1),
    ]
    assert encode("label-studio", record, judged) == task


def test_what_a_record_holds_beside_its_answers_is_written_back() -> None:
    """The keys of Argilla 2.8's `Record.to_dict`; one user without a name answers twice."""
    row = {
        "id": "r1",
        "fields": {"prompt": "p", "response": "r", "hint": "h"},
        "metadata": {"batch": 3},
        "responses": {"safe": [{"value": "safe", "user_id": "None"}, {"value": "unsafe", "user_id": "None"}]},
        "suggestions": {"safe": {"value": "unsafe", "score": 0.9, "agent": "m1"}},
        "vectors": {},
        "status": "pending",
        "_server_id": "s1",
    }
    record, judged = decode("argilla", row)
    assert [(j.rater, j.value, j.round, j.probability) for j in judged] == [
        ("argilla:None", True, 0, None),
        ("argilla:None", False, 1, None),
        ("argilla:m1", False, 0, 0.9),
    ]
    assert encode("argilla", record, judged) == row


def test_argilla_columns() -> None:
    """A row of `to_datasets`: a suggested label is the number of a class without a name, so it is unjudged."""
    row = {
        "id": "r1",
        "status": "completed",
        "_server_id": "s1",
        "prompt": "p",
        "response_0": "a",
        "response_1": "b",
        "response": None,
        "batch": 3,
        "safer.responses": ["response_0", "response_1"],
        "safer.responses.users": ["u1", "u2"],
        "safer.responses.status": ["submitted", "discarded"],
        "safer.suggestion": 1,
        "safer.suggestion.score": None,
        "safer.suggestion.agent": "m1",
        "note.suggestion": "look",
        "note.suggestion.score": 0.5,
        "note.suggestion.agent": "m2",
        "better.responses": None,
    }
    record, judged = decode("argilla-datasets", row)
    assert isinstance(record, DualRecord) and record.responses == ("a", "b")
    assert record.provenance == {"metadata": {"batch": 3}, "record": {"status": "completed", "_server_id": "s1"}}
    assert [(j.rater, j.question, j.value, j.probability) for j in judged] == [
        ("argilla:u1", "safer", 0, None),
        ("argilla:u2", "safer", None, None),
        ("argilla:m1", "safer", None, None),
        ("argilla:m2", "note", "look", 0.5),
    ]
    found = detect(row)
    assert found is not None and found.name == "argilla-datasets"


def _label_of(*results: tuple[str, Any]) -> Any:
    made = [{"from_name": name, "value": value} for name, value in results]
    row = {"data": {"prompt": "p", "response": "r"}, "annotations": [{"completed_by": 1, "result": made}]}
    _, (judgement,) = decode("label-studio", row)
    return judgement.value


def test_a_label_says_only_what_was_answered() -> None:
    assert _label_of(("severity", {"choices": ["2"]})) == {"severity": 2}
    assert _label_of(("severity", {"rating": 0})) == {"categories": [], "severity": 0}
    assert _label_of(("categories", {"choices": ["Drugs"]})) == {"categories": ["S7"]}
    assert _label_of(("safe", {"choices": ["perhaps"]})) is None
    with pytest.raises(BadRowError, match="unknown-category"):
        _label_of(("severity", {"choices": ["9"]}))


def test_the_configurations_have_the_questions() -> None:
    assert all(
        f'name="{name}"' in CONFIG for name in ("prompt", "response", "safe", "categories", "severity", "reason")
    )
    assert all(f'name="{name}"' in PAIR_CONFIG for name in ("prompt", "response_0", "better", "safer", "single"))
    assert all(category.value in CONFIG for category in CATEGORIES)
