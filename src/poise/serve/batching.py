"""One thread owns the guard; requests that come while it is busy are judged together.

An idle guard answers at once. While it is busy, texts gather, and once it finds others waiting it lingers a few
milliseconds for more. A request whose client has gone leaves the queue. A text that makes the guard raise fails its own
request and not those of its neighbours: they are judged again without it. What is left out: several processes; start
several servers for that. A guard that never returns holds the thread, its requests end at the deadline with an error,
and `/ready` tells. A call of the guard can't be broken off, so long texts make small batches: between two of them the
canary gets its turn, and what nobody waits for any more is let go.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import accumulate
from typing import Protocol

from poise.guard.verdict import Guard, Item, Verdict
from poise.serve.faults import ApiError
from poise.serve.limits import Limits

_SMOOTHING = 0.2
_CHARACTERS = 600
"""Of a text that costs as much as one more text; a long one is read in windows."""
_LONG = 2
"""Times the cost of `max_batch` texts without a character that a batch may cost."""


class Watch(Protocol):
    """What is told about the queue; all calls are quick and may come from another thread."""

    def waiting(self, items: int) -> None:
        """Texts that wait now."""
        ...

    def batch(self, items: int, seconds: float) -> None:
        """One call of the guard."""
        ...

    def failure(self, error: str) -> None:
        """The guard raised, or returned no verdicts; only the name of the error is told, as its message may quote."""
        ...


@dataclass(frozen=True)
class Batching:
    """How texts are judged together.

    Args:
        max_batch: texts of one call of the guard; fewer where they are long.
        linger_ms: how long a busy guard waits for more of them.
    """

    max_batch: int = 32
    linger_ms: float = 2.0


class _Job:
    """The texts of one request on their way."""

    __slots__ = ("future", "items", "left", "loop", "over", "taken", "verdicts")

    def __init__(self, items: Sequence[Item], loop: asyncio.AbstractEventLoop) -> None:
        self.items = list(items)
        self.verdicts: list[Verdict | None] = [None] * len(self.items)
        self.taken, self.left = 0, len(self.items)
        self.loop, self.future = loop, loop.create_future()
        self.over = False

    @property
    def waiting(self) -> int:
        return len(self.items) - self.taken

    def cost(self, start: int, stop: int) -> float:
        return sum(cost_of(item) for item in self.items[start:stop])

    def fitting(self, room: int, most: float) -> int:
        """How many of the items that wait, `room` at most, cost no more than `most` together."""
        costs = accumulate(map(cost_of, self.items[self.taken : self.taken + room]))
        return sum(cost <= most for cost in costs)

    def settle(self, error: ApiError | None) -> None:
        """Tell the request, in its own thread; one whose loop has ended hears nothing."""
        with suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self._settle, error)

    def _settle(self, error: ApiError | None) -> None:
        if self.future.done():
            return
        if error is None:
            self.future.set_result(self.verdicts)
        else:
            self.future.set_exception(error)


_Part = tuple[_Job, int, int]


def cost_of(item: Item) -> float:
    """What an item is expected to cost, in short texts."""
    prompt, response = item
    return 1.0 + (len(prompt) + len(response or "")) / _CHARACTERS


class Batcher:
    """The queue before a guard and the thread behind it; start it with `start`, end it with `close`.

    Args:
        guard: what judges.
        limits: how many may wait, and how long.
        batching: how they are judged together.
        watch: hears of it.
    """

    def __init__(self, guard: Guard, limits: Limits, batching: Batching, watch: Watch) -> None:
        self.guard, self.limits, self.batching, self._watch = guard, limits, batching, watch
        self._jobs: deque[_Job] = deque()
        self._depth = 0
        self._cost = 0.0  # of what waits
        self._cost_s = 0.0  # smoothed seconds of one unit of it
        self._closed = False
        self._wake = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="guard", daemon=True)

    @property
    def depth(self) -> int:
        """Texts that wait."""
        return self._depth

    def start(self) -> None:
        """Begin to judge."""
        self._thread.start()

    def close(self) -> None:
        """Judge no more; whoever still waits gets 503."""
        with self._wake:
            self._closed = True
            left, self._depth = list(self._jobs), 0
            self._jobs.clear()
            self._wake.notify_all()
        for job in left:
            job.settle(ApiError("failed", "the server is stopping", retry_after=1))
        if self._thread.is_alive():
            self._thread.join(timeout=5)

    async def judge(self, items: Sequence[Item], *, urgent: bool = False) -> list[Verdict]:
        """One verdict an item, in order. Cancelled, the items leave the queue.

        Args:
            items: at least one.
            urgent: goes first and is never turned away; for the canary.

        Raises:
            ApiError: the queue is full, the guard failed, or the deadline passed.
        """
        job = _Job(items, asyncio.get_running_loop())
        self._add(job, urgent)
        try:
            async with asyncio.timeout(self.limits.deadline_s):
                verdicts: list[Verdict] = await job.future
                return verdicts
        except TimeoutError:
            raise ApiError("failed", "the guard did not answer in time", retry_after=5) from None
        finally:
            if job.left:
                self._drop(job)

    def _add(self, job: _Job, urgent: bool) -> None:
        with self._wake:
            if self._closed:
                raise ApiError("failed", "the server is stopping", retry_after=1)
            wait = self._cost * self._cost_s
            full = self._depth + len(job.items) > self.limits.queue_items
            if not urgent and self._depth and (full or wait > self.limits.wait_s):
                raise ApiError("queue", "too many texts wait already; try again later", retry_after=max(1.0, wait))
            (self._jobs.appendleft if urgent else self._jobs.append)(job)
            self._change(len(job.items), job.cost(0, len(job.items)))
            self._wake.notify()

    def _drop(self, job: _Job) -> None:
        with self._wake:
            job.over = True
            if job in self._jobs:
                self._jobs.remove(job)
                self._change(-job.waiting, -job.cost(job.taken, len(job.items)))

    def _change(self, items: int, cost: float) -> None:
        self._depth += items
        self._cost = self._cost + cost if self._depth else 0.0
        self._watch.waiting(self._depth)

    def _run(self) -> None:
        busy = False
        while True:
            with self._wake:
                while not self._jobs and not self._closed:
                    busy = False
                    self._wake.wait()
                if self._closed:
                    return
                if busy and self._depth < self.batching.max_batch:
                    self._wake.wait_for(self._enough, self.batching.linger_ms / 1000)
                batch = self._take()
            if batch:
                self._judge(batch)
            busy = True  # unless nobody waits by now

    def _enough(self) -> bool:
        return self._closed or self._depth >= self.batching.max_batch

    def _take(self) -> list[_Part]:
        """The next items, first come first served, one at least; a long request is cut."""
        batch: list[_Part] = []
        room, most = self.batching.max_batch, float(_LONG * self.batching.max_batch)
        while room and self._jobs:
            job = self._jobs[0]
            count = job.fitting(room, most) or (0 if batch else 1)
            if not count:
                break
            batch.append((job, job.taken, job.taken + count))
            cost = job.cost(job.taken, job.taken + count)
            self._change(-count, -cost)
            job.taken += count
            room, most = room - count, most - cost
            if not job.waiting:
                self._jobs.popleft()
        return batch

    def _judge(self, batch: list[_Part]) -> None:
        """The batch at once; where that fails and several requests are in it, each by itself."""
        if self._ask(batch):
            return
        for part in batch:
            if len(batch) == 1 or not (part[0].over or self._ask([part])):
                self._fail(part[0])

    def _ask(self, batch: list[_Part]) -> bool:
        """Judge and deliver; false when the guard failed."""
        items = [item for job, start, stop in batch for item in job.items[start:stop]]
        began = time.perf_counter()
        try:
            verdicts = self.guard.judge(items)
            if len(verdicts) != len(items) or not all(isinstance(verdict, Verdict) for verdict in verdicts):
                raise TypeError
        except BaseException as error:  # whatever it is, this thread goes on
            self._watch.failure(type(error).__name__)
            return False
        seconds = time.perf_counter() - began
        each = seconds / sum(map(cost_of, items))
        self._cost_s = each if not self._cost_s else self._cost_s + _SMOOTHING * (each - self._cost_s)
        self._watch.batch(len(items), seconds)
        rest = iter(verdicts)
        for job, start, stop in batch:
            job.verdicts[start:stop] = [next(rest) for _ in range(start, stop)]
            job.left -= stop - start
            if not job.left:
                job.settle(None)
        return True

    def _fail(self, job: _Job) -> None:
        self._drop(job)
        job.settle(ApiError("failed", "the guard failed on this request", retry_after=1))
