"""Requests in, replies in the store: only what is missing is sent, each reply is committed before anything else.

    with ReplyStore(path) as store:
        counts = Runner(store, [Lane(client, Limits(max_concurrency=32))]).run(requests)

Requests are taken one by one from any iterable, so memory does not grow with their number. `kill -9` loses what is in
flight; the next run sends that and the rest. A refusal, a filtered and a truncated answer are ends like any other; only
faults of the line are tried again, with growing pauses.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from poise.errors import PoiseError
from poise.llm.budget import Budget, estimate_tokens
from poise.llm.exchange import FATAL, RETRYABLE, ChatRequest, EndpointError, Reply, ServersGoneError, Shape
from poise.llm.limits import Lane
from poise.llm.store import Exchange, ReplyStore, outcome
from poise.llm.structured import Ladder

Counts = Counter[str]
"""State -> requests that ended so in this run; "stored": answered before; "pending": left by a budget."""

FIRST_S = 20.0
"""A run in which so long nothing but faults came back, from the start on, is ended."""

OnEnd = Callable[[ChatRequest, Exchange], Any]


def ask_all(
    requests: Iterable[ChatRequest],
    store: ReplyStore,
    lanes: Sequence[Lane],
    *,
    name: str,
    budget: Budget | None = None,
    on_end: OnEnd | None = None,
    need_answer: bool = True,
) -> Counts:
    """Send what the store does not hold, and again what had failed for good.

    Args:
        name: of who is asked, for errors.
        need_answer: whether it is an error that all requests fail for good.

    Raises:
        PoiseError: the budget is spent before all is asked, nothing got an answer, or what `Runner.run` raises.
            Replies so far are stored.
    """
    reasons: Counter[str | None] = Counter()

    def ended(request: ChatRequest, exchange: Exchange) -> None:
        if exchange.state == "dead":
            reasons[exchange.reason] += 1
        if on_end is not None:
            on_end(request, exchange)

    counts = Runner(store, lanes, budget=budget, retry_dead=True).run(requests, ended)
    if counts["pending"]:
        raise PoiseError(
            f"the budget is spent; {counts['pending']:,} requests are not asked yet",
            where=name,
            do="run it again with a larger one; replies so far are stored",
            exit_code=4,
        )
    if need_answer and counts["dead"] and counts["dead"] == counts.total():
        raise PoiseError(
            f"none of {counts['dead']:,} requests got an answer; most often: {reasons.most_common(1)[0][0]}",
            where=name,
            do="see to the server, then run it again",
            exit_code=4,
        )
    return counts


class Runner:
    """Runs requests over lanes.

    Args:
        store: where replies go, open.
        lanes: servers, keys or replicas that answer alike; the least busy one is taken.
        budget: stops sending when reached.
        attempts: sends of one request before it is "dead".
        give_up_s: without any success for so long while faults go on, the run ends with an error.
        retry_dead: send again what an earlier run gave up on.
    """

    def __init__(
        self,
        store: ReplyStore,
        lanes: Sequence[Lane],
        *,
        budget: Budget | None = None,
        attempts: int = 6,
        give_up_s: float = 600.0,
        retry_dead: bool = False,
    ) -> None:
        self.store, self.lanes, self.budget = store, list(lanes), budget or Budget()
        self.attempts, self.give_up_s, self.retry_dead = attempts, give_up_s, retry_dead
        self._ladder = Ladder()
        self._counts: Counts = Counter()
        self._in_flight: set[str] = set()
        self._changed = asyncio.Event()
        self._turn = asyncio.Lock()
        self._spent = False
        self._alive_since = self._last_fault = 0.0

    def run(self, requests: Iterable[ChatRequest], on_end: OnEnd | None = None) -> Counts:
        """Send what is missing and return when everything has ended or the budget is spent.

        Args:
            requests: in any order; one that comes twice is sent once.
            on_end: hears of each request that ends in this run, after its reply is committed.

        Raises:
            ServersGoneError: every lane met a fault that all its requests would meet (wrong key, unknown model), or
                nothing succeeded for `give_up_s`. What was answered is stored, the rest stays pending.
        """
        return asyncio.run(self.run_async(requests, on_end))

    async def run_async(self, requests: Iterable[ChatRequest], on_end: OnEnd | None = None) -> Counts:
        """`run` inside an event loop."""
        self._counts, self._in_flight, self._spent = Counter(), set(), False
        self._changed, self._turn, self._alive_since = asyncio.Event(), asyncio.Lock(), time.monotonic()
        waiting = iter(requests)
        workers = sum(lane.limits.max_concurrency for lane in self.lanes)
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(workers):
                    group.create_task(self._work(waiting, on_end))
        except* PoiseError as errors:
            raise errors.exceptions[0] from None
        finally:
            for lane in self.lanes:
                await lane.client.close()
        return self._counts

    async def _work(self, waiting: Iterator[ChatRequest], on_end: OnEnd | None) -> None:
        for request in waiting:
            identity = request.identity
            if identity in self._in_flight:
                continue
            state = self.store.state(identity)
            if state is not None and not (state == "dead" and self.retry_dead):
                self._counts["stored"] += 1
                continue
            if self._spent:
                self._counts["pending"] += 1
                continue
            self._in_flight.add(identity)
            try:
                exchange = await self._exchange(request, identity)
                if exchange is None:
                    self._counts["pending"] += 1
                    continue
                self.store.finish(request, exchange)
            finally:
                self._in_flight.discard(identity)
            self._counts[exchange.state] += 1
            if on_end is not None:
                on_end(request, exchange)

    async def _exchange(self, request: ChatRequest, identity: str) -> Exchange | None:
        """The end of a request, None when the budget does not allow it."""
        sender, faults = _Sender(self), 0
        while True:
            try:
                return await self._answer(request, identity, sender)
            except _BudgetSpent:
                return None
            except EndpointError as error:
                self.store.fault(identity, sender.alias, error.kind, error.reason)
                if error.kind in FATAL:  # the lane's fault, not the request's
                    self._stop(sender.lane, error)
                elif error.kind == "filtered":
                    return Exchange(identity, "filtered", None, None, None, sender.alias, sender.sends, error.reason)
                elif error.kind in ("rate-limited", "overloaded"):
                    continue  # the server's way to say when; the lane waits
                else:
                    faults += 1
                    if error.kind not in RETRYABLE or faults >= self.attempts:
                        return Exchange(identity, "dead", None, None, None, sender.alias, sender.sends, str(error))
                    await asyncio.sleep(min(30.0, 0.25 * 2**faults) * random.uniform(0.5, 1.0))

    async def _answer(self, request: ChatRequest, identity: str, sender: _Sender) -> Exchange:
        value, rung, error = None, None, None
        if request.schema is None:
            reply = await sender(request, "text")
        else:
            reply, value, rung, error = await self._ladder.ask(request, sender)
        state, error = outcome(request, reply, error)
        return Exchange(identity, state, reply, value, rung, sender.alias, sender.sends, error)

    async def _lane(self, request: ChatRequest) -> tuple[Lane, float]:
        """Wait until a lane may take the request, and when that was; requests wait in the order in which they came."""
        tokens = estimate_tokens(request) + request.max_tokens
        async with self._turn:
            while True:
                now = time.monotonic()
                self._check_alive(now)
                open_lanes = [lane for lane in self.lanes if lane.stopped is None]
                at, lane = min(
                    ((lane.ready_at(tokens, now), lane) for lane in open_lanes),
                    key=lambda pair: (max(pair[0], now), pair[1].in_flight / pair[1].concurrency),
                )
                if at <= now:
                    lane.start(tokens, now)
                    return lane, now
                self._changed.clear()
                try:
                    async with asyncio.timeout(min(at - now, 1.0)):
                        await self._changed.wait()
                except TimeoutError:
                    continue

    async def _send(self, lane: Lane, started: float, request: ChatRequest, shape: Shape) -> Reply:
        ticket = self.budget.reserve(request)
        if ticket is None:
            lane.withdraw(started)
            self._spent = True
            self._changed.set()
            raise _BudgetSpent
        reply: Reply | None = None
        try:
            reply = await lane.client.send(request, shape)
            lane.succeed(time.monotonic(), started)
        except EndpointError as error:
            self._last_fault = time.monotonic()
            lane.fail(error, self._last_fault, started)
            raise
        finally:
            self.budget.settle(ticket, request, reply)
            self._changed.set()
        return reply

    def _stop(self, lane: Lane | None, error: EndpointError) -> None:
        if lane is not None:
            lane.stopped = error
        self._changed.set()
        self._check_alive(time.monotonic())

    def _check_alive(self, now: float) -> None:
        if all(lane.stopped for lane in self.lanes):
            first = self.lanes[0]
            raise ServersGoneError(
                str(first.stopped),
                where=first.client.alias,
                do="mend it and run again; replies so far are stored",
                exit_code=3,
            )
        if now - self._alive_since > FIRST_S and not any(lane.last_success for lane in self.lanes):
            open_lanes = [lane for lane in self.lanes if lane.stopped is None]
            if all(lane.broken for lane in open_lanes):
                raise ServersGoneError(
                    f"no reply at all: {open_lanes[0].last_fault}",
                    where=open_lanes[0].client.alias,
                    do="is the server up, and is this its address?",
                    exit_code=3,
                )
        last = max([self._alive_since, *(lane.last_success or 0.0 for lane in self.lanes)])
        if now - last > self.give_up_s and self._last_fault > last and not self._spent:
            raise ServersGoneError(
                f"no reply for {self.give_up_s:.0f} s",
                where=", ".join(lane.client.alias for lane in self.lanes),
                do="is the server up? Run again; replies so far are stored",
                exit_code=3,
            )


class _Sender:
    """Sends for one request over whichever lane is free, and remembers the last lane and the number of sends."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self.lane: Lane | None = None
        self.sends = 0

    @property
    def alias(self) -> str:
        """Of the last lane."""
        return self.lane.client.alias if self.lane else ""

    async def __call__(self, request: ChatRequest, shape: Shape) -> Reply:
        self.lane, started = await self._runner._lane(request)
        self.sends += 1
        return await self._runner._send(self.lane, started, request, shape)


class _BudgetSpent(Exception):  # noqa: N818 - not an error
    """Raised where a send would go over the budget."""
