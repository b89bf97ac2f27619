"""The queue: together when busy, at once when idle, bounded, and nobody waits for what nobody wants any more."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

import pytest
from scripted import ScriptedGuard

from poise.guard.verdict import Item, Verdict
from poise.serve.batching import Batcher, Batching
from poise.serve.faults import ApiError
from poise.serve.limits import Limits


class Silent:
    """Counts what it hears."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.failures: list[str] = []
        self.depth = 0

    def waiting(self, items: int) -> None:
        self.depth = items

    def batch(self, items: int, seconds: float) -> None:
        self.sizes.append(items)

    def failure(self, error: str) -> None:
        self.failures.append(error)


def texts(*words: str) -> list[Item]:
    return [(word, None) for word in words]


async def until(check: Any, seconds: float = 5.0) -> None:
    end = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < end
        await asyncio.sleep(0.002)


def run(guard: Any, scenario: Any, limits: Limits | None = None, batching: Batching | None = None) -> Silent:
    """Play a scenario (batcher) -> coroutine; returns what was heard."""
    watch = Silent()
    batcher = Batcher(guard, limits or Limits(), batching or Batching(), watch)
    batcher.start()
    try:
        asyncio.run(scenario(batcher))
    finally:
        if isinstance(guard, ScriptedGuard):
            guard.held.set()
        batcher.close()
    return watch


def test_texts_that_come_while_it_is_busy_are_judged_together_in_order() -> None:
    guard = ScriptedGuard()

    async def scenario(batcher: Batcher) -> None:
        guard.held.clear()
        first = asyncio.create_task(batcher.judge(texts("first")))
        await until(lambda: len(guard.calls) == 1)
        rest = [asyncio.create_task(batcher.judge(texts(f"n{i}", "bad Drugs"))) for i in range(4)]
        await until(lambda: batcher.depth == 8)
        guard.held.set()
        assert [[v.unsafe for v in await task] for task in rest] == [[False, True]] * 4
        assert len(await first) == 1

    watch = run(guard, scenario, batching=Batching(max_batch=6, linger_ms=0))
    assert watch.sizes == [1, 6, 2] and watch.depth == 0
    assert [item[0] for item in guard.seen] == ["first", *(w for i in range(4) for w in (f"n{i}", "bad Drugs"))]


def test_long_texts_make_small_batches_and_the_canary_goes_between_them() -> None:
    guard, long = ScriptedGuard(), "x" * 4200  # costs 1 + 4200 / 600 = 8, which is all that four texts may cost

    async def scenario(batcher: Batcher) -> None:
        guard.held.clear()
        asked = asyncio.create_task(batcher.judge(texts(long, long, "a", "b", "c", "d", "e", "x" * 9000)))
        await until(lambda: len(guard.calls) == 1)
        canary = asyncio.create_task(batcher.judge(texts("canary"), urgent=True))
        await until(lambda: batcher.depth == 8)
        guard.held.set()
        assert len(await asked) == 8 and len(await canary) == 1
        assert [item for item, _ in guard.calls[1]] == ["canary"]

    watch = run(guard, scenario, batching=Batching(max_batch=4, linger_ms=0))
    assert watch.sizes == [1, 1, 1, 4, 1, 1]  # long; canary; long; a to d; e, as the longest would be too much; it


def test_an_idle_guard_answers_at_once_and_a_busy_one_lingers() -> None:
    guard = ScriptedGuard()

    async def scenario(batcher: Batcher) -> None:
        for _ in range(3):
            began = time.perf_counter()
            await batcher.judge(texts("one"))
            assert time.perf_counter() - began < 0.25
        guard.held.clear()
        first = asyncio.create_task(batcher.judge(texts("a")))
        await until(lambda: len(guard.calls) == 4)
        second = asyncio.create_task(batcher.judge(texts("b")))
        await until(lambda: batcher.depth == 1)
        guard.held.set()
        await first  # from now on it lingers over "b"
        await asyncio.gather(second, batcher.judge(texts("c")))

    assert run(guard, scenario, batching=Batching(linger_ms=300)).sizes == [1, 1, 1, 1, 2]


def test_a_bad_neighbour_fails_alone() -> None:
    guard = ScriptedGuard()

    async def scenario(batcher: Batcher) -> None:
        guard.held.clear()
        tasks = [asyncio.create_task(batcher.judge(texts("first")))]
        await until(lambda: len(guard.calls) == 1)
        tasks += [asyncio.create_task(batcher.judge(texts(word))) for word in ("fine", "boom", "bad Drugs")]
        await until(lambda: batcher.depth == 3)
        guard.held.set()
        told = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(told[2], ApiError) and told[2].kind.status == 503
        assert [verdicts[0].unsafe for verdicts in (told[0], told[1], told[3]) if isinstance(verdicts, list)] == [
            False,
            False,
            True,
        ]

    assert run(guard, scenario).failures == ["ValueError", "ValueError"]


@pytest.mark.parametrize("wrong", [[], None, ["safe"], [None]])
def test_a_guard_that_returns_no_verdicts_has_failed(wrong: Any) -> None:
    class Wrong:
        name = "wrong"

        def judge(self, items: Sequence[Item]) -> list[Verdict]:
            return wrong  # type: ignore[no-any-return]

    async def scenario(batcher: Batcher) -> None:
        for _ in range(2):
            with pytest.raises(ApiError) as caught:
                await batcher.judge(texts("x"))
            assert caught.value.kind.status == 503

    assert len(run(Wrong(), scenario).failures) == 2


