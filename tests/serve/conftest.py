"""Servers for the tests of this room; they are skipped where the extra `serve` is not installed."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # scripted

httpx = pytest.importorskip("httpx", reason="the extra `dev` is not installed")
for needed in ("starlette", "uvicorn", "prometheus_client"):
    pytest.importorskip(needed, reason="the extra `serve` is not installed")

from scripted import ScriptedGuard, serving  # noqa: E402

from poise.serve.app import Service  # noqa: E402

Start = Callable[..., tuple[ScriptedGuard, Any]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts a service with the given settings; returns its guard and a client."""
    with ExitStack() as stack:

        def begin(guard: Any = None, **settings: Any) -> tuple[Any, httpx.Client]:
            guard = guard or ScriptedGuard()
            url = stack.enter_context(serving(Service(guard, **settings).app))
            return guard, stack.enter_context(httpx.Client(base_url=url, timeout=20))

        yield begin


@pytest.fixture(scope="module")
def shared() -> Iterator[tuple[ScriptedGuard, Any]]:
    """One server without keys for tests that change nothing of it."""
    guard = ScriptedGuard()
    with serving(Service(guard).app) as url, httpx.Client(base_url=url, timeout=20) as client:
        yield guard, client


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    """Where a key file may be."""
    return tmp_path / "keys.json"
