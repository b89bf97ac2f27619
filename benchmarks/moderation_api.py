"""What the moderation API costs beside the guard in it, and what it does when more is asked than it can do.

    python benchmarks/moderation_api.py                      # a guard that answers at once; needs the extra `serve`
    python benchmarks/moderation_api.py --guard DIR/guard    # and the overhead over a trained guard, the same way

The server runs in a process of its own and is asked over TCP on this machine.

**Overhead**: one client with one connection, a request after the other, so nothing is ever judged together; beside it
the same guard called in this process. The difference of the medians is what the API adds: HTTP, JSON, checks, two
thread switches, and the client's own part. A short pair and a text of 2,000 characters.

**Saturation**: a guard that takes 40 ms a call and 10 ms a text, batches of 8, in a server that lets texts wait 0.5 s.
Clients send at a fixed rate whatever comes back (an open loop; times count from when a request was due), at half, twice
and four times the capacity. What is over capacity gets 429 with Retry-After; the p99 of what was accepted stays near
the bound, whatever the load.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import os
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from poise.errors import PoiseError
from poise.guard.verdict import Guard, Item, Verdict, judged
from poise.harm import PKU

CALL_S, TEXT_S, BATCH, WAIT_S = 0.040, 0.010, 8, 0.5
CAPACITY = BATCH / (CALL_S + BATCH * TEXT_S)
ITEMS: dict[str, Item] = {
    "a short pair": ("How do I boil an egg?", "Seven minutes in boiling water, then cold water."),
    "2,000 characters": ("Tell me about tea.", "Tea is a drink. " * 124),
}


class Timed:
    """A guard that takes a given time and finds everything safe.

    Args:
        call_s: seconds a call.
        text_s: seconds a text on top.
    """

    name = "timed"

    def __init__(self, call_s: float = 0.0, text_s: float = 0.0) -> None:
        self.call_s, self.text_s = call_s, text_s

    def judge(self, items: Sequence[Item]) -> list[Verdict]:
        """Safe, after a while."""
        if seconds := self.call_s + self.text_s * len(items):
            time.sleep(seconds)
        return [
            judged(
                False,
                taxonomy=PKU,
                probability=0.1,
                severity_probabilities=(0.9, 0.1, 0.0, 0.0),
                category_probabilities=(0.01,) * 19,
            )
            for _ in items
        ]


def make(kind: str) -> Guard:
    """The guard that a word names: "at-once", "slow", or a folder."""
    if kind == "at-once":
        return Timed()
    if kind == "slow":
        return Timed(CALL_S, TEXT_S)
    from poise.guard.fast.opening import open_guard

    return open_guard(Path(kind))


def child(kind: str) -> None:
    """Serve a guard until killed; the first line says where."""
    from poise.serve.app import Service
    from poise.serve.batching import Batching
    from poise.serve.limits import Limits
    from poise.serve.run import listen, serve

    service = Service(make(kind), limits=Limits(wait_s=WAIT_S), batching=Batching(max_batch=BATCH))
    with listen("127.0.0.1", 0) as sock:
        serve(service.app, sock, lambda url: print(url, flush=True))


@contextmanager
def server(kind: str) -> Iterator[str]:
    """Its address."""
    words = [sys.executable, __file__, "--child", kind]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.kill()


def body_of(item: Item) -> bytes:
    """A request to /v1/moderations."""
    prompt, response = item
    return json.dumps({"prompt": prompt, "input": response}).encode()


def asked(url: str, item: Item, rounds: int) -> list[float]:
    """Seconds of each of `rounds` requests over one connection."""
    where, body, took = urlsplit(url), body_of(item), []
    connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=60)
    for _ in range(rounds):
        began = time.perf_counter()
        connection.request("POST", "/v1/moderations", body, {"content-type": "application/json"})
        answer = connection.getresponse()
        told = answer.read()
        took.append(time.perf_counter() - began)
        if answer.status != 200:
            raise PoiseError(f"answered {answer.status} {told[:200]!r}", where=url, exit_code=4)
    return took


def called(guard: Guard, item: Item, rounds: int) -> list[float]:
    """Seconds of each of `rounds` calls in this process."""
    took = []
    for _ in range(rounds):
        began = time.perf_counter()
        guard.judge([item])
        took.append(time.perf_counter() - began)
    return took


def overhead(kind: str, rounds: int) -> None:
    """The table of one guard."""
    guard = make(kind)
    print(f"\n{kind}: milliseconds, {rounds} calls one after the other")
    print(f"{'':18s} {'bare p50':>9s} {'API p50':>9s} {'added':>7s} {'bare p99':>9s} {'API p99':>9s}")
    with server(kind) as url:
        for name, item in ITEMS.items():
            asked(url, item, rounds // 10), called(guard, item, rounds // 10)  # warm
            bare, api = [], []
            for _ in range(10):  # in turns, as the machine's other work comes and goes
                bare += called(guard, item, rounds // 10)
                api += asked(url, item, rounds // 10)
            b50, b99, a50, a99 = (1000 * q for took in (bare, api) for q in (median(took), p99(took)))
            print(f"{name:18s} {b50:9.2f} {a50:9.2f} {a50 - b50:7.2f} {b99:9.2f} {a99:9.2f}")


class Lines:
    """Kept-alive connections to one address, as many as are needed at once."""

    def __init__(self, url: str, request: bytes) -> None:
        where = urlsplit(url)
        self.host, self.port, self._request = where.hostname or "", where.port or 0, request
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def ask(self) -> tuple[int, str | None]:
        """Status and Retry-After of one request."""
        reader, writer = self._idle.pop() if self._idle else await asyncio.open_connection(self.host, self.port)
        writer.write(self._request)
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        told = dict(line.split(": ", 1) for line in head.splitlines()[1:] if line)
        await reader.readexactly(int(told["content-length"]))
        self._idle.append((reader, writer))
        return int(head.split()[1]), told.get("retry-after")


async def load(url: str, rate: float, seconds: float) -> tuple[Counter[int], list[float], int]:
    """Requests at a rate whatever comes back: status -> count, seconds of the accepted, 429s without Retry-After."""
    body, statuses, took, bare = body_of(ITEMS["a short pair"]), Counter[int](), list[float](), 0
    head = f"POST /v1/moderations HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
    lines = Lines(url, head.encode() + b"\r\n\r\n" + body)

    async def one(due: float) -> None:
        nonlocal bare
        status, wait = await lines.ask()
        statuses[status] += 1
        if status == 200:
            took.append(time.perf_counter() - due)
        bare += status == 429 and not (wait or "").isdecimal()

    async with asyncio.TaskGroup() as group:
        began = time.perf_counter()
        for number in range(int(rate * seconds)):
            due = began + number / rate
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            group.create_task(one(due))
    return statuses, took, bare


def saturation(seconds: float) -> None:
    """The table of offered load."""
    print(f"\nsaturation: capacity {CAPACITY:.0f} texts/s, wait at most {WAIT_S} s expected, {seconds:.0f} s each")
    print(
        f"{'offered':>8s} {'accepted':>9s} {'429':>6s} {'other':>6s} {'p50 ms':>7s} {'p99 ms':>7s} {'accepted/s':>11s}"
    )
    with server("slow") as url:
        for factor in (0.5, 2.0, 4.0):
            began = time.perf_counter()
            statuses, took, bare = asyncio.run(load(url, factor * CAPACITY, seconds))
            each = len(took) / (time.perf_counter() - began)
            other = sum(statuses.values()) - statuses[200] - statuses[429]
            print(
                f"{factor:7.1f}x {statuses[200]:9d} {statuses[429]:6d} {other:6d} {1000 * median(took):7.0f} "
                f"{1000 * p99(took):7.0f} {each:11.0f}" + (f"  {bare} without Retry-After" if bare else "")
            )


def median(values: Sequence[float]) -> float:
    """Of at least one value."""
    return statistics.median(values)


def p99(values: Sequence[float]) -> float:
    """The value that 99 % of them do not exceed."""
    return sorted(values)[min(len(values) - 1, int(0.99 * len(values)))]


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--guard", metavar="DIR", help="also a trained guard")
    parser.add_argument("--rounds", type=int, default=1000, help="calls of each row of the first table, from 10")
    parser.add_argument("--seconds", type=float, default=8.0, help="of each row of the second table")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(args.child)
        return
    if args.rounds < 10 or args.seconds <= 0:
        raise PoiseError("at least 10 rounds and some seconds", where="benchmarks/moderation_api.py")
    print(f"{os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f}")
    overhead("at-once", args.rounds)
    if args.guard:
        overhead(args.guard, max(10, args.rounds // 5))
    saturation(args.seconds)


if __name__ == "__main__":
    try:
        main()
    except PoiseError as error:
        sys.exit(str(error))
