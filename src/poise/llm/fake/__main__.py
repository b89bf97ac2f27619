"""The fake server as a process: `python -m poise.llm.fake --port 0 --seed 1 --faults FILE --log FILE`.

Prints its address as the first line, and serves until it is told to stop (Ctrl-C, SIGTERM).
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from pathlib import Path

from poise.errors import PoiseError
from poise.llm.fake.faults import KINDS, Faults
from poise.llm.fake.server import FakeServer, ServerLimits


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m poise.llm.fake",
        description="A fake OpenAI-compatible server on 127.0.0.1. Its first line of output is its address.",
        epilog="faults:\n" + "\n".join(f"  {kind:16}{means}" for kind, means in KINDS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--port", type=int, default=0, help="0 takes any free port")
    parser.add_argument("--seed", type=int, default=0, help="of answers and faults")
    parser.add_argument("--latency-ms", type=float, default=1.0, help="from a request to its answer")
    parser.add_argument("--faults", type=Path, help="JSON file with the schedule of faults")
    parser.add_argument("--log", type=Path, help="JSON lines, one a request")
    parser.add_argument("--requests-per-window", type=int, help="answer 429 beyond")
    parser.add_argument("--window-s", type=float, default=60.0, help="length of the window")
    parser.add_argument("--concurrent", type=int, help="answer 429 beyond")
    parser.add_argument("--no-retry-after", action="store_true", help="429 without a hint when to come back")
    return parser.parse_args()


async def _serve(arguments: argparse.Namespace) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    limits = ServerLimits(
        requests=arguments.requests_per_window,
        window_s=arguments.window_s,
        concurrent=arguments.concurrent,
        hint=not arguments.no_retry_after,
    )
    server = FakeServer(
        seed=arguments.seed,
        latency_s=arguments.latency_ms / 1000,
        faults=Faults.read(arguments.faults) if arguments.faults else None,
        limits=limits,
        log=arguments.log,
        port=arguments.port,
    )
    async with server:
        print(server.url, flush=True)
        await stop.wait()


if __name__ == "__main__":
    try:
        asyncio.run(_serve(_arguments()))
    except PoiseError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
