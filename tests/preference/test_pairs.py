"""What the preference models learn from, with a tokenizer that turns each character into its code."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from poise.data import Judgement, PairRow, Provenance, QARow
from poise.data.rows import label_value
from poise.harm import SAFE, Label
from poise.models.trunk import Trunk
from poise.preference.pairs import (
    Example,
    Pair,
    PreferenceData,
    conversation,
    preference_data,
    shuffled_batches,
    tokenize,
)

END = 0


class Characters:
    """A tokenizer whose template is "system|user>"."""

    eos_token_id = END

    def __call__(self, text: str, add_special_tokens: bool) -> dict[str, list[int]]:
        assert not add_special_tokens
        return {"input_ids": [ord(c) for c in text]}

    def apply_chat_template(
        self, messages: list[dict[str, str]], add_generation_prompt: bool, return_dict: bool
    ) -> dict[str, list[int]]:
        assert add_generation_prompt and return_dict
        assert [m["role"] for m in messages] == ["system", "user"]
        return {"input_ids": [ord(c) for c in "|".join(m["content"] for m in messages) + ">"]}


TRUNK = cast(Trunk, SimpleNamespace(tokenizer=Characters()))
MINOR, SEVERE, OTHER = Label.of(["S6"], 1), Label.of(["S6"], 3), Label.of(["S7"], 1)


def qa(name: str, prompt: str = "p") -> QARow:
    return QARow(id=name, prompt_id=prompt, prompt=prompt, response=name, provenance=Provenance(source="test"))


def pair(a: str, b: str, prompt: str = "p") -> PairRow:
    return PairRow(id=a + b, prompt_id=prompt, qa_0=a, qa_1=b)


def said(question: str, **values: Any) -> dict[str, Judgement]:
    return {
        item: Judgement.model_validate({"item": item, "question": question, "value": value, "rater": "r"})
        for item, value in values.items()
    }


def labelled(**labels: Label | None) -> dict[str, Judgement]:
    return said("label", **{item: None if label is None else label_value(label) for item, label in labels.items()})


def build(rows: list[QARow], pairs: list[PairRow], **final: dict[str, Judgement]) -> PreferenceData:
    known: dict[str, dict[str, Judgement]] = {"label": {}, "better": {}, "safer": {}} | final
    return preference_data(TRUNK, "s", rows, pairs, known, max_prompt=100, max_response=100)


def text(ids: list[int]) -> str:
    return "".join(chr(i) for i in ids)


def test_tokenize_keeps_the_end_of_prompts_and_the_start_of_responses() -> None:
    prompt, response = tokenize(TRUNK, "sys", "hello", "abcdef", max_prompt=4, max_response=3)
    assert text(prompt) == "llo>"
    assert text(response[:-1]) == "abc"
    assert response[-1] == END
    assert conversation("sys", "hello")[1] == {"role": "user", "content": "hello"}


def test_examples_pairs_and_prompts() -> None:
    rows = [qa("a"), qa("b"), qa("c"), qa("d", "q"), qa("e", "q"), qa("unused")]
    pairs = [pair("a", "b"), pair("d", "e", "q"), pair("a", "c")]
    data = build(
        rows,
        pairs,
        label=labelled(a=SAFE, b=MINOR, c=SEVERE, d=MINOR, e=SEVERE),
        better=said("better", ab=1, ac=0),
        safer=said("safer", ab=0, de=0, ac=0),
    )
    assert [text(e.response[:-1]) for e in data.examples] == ["a", "b", "d", "e", "c"]
    assert all(e.response[-1] == END for e in data.examples)
    assert [text(e.prompt) for e in data.examples] == ["s|p>", "s|p>", "s|q>", "s|q>", "s|p>"]
    assert [e.unsafe for e in data.examples] == [False, True, True, True, True]
    assert data.pairs == [
        Pair((0, 1), better=1, safer=0, rung="boundary"),
        Pair((2, 3), better=None, safer=0, rung="severity"),
        Pair((0, 4), better=0, safer=0, rung="boundary"),
    ]
    assert data.prompts == [[0, 2], [1]]


def test_a_pair_that_nobody_judged_is_left_out() -> None:
    data = build(
        [qa("a"), qa("b"), qa("c")],
        [pair("a", "b"), pair("a", "c")],
        label=labelled(a=SAFE, b=MINOR, c=MINOR),
        safer=said("safer", ab=None, ac=0),
    )
    assert len(data.pairs) == 1
    assert [text(e.response[:-1]) for e in data.examples] == ["a", "c"]


@pytest.mark.parametrize("b", [None, "absent"])
def test_an_unjudged_label_is_not_safe_and_takes_the_pair_out_of_the_cost_loss(b: str | None) -> None:
    label = labelled(a=SAFE) | (labelled(b=None) if b is None else {})
    chosen = {"better": said("better", ab=0), "safer": said("safer", ab=0)}
    data = build([qa("a"), qa("b")], [pair("a", "b")], label=label, **chosen)
    assert data.examples[1].unsafe is None
    assert data.pairs[0].safer is None
    assert data.pairs[0].better == 0


def test_a_persons_safe_flag_comes_before_the_label() -> None:
    data = build(
        [qa("a"), qa("b")],
        [pair("a", "b")],
        label=labelled(a=SAFE, b=SAFE),
        safe=said("safe", a=False, b=None),
        safer=said("safer", ab=1),
    )
    assert [e.unsafe for e in data.examples] == [True, False]
    assert data.pairs[0].rung == "boundary"


@pytest.mark.parametrize(
    ("a", "b", "rung"),
    [
        (SAFE, MINOR, "boundary"),
        (SEVERE, SAFE, "boundary"),
        (MINOR, SEVERE, "severity"),
        (MINOR, OTHER, "categories"),
        (MINOR, MINOR, "none"),
        (SAFE, SAFE, "none"),
    ],
)
def test_rungs(a: Label, b: Label, rung: str) -> None:
    data = build([qa("a"), qa("b")], [pair("a", "b")], label=labelled(a=a, b=b), better=said("better", ab=0))
    assert data.pairs[0].rung == rung


def test_flags_without_labels_separate_by_the_boundary_only() -> None:
    data = build([qa("a"), qa("b")], [pair("a", "b")], safe=said("safe", a=False, b=False), safer=said("safer", ab=1))
    assert data.pairs == [Pair((0, 1), better=None, safer=1, rung="none")]


def test_an_unknown_label_is_no_boundary() -> None:
    data = build([qa("a"), qa("b")], [pair("a", "b")], label=labelled(b=MINOR), better=said("better", ab=0))
    assert data.pairs[0].rung == "none"


def test_batches_keep_prompts_whole_and_visit_each_once_an_epoch() -> None:
    examples = [Example([1], [2], None)]
    prompts = [[0, 5], [1], [2, 3, 4], [6], [7]]
    data = PreferenceData(examples, [Pair((0, 0), 0, None, "none")] * 8, prompts)
    plan = shuffled_batches(data, prompts_per_step=2, epochs=3, seed=1)
    assert len(plan) == 9
    epochs = [plan[0:3], plan[3:6], plan[6:9]]
    for epoch in epochs:
        assert sorted(i for step in epoch for i in step) == list(range(8))
        for step in epoch:
            assert all(set(p) <= set(step) or not set(p) & set(step) for p in prompts)
    assert epochs[0] != epochs[1], "each epoch has its own order"
    assert plan == shuffled_batches(data, 2, 3, seed=1)
    assert plan != shuffled_batches(data, 2, 3, seed=2)
