"""The runner: each request ends once, is stored before anything else, and is never sent for again."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from poise.errors import PoiseError
from poise.llm.budget import Budget, Price, dry_run
from poise.llm.exchange import ChatRequest, EndpointError, FaultKind, Reply, Shape
from poise.llm.limits import Lane, Limits
from poise.llm.runner import Runner
from poise.llm.store import ReplyStore

Answer = Reply | FaultKind
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}


class Scripted:
    """A client that answers each request by a script: a function of the request, the shape and the send's number."""

    def __init__(self, script: Callable[[ChatRequest, Shape, int], Answer], alias: str = "scripted") -> None:
        self.alias, self.script = alias, script
        self.sent: Counter[str] = Counter()
        self.most_at_once = self._now = 0

    async def send(self, request: ChatRequest, shape: Shape = "text") -> Reply:
        self.sent[request.messages[0][1]] += 1
        self._now += 1
        self.most_at_once = max(self.most_at_once, self._now)
        await asyncio.sleep(0)
        self._now -= 1
        answer = self.script(request, shape, self.sent[request.messages[0][1]])
        if isinstance(answer, Reply):
            return answer
        raise EndpointError(answer, "as scripted", retry_after_s=0.01 if answer == "rate-limited" else None)

    async def close(self) -> None:
        pass


def ask(n: int, **settings: object) -> ChatRequest:
    return ChatRequest("m", (("user", f"question {n}"),), **settings)  # type: ignore[arg-type]


