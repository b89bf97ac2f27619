"""Several answers of several models: one default, others hotter, the most diverse kept."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from poise.collect.answers import collect_answers, unusable
from poise.collect.diversity import embedding_similarity, most_diverse, n_gram_similarity
from poise.collect.plan import ResponsePlan
from poise.data import Sampling
from poise.data.records import PromptRecord, Turn
from poise.llm import Completion, Messages

PROMPTS = [
    PromptRecord(prompt=f"Question {n}?", source="w", split="train" if n else "test", category="S5", severity=1)
    for n in range(5)
]


class Model:
    def __init__(self, name: str, say: Callable[[Messages, Sampling], Completion]) -> None:
        self.name, self.say = name, say
        self.asked: list[tuple[Messages, Sampling]] = []

    def chat(
        self, conversations: Sequence[Messages], sampling: Sequence[Sampling], on_rows: Callable[[int], Any]
    ) -> list[Completion]:
        self.asked += zip(conversations, sampling, strict=True)
        on_rows(len(conversations))
        return [self.say(talk, how) for talk, how in zip(conversations, sampling, strict=True)]

    def complete(self, *_: Any) -> list[Completion]:
        raise AssertionError("answers are chats")


def sentence(talk: Messages, how: Sampling) -> Completion:
    words = [f"word{how.seed // 7**i % 50}" for i in range(8)]
    return Completion(f"{how.temperature}: " + " ".join(words), how.seed % 5 > 0)


def plan_of(**changes: Any) -> ResponsePlan:
    told: dict[str, Any] = {
        "responders": {
            "a": {"model": "m", "hotter": 4, "personas": [{"name": "x"}, {"name": "y", "system": "Be brief."}]},
            "b": {"model": "n", "hotter": 2},
        },
        "keep": 2,
        "pairs": 2,
    }
    return ResponsePlan.model_validate_json(json.dumps(told | changes))


def test_one_default_and_hotter_answers_of_each_responder() -> None:
    one, two = Model("model-1", sentence), Model("model-2", sentence)
    parts = list(collect_answers(PROMPTS, plan_of(prompts_at_a_time=2), {"m": one, "n": two}))
    assert [len(part.rows) for part in parts] == [8, 8, 4]  # two of each responder for each prompt
    assert len(one.asked) == 25 and len(two.asked) == 15
    assert [how.temperature for _, how in one.asked[:5]] == [0.7, 1.2, 1.2, 1.2, 1.2]
    assert [talk[0]["role"] for talk, _ in one.asked[:5]] == ["user", "user", "system", "user", "system"]
    assert len({how.seed for _, how in [*one.asked, *two.asked]}) == 40
    row = parts[0].rows[0]
    assert (row.response_source, row.prompt_source, row.split) == ("a", "w", "test")
    assert row.provenance is not None and row.provenance["number"] == 0 and row.provenance["model"] == "model-1"
    assert {r.provenance["finished"] for part in parts for r in part.rows if r.provenance} == {True, False}
    assert all(len(part.pairs) == 2 * (len(part.rows) // 4) for part in parts)
    pair = parts[0].pairs[0]
    assert pair.responses[0] != pair.responses[1] and pair.safer is None and pair.better is None
    again = list(collect_answers(PROMPTS, plan_of(prompts_at_a_time=5), {"m": one, "n": two}))
    assert [r for part in again for r in part.rows] == [r for part in parts for r in part.rows]


def test_what_is_dropped_is_counted() -> None:
    def say(talk: Messages, how: Sampling) -> Completion:
        if how.temperature == 0.7:
            return Completion("I cannot.", True)  # a refusal is an answer, and short ones too
        return (
            Completion("", False, "too-long"),
            Completion("no " * 40, False),
            Completion("I cannot.", True),
            Completion("Das kann ich dir leider nicht sagen, frag doch bitte deinen Nachbarn danach.", True),
        )[how.seed % 4]

    model = Model("m", say)
    many = [PromptRecord(prompt=f"Question {n}?") for n in range(20)]
    (part,) = collect_answers(many, plan_of(languages=["en"]), {"m": model, "n": model})
    assert {row.response for row in part.rows} == {"I cannot."} and len(part.rows) == 40
    assert {reason.split(": ")[1] for reason in part.dropped} == {
        "no answer (too-long)",
        "garbled (repeats)",
        "same text",
        "another language",
    }
    assert part.dropped.total() == 20 * 6


def test_a_conversation_comes_before_the_question() -> None:
    model = Model("m", sentence)
    talk = PromptRecord(
        prompt="And now?", turns=(Turn(role="user", content="Hello."), Turn(role="assistant", content="Hi."))
    )
    list(collect_answers([talk], plan_of(), {"m": model, "n": model}))
    assert [m["content"] for m in model.asked[0][0]] == ["Hello.", "Hi.", "And now?"]
    assert [m["content"] for m in model.asked[2][0]] == ["Be brief.", "Hello.", "Hi.", "And now?"]


def test_the_most_diverse_are_chosen_farthest_first() -> None:
    """Points on a line at 0, 1, 2, 10, similarity = -distance: after 0 comes 10, then 2 (2 from 0), then 1."""
    at = np.array([0.0, 1.0, 2.0, 10.0])
    similarity = -np.abs(at[:, None] - at[None])
    assert most_diverse(similarity, 4) == [0, 3, 2, 1]
    assert most_diverse(similarity, 2) == [0, 3]
    assert most_diverse(similarity, 4, most_alike=-1.5) == [0, 3, 2]  # 1 lies too near to 0 and 2
    assert most_diverse(np.zeros((0, 0)), 3) == []


def test_similarities() -> None:
    texts = ["The river runs to the sea.", "the river  runs to the sea.", "Nothing of the kind at all!"]
    n_gram = n_gram_similarity(texts)
    assert n_gram[0, 1] == 1.0 and n_gram[0, 2] < 0.2 and np.array_equal(n_gram, n_gram.T)
    cosine = embedding_similarity(lambda told: np.array([[2.0, 0.0], [1.0, 1.0], [0.0, -3.0]]))(texts)
    assert cosine == pytest.approx(np.array([[1, 0.5**0.5, 0], [0.5**0.5, 1, -(0.5**0.5)], [0, -(0.5**0.5), 1]]))


@pytest.mark.parametrize(
    ("text", "reason"),
    [("", "no answer"), ("No.", None), ("I can't help with that.", None), ("ha " * 50, "garbled (repeats)")],
)
def test_which_answers_are_usable(text: str, reason: str | None) -> None:
    assert unusable(text, ()) == reason
