"""Servers in the place of the local model: the same seam, over the runner."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from poise.data.rows import Sampling
from poise.errors import PoiseError
from poise.llm.endpoint import Completion, Endpoint
from poise.llm.exchange import ChatRequest, EndpointError, Reply, Shape
from poise.llm.http_client import HttpClient
from poise.llm.limits import Limits
from poise.llm.remote import RemoteEndpoint
from poise.llm.store import ReplyStore


@pytest.fixture
def serve(tmp_path: Path) -> Callable[..., Any]:
    """A context with the URL of a fake server in a process of its own; its log is `log.jsonl`."""

    @contextmanager
    def started(**faults: Any) -> Iterator[str]:
        schedule = tmp_path / "faults.json"
        schedule.write_text(json.dumps(faults))
        command = [sys.executable, "-m", "poise.llm.fake", "--faults", str(schedule), "--log", "log.jsonl"]
        with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            try:
                yield child.stdout.readline().strip()
            finally:
                child.kill()

    return started


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses between attempts are not what is tested here."""
    monkeypatch.setattr("poise.llm.runner.random.uniform", lambda *_: 0.0)
    monkeypatch.setattr("poise.llm.limits.BREAK_AFTER", 10**9)


class Echo:
    """Says what it was asked, and how; faults and ends as the text tells it."""

    alias = "echo"

    def __init__(self) -> None:
        self.asked: list[ChatRequest] = []

    async def send(self, request: ChatRequest, shape: Shape = "text") -> Reply:
        self.asked.append(request)
        text = request.messages[-1][1]
        if text in ("too-long", "filtered", "server", "key", "model"):
            raise EndpointError(text, "as asked")  # type: ignore[arg-type]
        if text == "refuse":
            return Reply("", "stop", refusal="No.")
        return Reply(f"{text}!", {"cut": "length", "hide": "content_filter"}.get(text, "stop"))

    async def close(self) -> None:
        pass


def talks(*texts: str) -> list[list[dict[str, str]]]:
    return [[{"role": "user", "content": text}] for text in texts]


def test_replies_come_in_order_and_progress_adds_up() -> None:
    client, heard = Echo(), []
    endpoint: Endpoint = RemoteEndpoint([client], "m", name="shown", limits=Limits(max_concurrency=3))
    texts = [str(n % 20) for n in range(30)]
    found = endpoint.chat(talks(*texts), [Sampling(seed=1)] * 30, heard.append)
    assert found == [Completion(f"{text}!", True) for text in texts]
    assert sum(heard) == 30 and len(client.asked) == 20 and endpoint.name == "shown"


def test_the_sampling_is_sent_as_it_is() -> None:
    client = Echo()
    how = Sampling(temperature=0.3, top_p=0.8, max_new_tokens=9, seed=5)
    RemoteEndpoint([client], "m").chat([[{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]], [how])
    RemoteEndpoint([client], "m").complete(["Once"], [how])
    same = {"temperature": 0.3, "top_p": 0.8, "max_tokens": 9, "seed": 5}
    assert client.asked == [
        ChatRequest("m", (("system", "s"), ("user", "u")), **same),  # type: ignore[arg-type]
        ChatRequest("m", (("prompt", "Once"),), complete=True, **same),  # type: ignore[arg-type]
    ]


def test_how_answers_end() -> None:
    endpoint = RemoteEndpoint([Echo()], "m")
    found = endpoint.chat(talks("hello", "cut", "refuse", "hide", "filtered", "too-long", "server"), [Sampling()] * 7)
    assert found[:4] == [
        Completion("hello!", True),
        Completion("cut!", False),
        Completion("No.", True),
        Completion("hide!", False),
    ]
    assert all(reply.text == "" and not reply.finished and reply.reason for reply in found[4:])
    assert endpoint.unanswered.total() == 3 and any("too-long" in reason for reason in endpoint.unanswered)
    assert RemoteEndpoint([Echo()], "m").chat([], []) == []


@pytest.mark.parametrize("kind", ["key", "model"])
def test_a_refused_key_or_model_is_one_clear_line(kind: str) -> None:
    with pytest.raises(PoiseError, match=f"echo: {kind}"):
        RemoteEndpoint([Echo()], "m").complete(["hello", kind], [Sampling()] * 2)


def test_not_one_answer_is_an_error_not_an_empty_list_of_texts() -> None:
    with pytest.raises(PoiseError, match=r"none of 2 requests got an answer; most often: too-long") as caught:
        RemoteEndpoint([Echo()], "m").complete(["too-long"] * 2, [Sampling(seed=n) for n in range(2)])
    assert caught.value.exit_code == 4


def test_the_reason_of_no_answer_is_that_of_these_requests(tmp_path: Path) -> None:
    """Not what failed more often for another model of the same store."""

    class Full(Echo):
        async def send(self, request: ChatRequest, shape: Shape = "text") -> Reply:
            raise EndpointError("too-long", "all full")

    with ReplyStore(tmp_path / "replies.sqlite") as store:
        with pytest.raises(PoiseError, match="none of 3 requests got an answer; most often: too-long: as asked"):
            samples = [Sampling(seed=n) for n in range(3)]
            RemoteEndpoint([Echo()], "first", store=store).complete(["too-long"] * 3, samples)
        with pytest.raises(PoiseError, match="none of 1 requests got an answer; most often: too-long: all full"):
            RemoteEndpoint([Full()], "second", store=store).complete(["hello"], [Sampling()])


def test_as_many_samplings_as_texts_are_needed() -> None:
    with pytest.raises(ValueError, match="shorter"):
        RemoteEndpoint([Echo()], "m").complete(["a", "b"], [Sampling()])


def test_a_store_keeps_answers_and_what_failed_is_tried_again(tmp_path: Path) -> None:
    store, client, heard = tmp_path / "replies.sqlite", Echo(), []
    RemoteEndpoint([client], "m", store=store).chat(talks("a", "b", "too-long"), [Sampling()] * 3)
    found = RemoteEndpoint([client], "m", store=store).chat(talks("a", "too-long", "c"), [Sampling()] * 3, heard.append)
    assert [reply.text for reply in found] == ["a!", "", "c!"] and sum(heard) == 3
    assert Counter(r.messages[0][1] for r in client.asked) == {"a": 1, "b": 1, "c": 1, "too-long": 2}


def test_a_real_server_with_faults_answers_everything_once(serve: Callable[..., Any], tmp_path: Path) -> None:
    share = dict.fromkeys(("500", "drop", "half-stream", "half-body", "html", "empty"), 0.05)
    samplings = [Sampling(seed=n, max_new_tokens=64) for n in range(150)]
    questions = talks(*(f"question {n}" for n in range(150)))
    with serve(share=share) as url:
        lanes = [HttpClient(f"lane {n}", url, stream=n == 1) for n in range(2)]
        endpoint = RemoteEndpoint(lanes, "m")
        found = endpoint.chat(questions, samplings)
        again = endpoint.complete(["Once upon"] * 3, samplings[:3])
        assert len({reply.text for reply in found}) == 150 and all(reply.finished for reply in found)
        assert len({reply.text for reply in again}) == 3 and not endpoint.unanswered
    with serve() as url:  # the same seed, no faults: the same answers
        assert RemoteEndpoint([HttpClient("lane", url)], "m").chat(questions, samplings) == found
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()][:-150]
    answered = Counter(line["request"] for line in lines if line["answer"] == "ok")
    assert set(answered.values()) == {1} and len(answered) == 153 and len(lines) > 153