def echo(request: ChatRequest, shape: Shape, number: int) -> Reply:
    return Reply(request.messages[0][1], "stop")


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses between attempts are not what is tested here."""
    monkeypatch.setattr("poise.llm.runner.random.uniform", lambda *_: 0.0)
    monkeypatch.setattr("poise.llm.limits.BREAK_AFTER", 10**9)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ReplyStore]:
    with ReplyStore(tmp_path / "replies.sqlite") as opened:
        yield opened


def test_every_request_is_answered_once_and_not_again(store: ReplyStore) -> None:
    client = Scripted(echo)
    heard: list[str] = []
    counts = Runner(store, [Lane(client)]).run((ask(n % 50) for n in range(100)), lambda r, e: heard.append(e.identity))
    assert counts["done"] == 50 and sum(client.sent.values()) == 50 and len(set(heard)) == 50
    again = Runner(store, [Lane(client)]).run(ask(n) for n in range(51))
    assert (again["stored"], again["done"]) == (50, 1) and sum(client.sent.values()) == 51
    found = store.get(ask(7).identity)
    assert (
        found is not None and found.reply is not None and found.reply.text == "question 7" and found.lane == "scripted"
    )


def test_requests_differ_by_all_that_determines_the_answer() -> None:
    changes = [
        {"temperature": 0.5},
        {"seed": 1},
        {"sample": 1},
        {"template": "2"},
        {"schema": SCHEMA},
        {"prefill": "{"},
    ]
    assert len({ask(1).identity, ask(2).identity, *(ask(1, **change).identity for change in changes)}) == 8


@pytest.mark.parametrize(
    ("answer", "state"),
    [
        (Reply("x", "stop", refusal="no"), "refused"),
        (Reply("x", "content_filter"), "filtered"),
        ("filtered", "filtered"),
        (Reply("again again", "length"), "truncated"),
        ("too-long", "dead"),
        ("request", "dead"),
        ("server", "dead"),
    ],
)
def test_how_requests_end(store: ReplyStore, answer: Answer, state: str) -> None:
    client = Scripted(lambda *_: answer)
    counts = Runner(store, [Lane(client)], attempts=3).run([ask(1)])
    assert counts == {state: 1}
    found = store.get(ask(1).identity)
    assert found is not None and found.reason
    assert client.sent["question 1"] == (3 if answer == "server" else 1)


def test_the_dead_are_asked_again_only_on_demand(store: ReplyStore) -> None:
    Runner(store, [Lane(Scripted(lambda *_: "server"))], attempts=1).run([ask(1)])
    assert Runner(store, [Lane(Scripted(echo))]).run([ask(1)]) == {"stored": 1}
    assert Runner(store, [Lane(Scripted(echo))], retry_dead=True).run([ask(1)]) == {"done": 1}
    assert store.counts()["done"] == 1 and store.counts()["dead"] == 0


@pytest.mark.parametrize("kind", ["key", "model", "certificate"])
def test_a_fault_of_the_lane_stops_with_one_line_and_keeps_what_is_there(store: ReplyStore, kind: FaultKind) -> None:
    client = Scripted(lambda r, s, n: kind if r.messages[0][1] == "question 3" else echo(r, s, n))
    with pytest.raises(PoiseError, match=f"scripted: {kind}"):
        Runner(store, [Lane(client, Limits(max_concurrency=1))]).run(ask(n) for n in range(9))
    assert store.counts()["done"] == 3
    assert Runner(store, [Lane(Scripted(echo))]).run(ask(n) for n in range(9)) == {"stored": 3, "done": 6}


def test_another_lane_takes_over(store: ReplyStore) -> None:
    good, bad = Scripted(echo, "good"), Scripted(lambda *_: "key", "bad")
    counts = Runner(store, [Lane(bad), Lane(good)]).run(ask(n) for n in range(20))
    assert counts == {"done": 20}
    assert {exchange.lane for exchange in store.exchanges()} == {"good"}


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), requests=st.integers(1, 12))
def test_any_schedule_of_faults_ends_every_request_once(tmp_path: Path, data: st.DataObject, requests: int) -> None:
    kinds = st.sampled_from(["server", "timeout", "connection", "rate-limited", "filtered", "too-long", "ok", "ok"])
    schedule = data.draw(st.lists(kinds, min_size=1, max_size=30))
    calls = iter(schedule)

    def script(request: ChatRequest, shape: Shape, number: int) -> Answer:
        kind = next(calls, "ok")
        return echo(request, shape, number) if kind == "ok" else kind  # type: ignore[return-value]

    path = tmp_path / f"{time.monotonic_ns()}.sqlite"
    with ReplyStore(path) as store:
        lane = Lane(Scripted(script), Limits(max_concurrency=4))
        counts = Runner(store, [lane], attempts=40).run(ask(n) for n in range(requests))
        assert sum(counts.values()) == requests == sum(store.counts().values())


def test_memory_does_not_grow_with_the_number_of_requests(store: ReplyStore) -> None:
    """Requests are made when they are taken: at no time are more alive than may be in flight."""
    made, ended, most = 0, 0, 0

    def requests() -> Iterator[ChatRequest]:
        nonlocal made, most
        for n in range(500):
            made += 1
            most = max(most, made - ended)
            yield ask(n)

    def end(*_: object) -> None:
        nonlocal ended
        ended += 1

    Runner(store, [Lane(Scripted(echo), Limits(max_concurrency=10))]).run(requests(), end)
    assert most <= 11


def test_a_budget_that_ends_at_a_probe_ends_the_run(store: ReplyStore) -> None:
    """A server that refuses without a hint is probed; the probe that no budget is left for must not block the lane."""

    class Full(Scripted):
        async def send(self, request: ChatRequest, shape: Shape = "text") -> Reply:
            if self.sent.total() >= 4:
                self.sent["refused"] += 1
                raise EndpointError("rate-limited", "too many")
            return await super().send(request, shape)

    async def run() -> Counter[str]:
        budget = Budget(requests=8)
        async with asyncio.timeout(20):
            return await Runner(store, [Lane(Full(echo))], budget=budget).run_async(ask(n) for n in range(30))

    counts = asyncio.run(run())
    assert counts["done"] == 4 and counts["pending"] == 26


def test_a_slow_server_without_a_fault_is_waited_for(store: ReplyStore) -> None:
    class Slow(Scripted):
        async def send(self, request: ChatRequest, shape: Shape = "text") -> Reply:
            await asyncio.sleep(1.5)
            return await super().send(request, shape)

    runner = Runner(store, [Lane(Slow(echo), Limits(max_concurrency=10))], give_up_s=0.2)  # of ten, two have to wait
    assert runner.run(ask(n) for n in range(10)) == {"done": 10}


def test_lanes_that_can_do_different_things_share_a_ladder(store: ReplyStore) -> None:
    late = asyncio.Event()

    class Able(Scripted):
        async def send(self, request: ChatRequest, shape: Shape = "text") -> Reply:
            await late.wait()
            return await super().send(request, shape)

    class Plain(Scripted):
        async def send(self, request: ChatRequest, shape: Shape = "text") -> Reply:
            if shape == "text":
                late.set()
            return await super().send(request, shape)

    def plain(request: ChatRequest, shape: Shape, number: int) -> Answer:
        return Reply('{"n": 1}', "stop") if shape == "text" else "unsupported"

    lanes = [Lane(Able(lambda *_: Reply('{"n": 2}', "stop")), Limits(max_concurrency=1)), Lane(Plain(plain), Limits(1))]
    assert Runner(store, lanes).run([ask(n, schema=SCHEMA) for n in range(6)]) == {"done": 6}


def test_a_budget_stops_cleanly(store: ReplyStore) -> None:
    client = Scripted(echo)
    counts = Runner(store, [Lane(client)], budget=Budget(requests=10)).run(ask(n) for n in range(30))
    assert counts == {"done": 10, "pending": 20} and sum(client.sent.values()) == 10
    prices = {"m": Price(1e6, 1e6)}  # one a token
    answer = Reply("x", "stop", prompt_tokens=2, completion_tokens=3)
    budget = Budget(cost=100, prices=prices)
    Runner(store, [Lane(Scripted(lambda *_: answer), Limits(max_concurrency=1))], budget=budget).run(
        ask(n, max_tokens=10) for n in range(100, 200)
    )
    # A send may cost 7 + 10 at most (11 characters are 3 tokens, 4 for the frame) and costs 5: the last one to start
    # found 5 k + 17 <= 100, so k = 16 were settled before it.
    assert budget.cost_used == 17 * 5


def test_a_dry_run_counts_what_is_missing(store: ReplyStore) -> None:
    Runner(store, [Lane(Scripted(echo))]).run([ask(1)])
    found = dry_run([ask(1), ask(2), ask(2), ask(3)], store, {"m": Price(1.0, 2.0)})
    assert (found.requests, found.stored, found.prompt_tokens, found.most_completion_tokens) == (3, 1, 14, 1024)
    assert found.most_cost == pytest.approx((14 * 1.0 + 1024 * 2.0) / 1e6)
    assert dry_run([ask(2)], store, {}).most_cost is None


def structured(store: ReplyStore, answers: Sequence[str | FaultKind]) -> tuple[str, object, str | None, list[Shape]]:
    """State, value, rung and shapes asked for, when a structured question is answered so."""
    shapes: list[Shape] = []

    def script(request: ChatRequest, shape: Shape, number: int) -> Answer:
        shapes.append(shape)
        answer = answers[min(number, len(answers)) - 1]
        return answer if answer == "unsupported" else Reply(answer, "stop")  # type: ignore[return-value]

    request = ask(len(store.counts()) + sum(store.counts().values()), schema=SCHEMA)
    client = Scripted(script)
    client.sent = Counter()  # counted per message text: the frame differs by rung
    calls = 0

    async def send(asked: ChatRequest, shape: Shape = "text") -> Reply:
        nonlocal calls
        calls += 1
        found = script(asked, shape, calls)
        if isinstance(found, Reply):
            return found
        raise EndpointError(found, "as scripted")

    client.send = send  # type: ignore[method-assign]
    Runner(store, [Lane(client)]).run([request])
    exchange = store.get(request.identity)
    assert exchange is not None
    return exchange.state, exchange.value, exchange.rung, shapes


def test_the_ladder_of_structured_answers(store: ReplyStore) -> None:
    assert structured(store, ['{"n": 1}']) == ("done", {"n": 1}, "json_schema", ["json_schema"])
    assert structured(store, ["unsupported", '{"n": 2}']) == (
        "done",
        {"n": 2},
        "json_object",
        ["json_schema", "json_object"],
    )
    in_words = structured(store, ["unsupported", "unsupported", '{"n": 3}'])
    assert in_words == ("done", {"n": 3}, "text", ["json_schema", "json_object", "text"])
    assert structured(store, ['```json\n{"n": 4,}\n```'])[:3] == ("done", {"n": 4}, "repaired")
    assert structured(store, ["four", '{"n": 5}'])[:3] == ("done", {"n": 5}, "asked again")
    assert structured(store, ["four", "five"])[:3] == ("invalid", None, "asked again")


def test_what_no_rung_can_do_leaves_the_ladder_as_it_was(store: ReplyStore) -> None:
    """A server without logprobs says "unsupported" on every rung; it can still enforce a schema afterwards."""
    shapes: list[Shape] = []

    def script(request: ChatRequest, shape: Shape, number: int) -> Answer:
        shapes.append(shape)
        return "unsupported" if request.logprobs else Reply('{"n": 1}', "stop")

    lane = Lane(Scripted(script), Limits(max_concurrency=1))
    counts = Runner(store, [lane]).run([ask(1, schema=SCHEMA, logprobs=5), ask(2, schema=SCHEMA)])
    assert counts == {"dead": 1, "done": 1}
    assert shapes == ["json_schema", "json_object", "text", "json_schema"]


@pytest.mark.parametrize("rounds", [3])
def test_kill_9_loses_only_what_was_in_flight(tmp_path: Path, rounds: int) -> None:
    """The child logs each send before it answers: after any kill, what was sent twice was in flight at a kill."""
    program = f"""
