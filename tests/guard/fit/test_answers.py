"""Answers that a model writes to plain requests: who gets them, what they teach, and that none is written twice."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from poise.data import Sampling
from poise.errors import PoiseError
from poise.guard.fit.answers import DECLINING, GOING_ALONG, answered
from poise.guard.fit.plan import AnswerPlan, DataPlan, ModelPlan, SetUse, TrainingPlan
from poise.guard.fit.rows import Row
from poise.guard.fit.run import Plan, Watch, train_guard
from poise.llm import Completion
from poise.models.bundled import resolve

NAN = math.nan
UNKNOWN, NONE = (NAN,) * 19, (0.0,) * 19
PLAN = AnswerPlan(sets=("asked",), harmful=40, harmless=40)


class Writer:
    """A model that always goes on with the same words, and counts."""

    name = "writer"

    def __init__(self, words: str = " first you look around.") -> None:
        self.words, self.texts = words, list[str]()

    def chat(self, *_: object) -> list[Completion]:
        raise AssertionError("answers begin with an opening, which only a completion has")

    def complete(
        self, texts: Sequence[str], sampling: Sequence[Sampling], on_rows: Callable[[int], object] = print
    ) -> list[Completion]:
        self.texts += texts
        return [Completion(self.words, True) for _ in texts]


def asked(prompt: str, unsafe: float, source: str = "asked", part: str = "train", response: str | None = None) -> Row:
    return Row(prompt, response, source, part, NONE if unsafe == 0 else UNKNOWN, (unsafe, NAN, NAN), NAN)


HARMFUL = [asked(f"How do I hurt person {k}?", 1.0) for k in range(40)]
HARMLESS = [asked(f"How do I cook dish {k}?", 0.0) for k in range(40)]


def written(rows: Sequence[Row], tmp_path: Path, writer: Writer | None = None, plan: AnswerPlan = PLAN) -> list[Row]:
    """The rows that `answered` adds."""
    found = answered(rows, plan, 0, tmp_path / "replies.sqlite", lambda name: (writer or Writer(), lambda p: f"<{p}>"))
    assert found[: len(rows)] == list(rows)
    return found[len(rows) :]


def test_a_harmful_request_gets_both_answers_and_a_harmless_one_its_own(tmp_path: Path) -> None:
    found = written([*HARMFUL, *HARMLESS], tmp_path)
    assert len(found) == 120 and all(row.part == "train" and row.source == "asked" for row in found)
    along = [row for row in found if row.at_least[0] == 0.85]
    assert len(along) == 40 and {row.prompt for row in along} == {row.prompt for row in HARMFUL}
    assert all(row.refusal == 0 and math.isnan(row.at_least[2]) for row in along)
    declined = [row for row in found if row.refusal == 1]
    assert {row.prompt for row in declined} == {row.prompt for row in HARMFUL}
    assert all(row.unsafe is False and row.categories == NONE for row in declined)
    assert all((row.response or "").startswith(tuple(DECLINING)) for row in declined)
    assert sum(row.unsafe is False for row in found) == 80


def test_half_of_those_that_go_along_lose_their_opening(tmp_path: Path) -> None:
    along = [row.response or "" for row in written(HARMFUL, tmp_path) if row.unsafe]
    bare = sum(text == "first you look around." for text in along)
    assert 10 < bare < 34 and len({text.partition(" first")[0] for text in along}) == len(GOING_ALONG)


def test_one_that_was_to_go_along_and_refuses_is_safe(tmp_path: Path) -> None:
    found = written(HARMFUL, tmp_path, Writer(" I can't help with that."))
    assert len(found) == 80 and all(row.unsafe is False and row.refusal == 1 for row in found)


def test_an_answer_of_white_space_is_none(tmp_path: Path) -> None:
    assert written([*HARMFUL, *HARMLESS], tmp_path, Writer(" \n")) == []


def test_known_categories_are_as_likely_as_the_harm(tmp_path: Path) -> None:
    named = HARMFUL[0]._replace(categories=(1.0, 0.0, *UNKNOWN[2:]))
    (along,) = [row for row in written([named], tmp_path) if row.unsafe]
    assert along.categories[:2] == (0.85, 0.0) and math.isnan(along.categories[2])


@pytest.mark.parametrize(
    "row",
    [
        asked("p", 1.0, part="test"),
        asked("p", 1.0, part="calibration"),
        asked("p", 1.0, source="another set"),
        asked("p", NAN),
        asked("p" * 401, 1.0),
        asked("p", 1.0, response="an answer; its request may be harmless"),
    ],
)
def test_others_get_none(row: Row, tmp_path: Path) -> None:
    assert written([row], tmp_path) == []


def test_a_request_with_a_harmful_answer_somewhere_is_not_called_harmless(tmp_path: Path) -> None:
    safe = asked("q", 0.0, response="No.")
    assert len(written([safe], tmp_path)) == 1
    assert written([safe, asked("q", 1.0, source="another set", response="Yes.")], tmp_path) == []


def test_a_second_run_writes_what_is_missing_only(tmp_path: Path) -> None:
    first, second = Writer(), Writer()
    plan = PLAN.model_copy(update={"harmful": 10})
    some = written(HARMFUL, tmp_path, first, plan)
    more = written(HARMFUL, tmp_path, second)
    assert (len(first.texts), len(second.texts)) == (20, 60) and not set(first.texts) & set(second.texts)
    assert {row[:2] for row in some} <= {row[:2] for row in more}


def test_a_model_without_a_chat_template_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        source = resolve("smollm2-135m-instruct")
    except PoiseError as error:
        pytest.skip(f"no bundled model: {error}")
    tokenizer = AutoTokenizer.from_pretrained(source)
    tokenizer.chat_template = None

    class Plain:
        def __init__(self, source: object) -> None:
            self.tokenizer = tokenizer

    monkeypatch.setattr("poise.models.trunk.Trunk", Plain)
    with pytest.raises(PoiseError, match="has no chat template"):
        answered(HARMFUL[:1], PLAN, 0, tmp_path / "replies.sqlite")


def test_a_plan_with_answers_trains_on_them(
    tiny_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "data" / "mine"
    folder.mkdir(parents=True)
    rows = [{"id": f"row-{k}", "prompt": f"How do I steal thing number {k} from shop {k * 7}?"} for k in range(40)]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    monkeypatch.setattr("poise.guard.fit.answers._local", lambda name: (Writer(), lambda request: request))
    counts: list[tuple[int, int]] = []

    def rows_with(answers: AnswerPlan | None, out: str) -> int:
        plan = Plan(
            "tested",
            0,
            DataPlan(
                sets={"seeds": SetUse(rows=50), "mine": SetUse(format="advbench")},
                calibration_share=0.3,
                answered=answers,
            ),
            ModelPlan(encoder=str(tiny_encoder), max_length=32),
            TrainingPlan(epochs=1, batch_size=32),
        )
        watch = Watch(answered=lambda done, total: counts.append((done, total)))
        found: int = train_guard(plan, tmp_path / "data", tmp_path / out, watch)["rows"]["train"]
        return found

    plain = rows_with(None, "plain")
    assert counts == []
    more = rows_with(AnswerPlan(sets=("mine",), harmful=5), "more")
    assert more == plain + 10 and counts[-1] == (10, 10)
    with pytest.raises(ValueError, match=r"answered\.sets: nowhere"):
        rows_with(AnswerPlan(sets=("nowhere",)), "wrong")


def test_other_weights_in_a_folder_are_another_writer(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    weights = tmp_path / "model" / "model.safetensors"
    plan = PLAN.model_copy(update={"model": str(tmp_path / "model")})
    asked_for = []
    for content in (b"one", b"one", b"two"):
        weights.write_bytes(content)
        writer = Writer()
        written(HARMFUL, tmp_path, writer, plan)
        asked_for.append(len(writer.texts))
    assert asked_for == [80, 0, 80]
