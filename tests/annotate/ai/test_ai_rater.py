"""Models as raters, with a scripted judge in place of a server."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from poise.annotate.ai import EndpointRater, LabelTask, RankTask, judge_tables, label_rubric, pair_rubric
from poise.data.records import DualRecord, JudgementRecord, PartialLabel, QARecord, SingleRecord, Turn
from poise.data.tables import Tables, TableWriter, open_tables
from poise.errors import PoiseError
from poise.harm import policy_version
from poise.llm.budget import Budget
from poise.llm.exchange import ChatRequest, EndpointError, Reply, Shape
from poise.llm.limits import Lane, Limits
from poise.llm.store import ReplyStore

SAFE = {"analysis": "Fine.", "severity": 0, "categories": []}


class Judge:
    """Answers as a function of what it is asked; faults and ends where the function gives them."""

    alias = "judge"

    def __init__(self, answer: Callable[[ChatRequest], Any], *, logprobs: bool = True) -> None:
        self.answer, self.logprobs = answer, logprobs
        self.asked: list[ChatRequest] = []

    async def send(self, request: ChatRequest, shape: Shape = "text") -> Reply:
        self.asked.append(request)
        if request.logprobs and not self.logprobs:
            raise EndpointError("unsupported", "no logprobs")
        told = self.answer(request)
        if isinstance(told, EndpointError):
            raise told
        if isinstance(told, Reply):
            return told
        text = told if isinstance(told, str) else json.dumps(told)
        tokens = None
        if request.logprobs:  # each sign a token; at a verdict 0.75 for it and 0.25 for another
            pairs = {"0": "1", "1": "0", "2": "1", "3": "2", "A": "B", "B": "A"}
            tokens = tuple((s, math.log(0.75), {s: math.log(0.75), pairs.get(s, "~"): math.log(0.25)}) for s in text)
        return Reply(text, "stop", logprobs=tokens)

    async def close(self) -> None:
        pass


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ReplyStore]:
    with ReplyStore(tmp_path / "replies.sqlite") as opened:
        yield opened


def rater(store: ReplyStore, judge: Judge, name: str = "m", **settings: Any) -> EndpointRater:
    return EndpointRater(name, [Lane(judge, Limits(max_concurrency=2))], store, **settings)


def labelled(judging: EndpointRater, records: list[QARecord]) -> list[JudgementRecord]:
    judging.ask(judging.label_requests(records))
    return list(judging.labels(records))


def qa(response: str, **more: Any) -> QARecord:
    return QARecord(prompt="How?", response=response, **more)


def test_a_label_with_all_that_is_known_of_it(store: ReplyStore) -> None:
    judge = Judge(lambda _: {"analysis": "Helps an attack.", "severity": 2, "categories": ["S14", "S6", "S6"]})
    record = qa("So.", split="test", turns=(Turn(role="user", content="Earlier."),))
    (found,) = labelled(rater(store, judge), [record])
    assert found == JudgementRecord(
        item=record.item,
        question="label",
        value={"categories": ["S6", "S14"], "severity": 2, "safe": False},
        rater="m",
        rater_kind="model",
        rater_version=label_rubric().version,
        probability=1.0,  # 0.75 for 2 and 0.25 for 1
        policy=policy_version(),
        responses=(record.item,),
        split="test",
        provenance={"analysis": "Helps an attack.", "severity_probabilities": (0.0, 0.25, 0.75, 0.0)},
    )
    (asked,) = judge.asked
    assert asked.template == label_rubric().version and asked.temperature == 0 and "Earlier." in asked.messages[1][1]


REFUSAL = Reply("", "stop", refusal="No.")


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        (REFUSAL, "refused"),
        (Reply('{"analysis": "', "length"), "truncated"),
        (Reply("", "content_filter"), "filtered"),
        (EndpointError("filtered", "by the provider"), "filtered"),
        (EndpointError("too-long", "of the context"), "dead: too-long"),
        ("I can't judge that.", "invalid"),
        ({"analysis": "", "severity": 4, "categories": []}, "invalid"),
        ({"analysis": "", "severity": 0, "categories": ["Weather"]}, "invalid"),
        ({"analysis": "", "severity": 0, "categories": ["S1"]}, "contradiction"),
        ({"analysis": "", "severity": 3, "categories": []}, "contradiction"),
    ],
)
def test_no_answer_is_unjudged_with_its_reason_and_never_safe(store: ReplyStore, told: Any, reason: str) -> None:
    judging = rater(store, Judge(lambda asked: told if "odd" in asked.messages[1][1] else SAFE))
    odd, fine = labelled(judging, [qa("odd"), qa("fine")])
    assert odd.value is None and (odd.provenance or {})["reason"] == reason
    assert fine.value == {"categories": [], "severity": 0, "safe": True} and fine.probability == pytest.approx(0.25)
    assert judging.report()["unjudged"] == {f"label: {reason}": 1}


def test_an_image_is_not_asked_about(store: ReplyStore) -> None:
    judge = Judge(lambda _: SAFE)
    (found,) = labelled(rater(store, judge), [qa("Yes.", image="cat.png")])
    assert found.value is None and found.provenance == {"reason": "image"} and not judge.asked


def test_what_was_not_asked_is_unjudged(store: ReplyStore) -> None:
    (found,) = rater(store, Judge(lambda _: SAFE)).labels([qa("Yes.")])
    assert found.value is None and found.provenance == {"reason": "dead: not asked"}


def test_a_server_without_logprobs_is_asked_without_them_from_then_on(store: ReplyStore) -> None:
    judge = Judge(lambda _: SAFE, logprobs=False)
    judging = EndpointRater("m", [Lane(judge, Limits(max_concurrency=1))], store)
    found = labelled(judging, [qa(text) for text in "abc"])
    assert all(j.value is not None and j.probability is None for j in found)
    assert [bool(request.logprobs) for request in judge.asked] == [True, False, False, False]
    assert judging.report()["with_probability"] == {"label": 0}


def test_a_server_that_can_do_nothing_is_one_clear_line(store: ReplyStore) -> None:
    judging = rater(store, Judge(lambda _: EndpointError("unsupported", "no chat")))
    with pytest.raises(PoiseError, match=r"none of 2 requests got an answer; most often: unsupported: no chat"):
        judging.ask(judging.label_requests([qa("a"), qa("b")]))


def chooses(text: str) -> Callable[[ChatRequest], Any]:
    """A judge that finds this response, wherever it is shown."""

    def answer(request: ChatRequest) -> Any:
        shown = request.messages[1][1]
        return {"analysis": "Seen.", "choice": "A" if shown.index(f"\n{text}\n") < shown.index("response B") else "B"}

    return answer


def dual(first: str = "yes", second: str = "no", **more: Any) -> DualRecord:
    return DualRecord(prompt="How?", responses=(first, second), **more)


def test_pairs_are_asked_in_both_orders(store: ReplyStore) -> None:
    judge = Judge(chooses("no"))
    judging, record = rater(store, judge), dual()
    judging.ask(judging.rank_requests([record], ("better",)))
    (found,) = judging.rankings([record], ("better",))
    texts = [request.messages[1][1] for request in judge.asked]
    assert sorted(text.index("\nyes\n") < text.index("\nno\n") for text in texts) == [False, True]
    assert found.value == 1 and found.question == "better" and found.responses == record.items
    assert found.item == ":".join(record.items) and found.rater_version == pair_rubric("better").version
    assert found.probability == pytest.approx(0.75)  # 0.75 where it is A, and 0.75 where it is B
    assert judging.report()["axes"]["better"]["first_rate"] == 0.5


@pytest.mark.parametrize("flips", ["tie", "person"])
def test_a_judge_that_likes_the_first_place_decides_nothing(store: ReplyStore, flips: Any) -> None:
    judging, records, heard = rater(store, Judge(lambda _: {"analysis": "", "choice": "A"})), [dual()], []
    judging.ask(judging.rank_requests(records, ("single",)))
    found = list(
        judging.rankings(records, ("single",), flips, on_flip=lambda record, axis: heard.append((record, axis)))
    )
    assert [j.value for j in found] == [None] and heard == [(records[0], "single")]
    assert found[0].probability is None and (found[0].provenance or {})["probability_0"] == pytest.approx(0.5)
    axis = judging.report()["axes"]["single"]
    assert axis["flip_rate"] == 1.0 and axis["first_rate"] == 1.0


def test_what_the_order_decides_and_what_is_the_same_is_not_asked(store: ReplyStore) -> None:
    judge = Judge(chooses("yes"))
    labels = PartialLabel(safe=False), PartialLabel(safe=True)
    records = [dual(labels=labels), dual("same", "same"), dual(image="cat.png", labels=labels)]
    judging = rater(store, judge)
    judging.ask(judging.rank_requests(records, ("better", "safer")))
    found = {(n // 2, j.question): j for n, j in enumerate(judging.rankings(records, ("better", "safer")))}
    assert len(judge.asked) == 2 and all(r.template == pair_rubric("better").version for r in judge.asked)
    for row in (0, 2):
        safer = found[row, "safer"]
        assert (safer.value, safer.rater, safer.rater_kind) == (1, "logical-order", "rule")
    assert found[0, "better"].value == 0
    assert found[1, "better"].value is None and found[1, "safer"].value is None
    assert found[2, "better"].provenance == {"reason": "image"}


def test_a_spent_budget_stops_and_the_next_run_sends_the_rest(store: ReplyStore) -> None:
    judge, records = Judge(lambda _: SAFE), [qa(str(n)) for n in range(5)]
    judging = rater(store, judge, budget=Budget(requests=3))
    with pytest.raises(PoiseError, match="2 requests are not asked yet") as caught:
        judging.ask(judging.label_requests(records))
    assert caught.value.exit_code == 4
    assert all(j.value is not None for j in labelled(rater(store, judge), records)) and len(judge.asked) == 5


@pytest.fixture
def tables(tmp_path: Path) -> Tables:
    with TableWriter(tmp_path / "tables", {"name": "test"}) as writer:
        writer.add(qa("yes"))
        writer.add(qa("maybe"))
        writer.add(dual())
        writer.add(SingleRecord(prompt="How?", responses=("yes", "no")))
        names = ("m", "model", "old"), ("m", "model", label_rubric().version), ("p", "person", "")
        for name, kind, version in names:
            item = dual().items[0]
            writer.add(
                JudgementRecord.model_validate(
                    {"item": item, "question": "label", "rater": name, "rater_kind": kind, "rater_version": version}
                    | {"responses": (item,)}
                )
            )
    return open_tables(tmp_path / "tables")


def judgements(found: Tables) -> list[JudgementRecord]:
    return [record for record in found["judgements"].records() if isinstance(record, JudgementRecord)]


def test_every_response_of_tables_is_labelled_once_by_every_rater(
    store: ReplyStore, tables: Tables, tmp_path: Path
) -> None:
    raters = [rater(store, Judge(lambda _: SAFE), name) for name in ("m", "n")]
    found, report = judge_tables(tables, tmp_path / "out", raters, LabelTask())
    assert {unit: table.rows for unit, table in found.items()} == {
        "default": 1,
        "single-dimension": 1,
        "qa": 2,
        "judgements": 2 + 3 * 2,  # the person's and the old rubric's stay; yes, maybe and no by both
    }
    rounds = [(j.rater, j.rater_version == label_rubric().version, j.round) for j in judgements(found)]
    assert sorted(rounds) == [("m", False, 0), *[("m", True, 1)] * 3, *[("n", True, 0)] * 3, ("p", False, 0)]
    assert json.loads((tmp_path / "out" / "rater.json").read_text()) == report
    assert [told["model"] for told in report["raters"]] == ["m", "n"]
    again, _ = judge_tables(found, tmp_path / "again", raters, LabelTask())
    assert again["judgements"].rows == 8


def test_flips_are_listed_for_people_and_rules_speak_once(store: ReplyStore, tmp_path: Path) -> None:
    with TableWriter(tmp_path / "tables", {"name": "test"}) as writer:
        writer.add(dual(labels=(PartialLabel(safe=False), PartialLabel(safe=True))))
    raters = [rater(store, Judge(lambda _: {"analysis": "", "choice": "B"}), name) for name in ("m", "n")]
    task = RankTask(("better", "safer"), "person")
    found, _ = judge_tables(open_tables(tmp_path / "tables"), tmp_path / "out", raters, task)
    told = [(j.question, j.rater, j.value) for j in judgements(found)]
    assert told == [("better", "m", None), ("safer", "logical-order", 1), ("better", "n", None)]
    listed = [json.loads(line) for line in (tmp_path / "out" / "people.jsonl").read_text().splitlines()]
    assert [(row["rater"], row["question"], row["response_1"]) for row in listed] == [
        ("m", "better", "no"),
        ("n", "better", "no"),
    ]
    again, _ = judge_tables(found, tmp_path / "again", raters, RankTask(("better", "safer")))
    assert again["judgements"].rows == 3 and not (tmp_path / "again" / "people.jsonl").exists()


def test_pairs_that_are_partly_judged_are_ranked(store: ReplyStore, tables: Tables, tmp_path: Path) -> None:
    rows = next(tables["default"].batches()).to_pylist()
    import pyarrow as pa

    from poise.data.columns import TABLES

    with TableWriter(tmp_path / "pairs", {"name": "test"}) as writer:
        batch = pa.RecordBatch.from_pylist([row | {"safer_derived": None} for row in rows], TABLES["pairs-extended"])
        writer.write("pairs-extended", batch)
    judging = rater(store, Judge(chooses("yes")))
    found, _ = judge_tables(open_tables(tmp_path / "pairs"), tmp_path / "out", [judging], RankTask(("single",)))
    assert [j.value for j in judgements(found)] == [0]


def test_wrong_use_is_one_clear_line_and_leaves_nothing(store: ReplyStore, tables: Tables, tmp_path: Path) -> None:
    one = rater(store, Judge(lambda _: SAFE))
    with pytest.raises(PoiseError, match="named twice"):
        judge_tables(tables, tmp_path / "out", [one, one], LabelTask())
    with TableWriter(tmp_path / "empty", {"name": "test"}) as writer:
        writer.add(judgements(tables)[0])
    with pytest.raises(PoiseError, match="nothing to judge"):
        judge_tables(open_tables(tmp_path / "empty"), tmp_path / "out", [one], LabelTask())
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["empty", "tables"]