import asyncio, os, sys
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parent)!r})
from poise.llm.exchange import ChatRequest, Reply
from poise.llm.limits import Lane, Limits
from poise.llm.runner import Runner
from poise.llm.store import ReplyStore
log = os.open("sent.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
class Client:
    alias = "child"
    async def send(self, request, shape="text"):
        os.write(log, (request.messages[0][1] + "\\n").encode())
        await asyncio.sleep(0.005)
        return Reply("x", "stop")
    async def close(self): pass
requests = (ChatRequest("m", (("user", str(n)),)) for n in range(400))
with ReplyStore(Path("replies.sqlite")) as store:
    Runner(store, [Lane(Client(), Limits(max_concurrency=8))]).run(requests)
"""
    for _ in range(rounds):
        child = subprocess.Popen([sys.executable, "-c", program], cwd=tmp_path)
        start, log = time.monotonic(), tmp_path / "sent.log"
        before = log.stat().st_size if log.exists() else 0
        while time.monotonic() - start < 30 and (not log.exists() or log.stat().st_size < before + 150):
            time.sleep(0.005)
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True)
    sent = Counter((tmp_path / "sent.log").read_text().split())
    with ReplyStore(tmp_path / "replies.sqlite") as store:
        assert store.counts()["done"] == 400
    assert set(sent) == {str(n) for n in range(400)}
    assert sum(sent.values()) - 400 <= 8 * rounds


def test_a_store_has_one_writer_and_is_a_store(tmp_path: Path) -> None:
    with (
        ReplyStore(tmp_path / "a.sqlite"),
        pytest.raises(PoiseError, match="another process"),
        ReplyStore(tmp_path / "a.sqlite"),
    ):
        pass
    (tmp_path / "b.sqlite").write_bytes(b"no database at all, only some words" * 100)
    with pytest.raises(PoiseError, match="no store of replies"), ReplyStore(tmp_path / "b.sqlite"):
        pass


def test_a_rubric_is_stored_once_and_the_request_can_be_read_back(store: ReplyStore) -> None:
    rubric = "A rubric. " * 100
    requests = [
        ChatRequest("m", (("system", rubric), ("user", f"question {n}")), stop=("end",), schema=SCHEMA)
        for n in range(20)
    ]
    client = Scripted(lambda request, shape, number: Reply('{"n": 1}', "stop"))
    assert Runner(store, [Lane(client)]).run(requests)["done"] == 20
    assert [store.request(request.identity) for request in requests] == requests
    assert store.request("0" * 64) is None
    text = b"".join(path.read_bytes() for path in store.path.parent.glob("replies.sqlite*"))
    assert text.count(rubric.encode()) <= 2  # in the file, and in the log before it
