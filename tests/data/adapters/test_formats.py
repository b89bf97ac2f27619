"""Every format, both ways: a row read and written is the row, a record written and read is what the format can hold."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from poise.data.adapters.base import BadRowError, Format
from poise.data.adapters.registry import FORMATS, SETS, detect, format_of, mappings
from poise.data.columns import SCHEMAS, response_hash
from poise.data.containers import Line
from poise.data.records import (
    CorrectionRecord,
    DualRecord,
    JudgementRecord,
    PartialLabel,
    PromptRecord,
    QARecord,
    Record,
    SingleRecord,
    Turn,
)
from poise.errors import PoiseError
from poise.harm import CATEGORIES
from poise.harm.taxonomy import load_taxonomy

PLACE = Path("rows.jsonl")
WORDS = st.text(st.characters(categories=["L", "N", "P"], codec="utf-8"), min_size=1, max_size=12)
TURNS = st.lists(st.tuples(WORDS, WORDS), max_size=2).map(
    lambda said: tuple(t for u, a in said for t in (Turn(role="user", content=u), Turn(role="assistant", content=a)))
)


def decode(name: str, row: dict[str, Any]) -> list[Record]:
    return list(format_of(name).decode(Line(row, PLACE, 1)))


def encode(name: str, records: Iterable[Record]) -> list[Any]:
    """The rows that a format writes of records, each with the judgements about it."""
    form = format_of(name)
    assert form.encode is not None
    every = list(records)
    judged = [record for record in every if isinstance(record, JudgementRecord)]
    rows = []
    for record in every:
        if record.unit in form.units:
            items = _items(record)
            about = [j for j in judged if set(j.responses) <= set(items)]
            rows += list(form.encode(record, about))
    return rows


def _items(record: Record) -> tuple[str, ...]:
    if isinstance(record, SingleRecord):
        return record.items
    return (record.item,) if isinstance(record, QARecord) else ()


NAMES = st.sets(st.sampled_from([category.value for category in CATEGORIES]), min_size=1, max_size=3).map(tuple)
FULL = st.one_of(
    st.just(PartialLabel(safe=True, categories=(), severity=0)),
    st.builds(PartialLabel, safe=st.just(False), categories=NAMES, severity=st.integers(1, 3)),
)
BEAVER = st.builds(
    PartialLabel,
    safe=st.just(False),
    categories=st.sets(st.sampled_from(load_taxonomy("beavertails-14").keys), min_size=1).map(tuple),
    taxonomy=st.just("beavertails-14"),
)
SOURCES = {"prompt_source": WORDS, "response_sources": st.tuples(WORDS, WORDS)}
PAIR = {"prompt": WORDS, "responses": st.tuples(WORDS, WORDS).filter(lambda pair: pair[0] != pair[1])}
ID = st.integers(0, 1)


def by_hash(record: SingleRecord) -> bool:
    """Formats that say chosen and rejected put responses in the order of their hashes."""
    return record.items[0] < record.items[1]


ROUND_TRIPS: list[tuple[str, st.SearchStrategy[Record]]] = [
    ("pku-safe-rlhf", st.builds(DualRecord, **PAIR, **SOURCES, labels=st.tuples(FULL, FULL), better=ID, safer=ID)),
    (
        "pku-safe-rlhf",  # the 7 fields of the first releases
        st.builds(
            DualRecord,
            **PAIR,
            labels=st.tuples(*[st.builds(PartialLabel, safe=st.booleans())] * 2),
            better=ID,
            safer=ID,
        ),
    ),
    ("pku-single-dimension", st.builds(SingleRecord, **PAIR, **SOURCES, better=ID)),
    (
        "pku-qa",
        st.builds(QARecord, prompt=WORDS, response=WORDS, prompt_source=WORDS, response_source=WORDS, label=FULL),
    ),
    ("pku-prompt", st.builds(PromptRecord, prompt=WORDS, source=WORDS)),
    (
        "pku-prompt",
        st.builds(PromptRecord, prompt=WORDS, source=WORDS, kind=st.just("harmful"), severity=st.integers(0, 3)),
    ),
    ("beavertails", st.builds(QARecord, prompt=WORDS, response=WORDS, label=BEAVER)),
    (
        "beavertails-evaluation",
        st.builds(
            PromptRecord,
            prompt=WORDS,
            kind=st.just("harmful"),
            label=st.sampled_from(load_taxonomy("beavertails-14").keys).map(
                lambda key: PartialLabel(safe=False, categories=(key,), taxonomy="beavertails-14")
            ),
        ),
    ),
    ("hh-rlhf", st.builds(SingleRecord, **PAIR, turns=TURNS, better=ID).filter(by_hash)),
    ("hh-rlhf-harmless", st.builds(DualRecord, **PAIR, turns=TURNS, safer=ID).filter(by_hash)),
    ("aligner", st.builds(CorrectionRecord, question=WORDS, answer=WORDS, correction=WORDS)),
    ("trl-preference", st.builds(SingleRecord, **PAIR, turns=TURNS, better=ID).filter(by_hash)),
    ("openai-chat", st.builds(QARecord, prompt=WORDS, response=WORDS, turns=TURNS)),
    ("openai-chat", st.builds(PromptRecord, prompt=WORDS, turns=TURNS)),
]


@pytest.mark.parametrize(("name", "records"), ROUND_TRIPS, ids=lambda value: value if isinstance(value, str) else "")
@given(data=st.data())
def test_a_record_written_and_read_is_the_record(
    name: str, records: st.SearchStrategy[Record], data: st.DataObject
) -> None:
    record = data.draw(records)
    (row,) = encode(name, [record])
    again = decode(name, row)[0]
    computed = {"hashes", "sha256", "source_id"}
    assert again.model_dump(exclude=computed) == record.model_dump(exclude=computed)
    assert all(column in row for column in FORMATS[name].columns) or name == "pku-qa"


BEAVER_FLAGS = dict.fromkeys(load_taxonomy("beavertails-14").keys, False)
ROWS: list[tuple[str, dict[str, Any]]] = [
    (
        "beavertails",
        {"prompt": "p", "response": "r", "category": BEAVER_FLAGS | {"animal_abuse": True}, "is_safe": False},
    ),
    ("beavertails", {"prompt": "p", "response": "r", "category": BEAVER_FLAGS, "is_safe": True}),
    (
        "beavertails-v",
        {
            "question": "q",
            "image": "images/1.png",
            "category": load_taxonomy("beavertails-v-20").keys[0],
            "image_severity": 2,
            "response_1": "a",
            "response_1_from": "m",
            "is_response_1_safe": "yes",
            "response_2": "b",
            "response_2_from": "n",
            "is_response_2_safe": "no",
            "more_helpful_response_id": "2",
            "safer_response_id": "1",
            "response_1_harmless_rate": 3,
            "response_1_helpful_rate": -1,
            "response_2_harmless_rate": -3,
            "response_2_helpful_rate": 2,
        },
    ),
    (
        "beavertails-v",
        {
            "question": "q",
            "image": "images/2.png",
            "category": load_taxonomy("beavertails-v-20").keys[0],
            "image_severity": 1,
            "response": "r",
            "is_response_safe": "no",
        },
    ),
    ("hh-rlhf", {"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: a\n\nAssistant: c"}),
    ("trl-unpaired", {"prompt": "p", "completion": "c", "label": True}),
    (
        "trl-unpaired",
        {
            "prompt": [
                {"role": "user", "content": "a"},
                {"role": "assistant", "content": "b"},
                {"role": "user", "content": "c"},
            ],
            "completion": [{"role": "assistant", "content": "d"}],
            "label": False,
        },
    ),
    ("openai-chat", {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}], "tools": [1]}),
    (
        "label-studio",
        {
            "id": 7,
            "data": {"prompt": "p", "response": "r", "batch": 3},
            "annotations": [
                {
                    "id": 1,
                    "completed_by": 11,
                    "lead_time": 4.5,
                    "result": [
                        {"from_name": "categories", "type": "choices", "value": {"choices": ["Violence"]}},
                        {"from_name": "severity", "type": "rating", "value": {"rating": 2}},
                        {"from_name": "unsure", "type": "choices", "value": {"choices": ["yes"]}},
                    ],
                },
                {
                    "id": 2,
                    "completed_by": {"id": 12},
                    "result": [{"from_name": "safe", "type": "choices", "value": {"choices": ["safe"]}}],
                },
            ],
            "predictions": [
                {
                    "model_version": "g-1",
                    "score": 0.75,
                    "result": [{"from_name": "safe", "value": {"choices": ["unsafe"]}}],
                },
                {
                    "model_version": "g-2",
                    "score": 0.5,
                    "result": [{"from_name": "safe", "value": {"choices": ["safe"]}}],
                },
            ],
        },
    ),
    (
        "argilla",
        {
            "id": "r1",
            "fields": {"prompt": "p", "response_0": "a", "response_1": "b"},
            "metadata": {"batch": 3},
            "responses": {
                "safer": [{"value": "0", "user_id": "u1", "status": "submitted"}, {"value": "1", "user_id": "u2"}],
                "note": [{"value": "both fine", "user_id": "u1"}],
            },
            "suggestions": {"safer": [{"value": "1", "score": 0.9, "agent": "m1"}, {"value": "0", "agent": "m2"}]},
        },
    ),
]


@pytest.mark.parametrize(("name", "row"), ROWS, ids=[f"{name}-{n}" for n, (name, _) in enumerate(ROWS)])
def test_a_row_read_and_written_is_the_row(name: str, row: dict[str, Any]) -> None:
    (again,) = encode(name, decode(name, row))
    assert again == row


RATES = {
    f"response_{i}_{question}_rate": st.one_of(st.none(), st.integers(-3, 3))
    for i in (1, 2)
    for question in ("harmless", "helpful")
}
MADE_ROWS: list[tuple[str, st.SearchStrategy[dict[str, Any]]]] = [
    (
        "beavertails-v",
        st.fixed_dictionaries(
            {
                **dict.fromkeys(("question", "image", "response_1", "response_2"), WORDS),
                **dict.fromkeys(("response_1_from", "response_2_from"), WORDS),
                **dict.fromkeys(("is_response_1_safe", "is_response_2_safe"), st.sampled_from(["yes", "no"])),
                **dict.fromkeys(("more_helpful_response_id", "safer_response_id"), st.sampled_from(["1", "2"])),
                "category": st.sampled_from(load_taxonomy("beavertails-v-20").keys),
                "image_severity": st.one_of(st.none(), st.integers(0, 3)),
                **RATES,
            }
        ).filter(lambda row: row["response_1"] != row["response_2"]),
    ),
    ("trl-unpaired", st.fixed_dictionaries({"prompt": WORDS, "completion": WORDS, "label": st.booleans()})),
    (
        "beavertails",
        st.fixed_dictionaries(
            {
                "prompt": WORDS,
                "response": WORDS,
                "category": st.fixed_dictionaries(dict.fromkeys(BEAVER_FLAGS, st.booleans())),
                "is_safe": st.booleans(),
            }
        ),
    ),
]


@pytest.mark.parametrize(("name", "rows"), MADE_ROWS, ids=lambda value: value if isinstance(value, str) else "")
@given(data=st.data())
def test_any_row_read_and_written_is_the_row(
    name: str, rows: st.SearchStrategy[dict[str, Any]], data: st.DataObject
) -> None:
    row = data.draw(rows)
    (again,) = encode(name, decode(name, row))
    assert again == row


def test_every_written_format_has_a_round_trip() -> None:
    tested = {name for name, _ in ROUND_TRIPS} | {name for name, _ in ROWS}
    assert tested == {form.name for form in FORMATS.values() if form.encode}


def test_several_raters_and_models_of_one_item_survive() -> None:
    rows = dict(ROWS)
    _, *judged = decode("label-studio", rows["label-studio"])
    told = [
        (j.rater, j.rater_kind, j.question, j.value, j.probability) for j in judged if isinstance(j, JudgementRecord)
    ]
    assert told == [
        ("label-studio:11", "person", "label", {"categories": ["S6"], "severity": 2}, None),
        ("label-studio:11", "person", "unsure", ["yes"], None),
        ("label-studio:12", "person", "safe", True, None),
        ("label-studio:g-1", "model", "safe", False, 0.75),
        ("label-studio:g-2", "model", "safe", True, 0.5),
    ]
    _, *judged = decode("argilla", rows["argilla"])
    found = [
        (j.rater, j.rater_kind, j.question, j.value, j.probability) for j in judged if isinstance(j, JudgementRecord)
    ]
    assert found == [
        ("argilla:u1", "person", "safer", 0, None),
        ("argilla:u2", "person", "safer", 1, None),
        ("argilla:u1", "person", "note", "both fine", None),
        ("argilla:m1", "model", "safer", 1, 0.9),
        ("argilla:m2", "model", "safer", 0, None),
    ]


def test_what_is_cancelled_or_discarded_is_unjudged() -> None:
    task = {
        "data": {"prompt": "p", "response": "r"},
        "annotations": [{"completed_by": 1, "was_cancelled": True, "result": []}],
    }
    _, judgement = decode("label-studio", task)
    assert isinstance(judgement, JudgementRecord) and judgement.value is None
    record = {
        "fields": {"prompt": "p", "response": "r"},
        "responses": {"safe": [{"value": "safe", "status": "discarded"}]},
    }
    _, judgement = decode("argilla", record)
    assert isinstance(judgement, JudgementRecord) and judgement.value is None


def test_judgements_made_elsewhere_are_written_for_label_studio_and_argilla() -> None:
    record = QARecord(prompt="p", response="r")
    about: dict[str, Any] = {"item": record.item, "responses": (record.item,)}
    judged = [
        JudgementRecord(
            question="label", value={"categories": ["S6"], "severity": 1}, rater="ann", rater_kind="person", **about
        ),
        JudgementRecord(question="safe", value=False, rater="m", rater_kind="model", probability=0.5, **about),
    ]
    for name in ("label-studio", "argilla"):
        (row,) = encode(name, [record, *judged])
        _, *again = decode(name, row)
        kept = [(j.question, j.value, j.rater_kind, j.probability) for j in again if isinstance(j, JudgementRecord)]
        assert kept == [(j.question, j.value, j.rater_kind, j.probability) for j in judged]


@pytest.mark.parametrize(
    ("name", "row", "rule"),
    [
        ("pku-qa", {"prompt": "p", "response": "r", "safety_category": [19], "severity_category": 1}, "id-range"),
        ("pku-qa", {"prompt": "p", "response": "r", "harm_category": ["Nonsense"]}, "unknown-category"),
        ("pku-qa", {"prompt": "p", "response": "r", "harm_category": 3}, "field-type"),
        ("pku-qa", {"prompt": "p", "response": "r", "harm_category": {"Drugs": "no"}}, "field-type"),
        ("pku-qa", {"prompt": "p", "response": "r", "safety_category": "S5"}, "field-type"),
        ("pku-qa", {"prompt": "p"}, "missing-column"),
        ("beavertails", {"prompt": "p", "response": "r", "is_safe": True}, "missing-column"),
        ("beavertails", {"prompt": "p", "response": "r", "category": {"self_harm": None}, "is_safe": True},
         "field-type"),
        ("aligner", {"question": "q", "answer": "a"}, "missing-column"),
        ("hh-rlhf", {"chosen": "\n\nHuman: a\n\nAssistant: b"}, "missing-column"),
        ("trl-preference", {"chosen": "x", "rejected": "y"}, "unusable"),
        ("label-studio", {"data": {"prompt": "p", "response_0": "a"}}, "missing-column"),
        ("argilla", {"fields": {"prompt": "p"}}, "missing-column"),
        ("beavertails", {"prompt": "p", "response": "r", "category": {"x": True}, "is_safe": True}, "unknown-category"),
        ("beavertails-v", {"question": "q", "image": 7, "response": "r", "is_response_safe": "yes"}, "field-type"),
        ("beavertails-v", {"question": "q", "image": "i", "response": "r", "is_response_safe": "maybe"}, "field-type"),
        ("hh-rlhf", {"chosen": "no transcript", "rejected": "neither"}, "unusable"),
        ("hh-rlhf", {"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: c\n\nAssistant: b"}, "unusable"),
        ("hh-rlhf", dict.fromkeys(("chosen", "rejected"), "\n\nHuman: a\n\nAssistant: b"), "same-responses"),
        ("hh-rlhf", {"chosen": "\n\nHuman: a\n\nAssistant: ", "rejected": "\n\nHuman: a\n\nAssistant: b"},
         "empty-text"),
        ("trl-unpaired", {"prompt": "p", "completion": "c", "label": 1}, "field-type"),
        ("trl-preference", {"chosen": [{"role": "robot", "content": "x"}], "rejected": []}, "field-type"),
        ("openai-chat", {"messages": [{"role": "system", "content": "x"}]}, "unusable"),
        ("label-studio", {"data": {}}, "missing-column"),
        ("argilla", {"fields": {"prompt": "p", "response": "r"},
                     "responses": {"categories": [{"value": ["Nonsense"]}]}}, "unknown-category"),
    ],
)  # fmt: skip
def test_bad_rows_name_the_rule(name: str, row: dict[str, Any], rule: str) -> None:
    with pytest.raises(BadRowError) as caught:
        decode(name, row)
    assert caught.value.rule == rule


def test_ids_as_texts_are_refused_by_type() -> None:
    row = {"prompt": "p", "response_0": "a", "response_1": "b", "better_response_id": "1"}
    with pytest.raises(ValidationError):
        decode("pku-single-dimension", row)


def test_an_embedded_image_becomes_a_reference() -> None:
    row = {"question": "q", "response": "r", "is_response_safe": "yes"}
    (named,) = decode("beavertails-v", row | {"image": {"bytes": b"x", "path": "a.png"}})
    (hashed,) = decode("beavertails-v", row | {"image": {"bytes": b"x", "path": None}})
    assert named.image == "a.png" and hashed.image == "sha256:" + hashlib.sha256(b"x").hexdigest()


def test_older_column_generations() -> None:
    (qa,) = decode("pku-qa", {"prompt": "p", "response": "r", "severity_category": 2, "safety_category": [5]})
    assert isinstance(qa, QARecord)
    assert qa.label == PartialLabel(safe=False, categories=("Violence",), severity=2)
    row = {"prompt": "p", "response_0": "a", "response_1": "b", "is_response_0_safe": True, "is_response_1_safe": False}
    (pair,) = decode("pku-safe-rlhf", row | {"better_response_id": 1, "safer_response_id": 0})
    assert isinstance(pair, DualRecord)
    assert pair.labels == (PartialLabel(safe=True), PartialLabel(safe=False)) and (pair.better, pair.safer) == (1, 0)
    listed = row | {"response_0_harm_category": [], "response_1_harm_category": ["Violence"]}
    (pair,) = decode("pku-safe-rlhf", listed | {"better_response_id": 1, "safer_response_id": 0})
    assert isinstance(pair, DualRecord) and pair.labels[1].categories == ("Violence",)


def test_an_undecided_flag_stays_undecided() -> None:
    flags: dict[str, bool | None] = dict.fromkeys((category.value for category in CATEGORIES), False)
    flags |= {"Violence": True, "Drugs": None}
    row = {"prompt": "p", "response": "r", "is_safe": False, "harm_category": flags}
    (record,) = decode("pku-qa", row)
    assert isinstance(record, QARecord)
    assert (record.label.categories, record.label.undecided) == (("Violence",), ("Drugs",))
    (again,) = encode("pku-qa", [record])
    assert again["harm_category"] == flags


def test_an_id_may_be_a_number() -> None:
    for name, row in (
        ("trl-preference", {"prompt": "p", "chosen": "a", "rejected": "b"}),
        ("aligner", {"question": "q", "answer": "a", "correction": "c"}),
        ("pku-prompt", {"prompt": "p", "prompt_source": "s"}),
    ):
        assert decode(name, row | {"id": 7})[0].source_id == "7"


def test_texts_without_a_prompt_are_cut_where_they_part() -> None:
    for chosen, rejected, prompt in (
        ("The sky is blue.", "The sky is green.", "The sky is"),
        ("The sky is grey.", "The sky is green.", "The sky is"),  # not within a word
        ("a b", "a b c", "a"),
    ):
        (record,) = decode("trl-preference", {"chosen": chosen, "rejected": rejected})
        assert isinstance(record, SingleRecord) and record.better is not None
        assert record.prompt == prompt and prompt + record.responses[record.better] == chosen
        assert prompt + record.responses[1 - record.better] == rejected


def test_chosen_does_not_tell_its_position() -> None:
    """Of forty pairs the chosen one is response 0 in some and 1 in others, and always where its hash puts it."""
    sides = set()
    for n in range(40):
        (record,) = decode("trl-preference", {"prompt": f"p{n}", "chosen": "good", "rejected": "bad"})
        assert isinstance(record, SingleRecord) and record.better is not None
        assert record.responses[record.better] == "good"
        assert record.better == (0 if response_hash(f"p{n}", "good") < response_hash(f"p{n}", "bad") else 1)
        sides.add(record.better)
    assert sides == {0, 1}


def test_detection_needs_columns_that_only_one_format_has() -> None:
    found: dict[str, Format | None] = {name: detect(row) for name, row in ROWS}
    found["pku-qa"] = detect(dict.fromkeys(SCHEMAS["qa"].names))
    found["saferlhf_qa4k"] = detect(dict.fromkeys(["id", "prompt", "response", "is_safe"]))
    assert {name: form.name if form else None for name, form in found.items()} == {
        "pku-qa": "pku-qa",
        "saferlhf_qa4k": None,
        "beavertails": "beavertails",
        "beavertails-v": "beavertails-v",
        "hh-rlhf": None,  # hh-rlhf, its harmless split and TRL have the same two columns
        "trl-unpaired": "trl-unpaired",
        "openai-chat": "openai-chat",
        "label-studio": "label-studio",
        "argilla": "argilla",
    }
    assert detect({"a": 1}) is None


def test_names_are_found_and_misspelt_ones_get_a_hint() -> None:
    assert format_of("pku_saferlhf_dual_sample") is FORMATS["pku-safe-rlhf"]
    assert format_of("xstest_prompts").name == "xstest_prompts"
    with pytest.raises(PoiseError, match="did you mean 'beavertails'"):
        format_of("beavertail")
    assert not set(mappings()) & (set(FORMATS) | set(SETS))
