"""A guard whose verdicts the texts choose, and a real server around any guard."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from poise.guard.verdict import Item, Verdict, judged, unjudged
from poise.harm import CATEGORIES, PKU, Severity


def unsafe(*names: str, severity: Severity = Severity.SEVERE, **told: Any) -> Verdict:
    """Unsafe with these of our categories, each at 0.9, the others at 0.01."""
    shares = [0.01] * 4
    shares[severity] = 0.97
    told = {
        "probability": 0.95,
        "severity_probabilities": tuple(shares),
        "category_probabilities": tuple(0.9 if c.value in names else 0.01 for c in CATEGORIES),
    } | told
    return judged(True, taxonomy=PKU, named=names, severities=(severity,), **told)


def safe(**told: Any) -> Verdict:
    """Safe, everything at 0.01."""
    told = {
        "probability": 0.02,
        "severity_probabilities": (0.98, 0.01, 0.005, 0.005),
        "category_probabilities": (0.01,) * 19,
    } | told
    return judged(False, taxonomy=PKU, **told)


class ScriptedGuard:
    """Answers by words in the text that is judged; keeps what it was given.

    "bad NAME" is unsafe with that category, "odd" is unjudged, "boom" raises, "slow" takes 0.3 s.
    """

    name, version = "scripted", "v1"

    def __init__(self) -> None:
        self.calls: list[list[Item]] = []
        self.delay = 0.0
        self.held = threading.Event()
        self.held.set()
        self.broken = False

    def judge(self, items: Sequence[Item]) -> list[Verdict]:
        if len(items) > 1 or items[0][0] != "How do I boil an egg?":
            self.calls.append(list(items))
        self.held.wait(20)
        time.sleep(self.delay)
        if self.broken:
            raise RuntimeError("a secret text")
        return [self._one(response or prompt) for prompt, response in items]

    def _one(self, text: str) -> Verdict:
        if "boom" in text:
            raise ValueError(f"can't read {text}")
        if "slow" in text:
            time.sleep(0.3)
        if "odd" in text:
            return unjudged("unparsable")
        for category in CATEGORIES:
            if f"bad {category.value}" in text:
                return unsafe(category.value)
        return safe()

    @property
    def seen(self) -> list[Item]:
        return [item for call in self.calls for item in call]


@contextmanager
def serving(app: Any) -> Iterator[str]:
    """The address of a server that ends with the block."""
    import uvicorn

    from poise.serve.run import listen

    sock = listen("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[sock])), daemon=True)
    thread.start()
    while not server.started and thread.is_alive():
        time.sleep(0.005)
    assert server.started
    try:
        yield f"http://127.0.0.1:{sock.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)
        sock.close()
