"""The request runner against the fake server: speed, memory, `kill -9` under faults, a storm of 429.

    python benchmarks/runner.py speed                        # 200,000 requests; beside the OpenAI SDK and litellm
    python benchmarks/runner.py kill                         # 20 times kill -9 under faults
    python benchmarks/runner.py storm                        # 429 with and without Retry-After

The server is a process of its own and answers after 1 ms; server and client share the machine's cores. Ours writes each
reply into SQLite before it takes the next request. The peers keep nothing: a plain asyncio loop over the OpenAI SDK,
and over litellm, 64 at a time. A peer that is not installed is left out.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CONCURRENCY = 64
FAULTS = {
    "share": {
        "500": 0.02,
        "503": 0.002,
        "429": 0.005,
        "429-bare": 0.0005,
        "drop": 0.02,
        "half-body": 0.01,
        "broken-body": 0.01,
        "html": 0.005,
        "refusal": 0.02,
        "length": 0.02,
    },
    "retry_after_s": 0.05,
}


def asked(number: int) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"Question {number}: which way does the river run from here?"}]


def requests(count: int) -> Iterator[Any]:
    from poise.llm.exchange import ChatRequest

    for number in range(count):
        yield ChatRequest("fake", tuple((m["role"], m["content"]) for m in asked(number)), max_tokens=64, seed=number)


@contextmanager
def server(*options: str) -> Iterator[str]:
    command = [sys.executable, "-m", "poise.llm.fake", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


def resident_mb() -> float:
    fields = Path("/proc/self/statm").read_text().split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def ours(url: str, count: int, store: Path) -> dict[str, Any]:
    from poise.llm.http_client import HttpClient
    from poise.llm.limits import Lane, Limits
    from poise.llm.runner import Runner
    from poise.llm.store import ReplyStore

    start = time.perf_counter()
    memory: list[float] = []
    ended = 0

    def on_end(*_: object) -> None:
        nonlocal ended
        ended += 1
        if ended % max(1, count // 10) == 0:
            memory.append(round(resident_mb(), 1))

    with ReplyStore(store) as opened:
        lanes = [Lane(HttpClient("fake", url, timeout_s=5), Limits(CONCURRENCY))]
        counts = Runner(opened, lanes, attempts=30).run(requests(count), on_end)
    return {"seconds": time.perf_counter() - start, "counts": dict(counts), "memory_mb": memory}


async def _loop(count: int, send: Any) -> None:
    waiting = iter(range(count))

    async def worker() -> None:
        for number in waiting:
            await send(number)

    await asyncio.gather(*(worker() for _ in range(CONCURRENCY)))


def with_sdk(url: str, count: int, _: Path) -> dict[str, Any]:
    from openai import AsyncOpenAI

    start = time.perf_counter()

    async def run() -> None:
        async with AsyncOpenAI(base_url=url, api_key="none", max_retries=5) as client:
            await _loop(
                count,
                lambda n: client.chat.completions.create(model="fake", messages=asked(n), max_tokens=64, seed=n),  # type: ignore[arg-type]
            )

    asyncio.run(run())
    return {"seconds": time.perf_counter() - start, "memory_mb": [round(resident_mb(), 1)]}


def with_litellm(url: str, count: int, _: Path) -> dict[str, Any]:
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # no network at import
    import litellm

    start = time.perf_counter()
    litellm.suppress_debug_info = True

    async def send(number: int) -> None:
        await litellm.acompletion(
            "openai/fake", asked(number), api_base=url, api_key="none", max_tokens=64, seed=number, num_retries=5
        )

    asyncio.run(_loop(count, send))
    return {"seconds": time.perf_counter() - start, "memory_mb": [round(resident_mb(), 1)]}


JOBS = {"ours": ours, "sdk": with_sdk, "litellm": with_litellm}


def alone(job: str, url: str, count: int, store: Path) -> subprocess.Popen[str]:
    command = [sys.executable, __file__, "job", "--job", job, "--url", url, "--requests", str(count)]
    return subprocess.Popen([*command, "--store", str(store)], stdout=subprocess.PIPE, text=True)


def result_of(process: subprocess.Popen[str]) -> dict[str, Any] | None:
    out, _ = process.communicate()
    return json.loads(out.splitlines()[-1]) if process.returncode == 0 else None


def speed(arguments: argparse.Namespace, folder: Path) -> None:
    rates: dict[str, list[float]] = {}
    for round_ in range(arguments.repeat):
        for job in JOBS:
            count = arguments.requests if job == "ours" else min(arguments.requests, arguments.peer_requests)
            with server("--latency-ms", "1") as url:
                found = result_of(alone(job, url, count, folder / f"{round_}.sqlite"))
            if found is None:
                print(f"{job:8s} left out: not installed, or it failed")
                continue
            rates.setdefault(job, []).append(count / found["seconds"])
            memory = ", ".join(f"{mb:g}" for mb in found["memory_mb"])
            print(f"{job:8s} {count:,} requests, {count / found['seconds']:,.0f} a second; resident MB: {memory}")
    middle = {job: sorted(rate)[len(rate) // 2] for job, rate in rates.items()}
    for job, rate in middle.items():
        if job != "ours":
            print(f"ours / {job}: {middle['ours'] / rate:.2f} x the requests a second")


def kill(arguments: argparse.Namespace, folder: Path) -> None:
    """What was stored at a kill must never be sent again; everything must end stored, once."""
    from poise.llm.fake.answers import body_hash
    from poise.llm.wire import request_body

    count, log, store = arguments.requests, folder / "log.jsonl", folder / "replies.sqlite"
    (folder / "faults.json").write_text(json.dumps(FAULTS))
    hashes = {r.identity: body_hash(request_body(r)).hex() for r in requests(count)}
    stored_at: list[tuple[float, set[str]]] = []
    chance = random.Random(arguments.seed)
    with server("--latency-ms", "5", "--faults", str(folder / "faults.json"), "--log", str(log)) as url:
        while len(stored_at) < arguments.kills:
            process = alone("ours", url, count, store)
            try:
                process.communicate(timeout=1.0 + 2.0 * chance.random())
                raise SystemExit("finished before it was killed often enough: give more --requests")
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.communicate()
            killed = time.time()
            time.sleep(0.2)  # what is in flight reaches the server's log
            stored_at.append((killed, {hashes[identity] for identity in stored(store)}))
        last = result_of(alone("ours", url, count, store))
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    states = Counter(stored(store).values())
    again = sum(
        line["request"] in before
        for (killed, before), (until, _) in zip(stored_at, [*stored_at[1:], (float("inf"), set())], strict=True)
        for line in lines
        if killed + 0.2 < line["time"] <= until
    )
    ends = {"ok", "refusal", "length"}
    answered = Counter(line["request"] for line in lines if line["answer"] in ends)
    twice = sum(n - 1 for n in answered.values())
    print(f"{len(stored_at)} kills; {count:,} requests, {len(lines):,} sends; stored: {dict(states)}")
    print(f"not stored: {count - states.total()}; sent again although stored: {again}")
    print(f"answered twice: {twice}, at most {len(stored_at)} x {CONCURRENCY} were in flight at the kills")
    ok = last is not None and states.total() == count == len(stored(store)) and again == 0
    ok = ok and twice <= len(stored_at) * CONCURRENCY and not set(states) - {"done", "refused", "truncated"}
    print("holds" if ok else "DOES NOT HOLD")
    if not ok:
        raise SystemExit(1)


def stored(path: Path) -> dict[str, str]:
    if not path.exists():
        return {}
    db = sqlite3.connect(path)
    try:
        return dict(db.execute("select identity, state from exchanges"))
    except sqlite3.OperationalError:  # killed before the table was made
        return {}
    finally:
        db.close()


def storm(arguments: argparse.Namespace, folder: Path) -> None:
    per_window, window = arguments.per_window, arguments.window_s
    count = arguments.requests
    for hint in (True, False):
        log = folder / f"storm-{hint}.jsonl"
        options = ["--requests-per-window", str(per_window), "--window-s", str(window), "--log", str(log)]
        with server(*options, *([] if hint else ["--no-retry-after"])) as url:
            found = result_of(alone("ours", url, count, folder / f"storm-{hint}.sqlite"))
        assert found is not None
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        refused = [line["time"] for line in lines if line["answer"] == "limit"]
        fine = [line["time"] for line in lines if line["answer"] == "ok"]
        later = sum(at > refused[0] + 0.1 for at in refused) if refused else 0
        paced = [at for at in fine if at > fine[0] + window]  # the first window's worth comes at once, then it pauses
        share = len(paced) / (paced[-1] - fine[0] - window) / (per_window / window)
        told = "with Retry-After" if hint else "without Retry-After"
        print(
            f"{told}: {per_window} in {window:g} s allowed; {len(refused) - later} refused in the first burst, {later} "
            f"later, of {len(lines):,}; then {100 * share:.0f} % of the allowed rate"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("speed", "kill", "storm", "job"))
    parser.add_argument("--requests", type=int, help="default: speed 200000, kill 40000, storm 4000")
    parser.add_argument("--peer-requests", type=int, default=5000, help="of each peer")
    parser.add_argument("--repeat", type=int, default=1, help="runs of each job, alternating; medians are compared")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the times at which it is killed")
    parser.add_argument("--per-window", type=int, default=600, help="requests that the storm's server allows")
    parser.add_argument("--window-s", type=float, default=10.0)
    for hidden in ("--job", "--url", "--store"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.what == "job":
        print(json.dumps(JOBS[arguments.job](arguments.url, arguments.requests, Path(arguments.store))))
        return
    arguments.requests = arguments.requests or {"speed": 200_000, "kill": 40_000, "storm": 4_000}[arguments.what]
    with tempfile.TemporaryDirectory(prefix="poise-bench-") as folder:
        {"speed": speed, "kill": kill, "storm": storm}[arguments.what](arguments, Path(folder))


if __name__ == "__main__":
    main()
