"""A recording gives the same answers again, without the server."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from poise.errors import PoiseError
from poise.llm.exchange import ChatClient, ChatRequest, EndpointError, FaultKind, Reply, Shape
from poise.llm.fake import FakeServer
from poise.llm.http_client import HttpClient
from poise.llm.keys import Key
from poise.llm.replay import Recorder, Replay

SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}


def ask(text: str, **settings: Any) -> ChatRequest:
    return ChatRequest("m", (("user", text),), **settings)


class Scripted:
    """Answers with what is in the question: `fault:KIND` is a fault, anything else comes back."""

    alias = "scripted"

    def __init__(self) -> None:
        self.closed = 0

    async def send(self, request: ChatRequest, shape: Shape = "text") -> Reply:
        text = request.messages[0][1]
        if text.startswith("fault:"):
            kind: FaultKind = text.removeprefix("fault:")  # type: ignore[assignment]
            raise EndpointError(kind, "as asked", status=418)
        return Reply(text, "stop", shape=shape)

    async def close(self) -> None:
        self.closed += 1


async def outcome(client: ChatClient, request: ChatRequest, shape: Shape = "text") -> Any:
    """The reply, or what the fault says."""
    try:
        return await client.send(request, shape)
    except EndpointError as error:
        return error.kind, error.reason, error.status


def run(work: Callable[[], Awaitable[Any]]) -> Any:
    return asyncio.run(work())  # type: ignore[arg-type]


def test_a_replay_gives_byte_for_byte_what_was_recorded(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "answers.jsonl"
    asked: list[tuple[ChatRequest, Shape]] = [
        (ask("one"), "text"),
        (ask("one", sample=1), "text"),
        (ask("two", logprobs=3), "text"),
        (ask("three", schema=SCHEMA), "json_schema"),
        (ask("three", schema=SCHEMA), "json_object"),
        (ask("[[refusal]]"), "text"),
        (ask("[[length]]"), "text"),
        (ask("[[too-long]]"), "text"),
        (ask("[[filter-error]] \ud800"), "text"),
    ]

    async def record() -> list[Any]:
        async with FakeServer(key="sk-secret") as server:
            recorder = Recorder(HttpClient("lane", server.url, key=Key("sk-secret", "test")), path)
            assert recorder.alias == "lane"
            found = [await outcome(recorder, request, shape) for request, shape in asked]
            await recorder.close()
            return found

    async def replay() -> list[Any]:
        client = Replay(path)
        return [await outcome(client, request, shape) for request, shape in reversed(asked)][::-1]

    recorded = run(record)
    assert run(replay) == recorded and len({str(found) for found in recorded}) == len(asked)
    assert recorded[2].logprobs and recorded[5].refusal and recorded[6].finish_reason == "length"
    assert recorded[7][0] == "too-long" and "sk-secret" not in path.read_text()


def test_an_unknown_request_is_named_by_its_identity(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"

    async def work() -> None:
        await Recorder(Scripted(), path).send(ask("one"))
        for request, shape in [(ask("two"), "text"), (ask("one"), "json_schema")]:
            with pytest.raises(EndpointError, match=request.identity) as caught:
                await Replay(path).send(request, shape)  # type: ignore[arg-type]
            assert caught.value.kind == "request"

    run(work)


def test_only_what_the_request_determines_is_recorded(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    kinds = ["rate-limited", "overloaded", "server", "timeout", "connection", "certificate", "key", "model"]

    async def work() -> None:
        recorder = Recorder(Scripted(), path)
        for kind in (*kinds, "too-long", "filtered", "unsupported", "request"):
            assert (await outcome(recorder, ask(f"fault:{kind}"))) == (kind, "as asked", 418)
        replay = Replay(path)
        for kind in ("too-long", "filtered", "unsupported"):
            assert (await outcome(replay, ask(f"fault:{kind}"))) == (kind, "as asked", 418)

    run(work)
    assert path.read_text().count("\n") == 4


def test_a_recording_goes_on_after_a_kill_in_the_middle_of_a_line(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"

    async def work() -> None:
        inner = Scripted()
        recorder = Recorder(inner, path)
        await recorder.send(ask("one"))
        await recorder.close()
        await recorder.send(ask("two"))  # a closed recorder opens again
        assert inner.closed == 1
        whole = path.read_bytes()
        path.write_bytes(whole + whole[: len(whole) // 3] + b"x" * 70_000)  # longer than one look back
        assert (await Replay(path).send(ask("two"))).text == "two"
        await Recorder(Scripted(), path).send(ask("three"))
        assert path.read_bytes().startswith(whole) and path.read_bytes().count(b"\n") == 3
        assert [(await Replay(path).send(ask(text))).text for text in ("one", "two", "three")] == [
            "one",
            "two",
            "three",
        ]
        path.write_bytes(whole[:10])
        await Recorder(Scripted(), path).send(ask("four"))
        assert path.read_bytes().count(b"\n") == 1

    run(work)


def test_the_last_of_several_answers_counts(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"

    class Counting(Scripted):
        async def send(self, request: ChatRequest, shape: Shape = "text") -> Reply:
            self.closed += 1
            return Reply(f"answer {self.closed}", "stop")

    async def work() -> str:
        recorder = Recorder(Counting(), path)
        for _ in range(3):
            await recorder.send(ask("one"))
        return (await Replay(path).send(ask("one"))).text

    assert run(work) == "answer 3"


@pytest.mark.parametrize("line", ["no json", "[]", '{"identity": "x"}', '{"identity": "x", "shape": "text"}'])
def test_what_is_no_recording_is_refused_with_its_line(tmp_path: Path, line: str) -> None:
    path = tmp_path / "answers.jsonl"
    run(lambda: Recorder(Scripted(), path).send(ask("one")))
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(PoiseError, match=r"answers\.jsonl:2"):
        Replay(path)
    with pytest.raises(PoiseError, match="can't be used"):
        Replay(tmp_path / "none.jsonl")
    with pytest.raises(PoiseError, match="can't be used"):
        Recorder(Scripted(), tmp_path)