def test_a_worker_survives_even_an_exit() -> None:
    class Leaving(ScriptedGuard):
        def _one(self, text: str) -> Verdict:
            if text == "leave":
                raise SystemExit
            return super()._one(text)

    async def scenario(batcher: Batcher) -> None:
        with pytest.raises(ApiError):
            await batcher.judge(texts("leave"))
        assert (await batcher.judge(texts("fine")))[0].unsafe is False

    run(Leaving(), scenario)


def test_a_long_request_fails_as_a_whole_and_leaves_the_queue() -> None:
    guard = ScriptedGuard()

    async def scenario(batcher: Batcher) -> None:
        with pytest.raises(ApiError):
            await batcher.judge(texts("boom", *"abcdefg"))
        await until(lambda: batcher.depth == 0)
        assert len(await batcher.judge(texts(*"abcde"))) == 5

    run(guard, scenario, batching=Batching(max_batch=2))
    assert [item[0] for item in guard.seen] == ["boom", "a", *"abcde"]


def test_the_queue_is_bounded_by_number_and_by_time() -> None:
    guard = ScriptedGuard()

    async def scenario(batcher: Batcher) -> None:
        guard.delay = 0.05
        await batcher.judge(texts("measured"))  # 0.05 s an item
        guard.held.clear()
        running = asyncio.create_task(batcher.judge(texts("x")))
        await until(lambda: len(guard.calls) == 2)
        waiting = asyncio.create_task(batcher.judge(texts(*"abcdef")))
        await until(lambda: batcher.depth == 6)
        with pytest.raises(ApiError) as caught:
            await batcher.judge(texts("too late"))  # 6 * 0.05 = 0.3 s, more than 0.2
        assert caught.value.kind.status == 429 and int(caught.value.headers["retry-after"]) >= 1
        canary = asyncio.create_task(batcher.judge(texts("canary"), urgent=True))
        await until(lambda: batcher.depth == 7)
        guard.held.set()
        await asyncio.gather(running, waiting, canary)

    run(guard, scenario, limits=Limits(items=8, queue_items=8, wait_s=0.2), batching=Batching(max_batch=1, linger_ms=0))
    assert guard.seen[2][0] == "canary"

    async def full(batcher: Batcher) -> None:
        guard.held.clear()
        before = len(guard.calls)
        first = asyncio.create_task(batcher.judge(texts("x")))
        await until(lambda: len(guard.calls) == before + 1)
        second = asyncio.create_task(batcher.judge(texts(*"abcdef")))
        await until(lambda: batcher.depth == 6)
        with pytest.raises(ApiError, match="wait already"):
            await batcher.judge(texts("g", "h", "i"))
        guard.held.set()
        await asyncio.gather(first, second)

    guard.delay = 0
    run(guard, full, limits=Limits(items=8, queue_items=8))


def test_a_request_that_is_given_up_costs_no_work() -> None:
    guard = ScriptedGuard()

    async def scenario(batcher: Batcher) -> None:
        guard.held.clear()
        first = asyncio.create_task(batcher.judge(texts("first")))
        await until(lambda: len(guard.calls) == 1)
        gone = asyncio.create_task(batcher.judge(texts("gone", "too")))
        await until(lambda: batcher.depth == 2)
        gone.cancel()
        await until(lambda: batcher.depth == 0)
        guard.held.set()
        await first
        await batcher.judge(texts("last"))

    run(guard, scenario)
    assert [item[0] for item in guard.seen] == ["first", "last"]


def test_the_deadline_ends_the_wait() -> None:
    guard = ScriptedGuard()

    async def scenario(batcher: Batcher) -> None:
        guard.held.clear()
        with pytest.raises(ApiError, match="in time") as caught:
            await batcher.judge(texts("x"))
        assert caught.value.kind.status == 503
        guard.held.set()
        assert await batcher.judge(texts("y"))

    run(guard, scenario, limits=Limits(deadline_s=0.1))


def test_who_waits_at_the_end_is_told() -> None:
    guard = ScriptedGuard()

    async def scenario(batcher: Batcher) -> None:
        guard.held.clear()
        first = asyncio.create_task(batcher.judge(texts("x")))
        await until(lambda: len(guard.calls) == 1)
        second = asyncio.create_task(batcher.judge(texts("y")))
        await until(lambda: batcher.depth == 1)
        threading.Timer(0.05, guard.held.set).start()
        await asyncio.to_thread(batcher.close)
        with pytest.raises(ApiError, match="stopping"):
            await second
        await first
        with pytest.raises(ApiError, match="stopping"):
            await batcher.judge(texts("z"))

    run(guard, scenario)


def test_a_client_that_hangs_up_leaves_the_queue(start: Any) -> None:
    guard, client = start()
    guard.held.clear()
    url, threads = urlsplit(str(client.base_url)), []
    try:
        threads.append(threading.Thread(target=client.post, args=("/v1/moderations",), kwargs={"json": {"input": "a"}}))
        threads[0].start()
        while not guard.seen:
            time.sleep(0.005)
        body = json.dumps({"input": ["gone", "too"]}).encode()
        head = (
            f"POST /v1/moderations HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
        )
        with socket.create_connection((url.hostname or "", url.port or 0)) as raw:
            raw.sendall(head.encode() + b"\r\n\r\n" + body)
            while "poise_queue_items 2.0" not in client.get("/metrics").text:
                time.sleep(0.005)
        end = time.monotonic() + 5
        while "poise_queue_items 0.0" not in client.get("/metrics").text and time.monotonic() < end:
            time.sleep(0.005)
    finally:
        guard.held.set()
        for thread in threads:
            thread.join()
    assert client.post("/v1/moderations", json={"input": "next"}).status_code == 200
    assert [item[0] for item in guard.seen] == ["a", "next"]
    page = client.get("/metrics").text
    assert "poise_hung_up_total 1.0" in page and 'poise_requests_total{api="openai",status="499"} 1.0' in page
