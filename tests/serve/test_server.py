"""The server around the APIs: ready or not, what it counts and logs, who may bind where, the command itself."""

from __future__ import annotations

import importlib.util
import io
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from scripted import ScriptedGuard, safe, serving

from poise.cli.main import main
from poise.errors import PoiseError
from poise.guard.fast.opening import open_guard
from poise.guard.fit.calibration import Calibration
from poise.guard.fit.model import GuardModel
from poise.guard.verdict import Verdict, unjudged
from poise.serve.app import Service
from poise.serve.limits import Limits
from poise.serve.run import check_access, check_guard, listen
from poise.serve.telemetry import start_logging


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    """What the server logs meanwhile."""
    stream = io.StringIO()
    loggers = [logging.getLogger(name) for name in ("poise.serve", "uvicorn", "uvicorn.error", "uvicorn.access")]
    kept = [(logger.handlers, logger.propagate, logger.level, logger.disabled) for logger in loggers]
    start_logging(stream, level="debug")
    yield stream
    for logger, (handlers, propagate, level, disabled) in zip(loggers, kept, strict=True):
        logger.handlers, logger.propagate, logger.disabled = handlers, propagate, disabled
        logger.setLevel(level)


def test_readiness_is_a_verdict_on_the_canary(start: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("poise.serve.app._READY_KEPT_S", 0.0)
    guard, client = start()
    assert client.get("/ready").json() == {"status": "ready", "guard": "scripted", "guard_version": "v1"}
    guard.broken = True
    assert client.get("/ready").status_code == 503 and client.get("/health").status_code == 200
    guard.broken = False
    assert client.get("/ready").status_code == 200


def test_an_unjudged_canary_is_not_ready(start: Any) -> None:
    class Lost(ScriptedGuard):
        def judge(self, items: Any) -> list[Verdict]:
            return [unjudged("no score")] * len(items)

    _, client = start(Lost())
    answer = client.get("/ready")
    assert answer.status_code == 503 and answer.json()["error"]["code"] == "guard_unavailable"


def test_readiness_is_asked_at_most_every_two_seconds(start: Any) -> None:
    class Counting(ScriptedGuard):
        asked = 0

        def judge(self, items: Any) -> list[Verdict]:
            self.asked += 1
            return [safe()] * len(items)

    guard, client = start(Counting())
    for _ in range(5):
        client.get("/ready")
    assert guard.asked <= 2


def test_a_full_queue_is_429_in_every_api(start: Any) -> None:
    guard, client = start(limits=Limits(items=1, queue_items=1))
    guard.held.clear()
    kept = [
        threading.Thread(target=client.post, args=("/v1/moderations",), kwargs={"json": {"input": word}})
        for word in ("runs", "waits")
    ]
    try:
        kept[0].start()
        while not guard.seen:
            time.sleep(0.005)
        kept[1].start()
        while "poise_queue_items 1.0" not in client.get("/metrics").text:
            time.sleep(0.005)
        bodies = {
            "/v1/moderations": {"input": "x"},
            "/contentsafety/text:analyze?api-version=2024-09-01": {"text": "x"},
            "/predict": {"inputs": "x"},
            "/v1alpha1/comments:analyze": {"comment": {"text": "x"}, "requestedAttributes": {"INSULT": {}}},
        }
        told = {path: client.post(path, json=body) for path, body in bodies.items()}
    finally:
        guard.held.set()
        for thread in kept:
            thread.join()
    openai, azure, tei, google = (answer.json() for answer in told.values())
    assert {(answer.status_code, answer.headers["retry-after"]) for answer in told.values()} == {(429, "1")}
    assert openai["error"]["code"] == "queue_full" and azure["error"]["code"] == "TooManyRequests"
    assert tei["error_type"] == "Overloaded" and google["error"]["status"] == "RESOURCE_EXHAUSTED"
    assert [item[0] for item in guard.seen] == ["runs", "waits"]


def test_metrics_count_and_hold_no_text(start: Any) -> None:
    _, client = start()
    client.post("/v1/moderations", json={"input": ["a-secret", "bad Drugs a-secret", "odd a-secret"]})
    client.post("/v1/moderations", json={"input": 5})
    client.post("/a-secret", json={})
    client.post("/classify", json={"input": "boom a-secret"})
    page = client.get("/metrics").text
    for line in (
        'poise_requests_total{api="openai",status="200"} 1.0',
        'poise_requests_total{api="openai",status="400"} 1.0',
        'poise_requests_total{api="other",status="404"} 1.0',
        'poise_requests_total{api="vllm",status="503"} 1.0',
        'poise_verdicts_total{api="openai",verdict="safe"} 1.0',
        'poise_verdicts_total{api="openai",verdict="unsafe"} 1.0',
        'poise_verdicts_total{api="openai",verdict="unjudged"} 1.0',
        'poise_unsafe_total{severity="severe"} 1.0',
        "poise_guard_failures_total 1.0",
        "poise_queue_items 0.0",
        'poise_batch_items_bucket{le="4.0"} 2.0',
    ):
        assert line in page, line
    assert "secret" not in page


def test_the_log_is_json_without_texts_or_keys(lines: io.StringIO) -> None:
    import httpx

    guard = ScriptedGuard()
    with serving(Service(guard).app) as url:
        body = {"input": ["a-secret", "bad Drugs"]}
        httpx.post(f"{url}/v1/moderations?key=a-secret", json=body, headers={"x-request-id": "mine"})
        httpx.post(
            f"{url}/v1/moderations", json={"input": "boom a-secret"}, headers={"authorization": "Bearer a-secret"}
        )
        httpx.get(f"{url}/a-secret")
    told = [json.loads(line) for line in lines.getvalue().splitlines()]
    requests = [line for line in told if line["event"] == "request"]
    first = requests[0]
    assert first["request_id"] == "mine" and (first["api"], first["status"], first["items"]) == ("openai", 200, 2)
    assert first["characters"] == 17 and first["verdicts"] == {"safe": 1, "unsafe": 1} and first["ms"] > 0
    assert (requests[1]["status"], requests[1]["fault"]) == (503, "guard_unavailable")
    assert [line["error"] for line in told if line["event"] == "guard failed"] == ["ValueError"]
    assert "secret" not in lines.getvalue()


def test_a_bug_is_500_and_tells_its_place_alone(lines: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    import httpx

    def wrong(*_: Any) -> None:
        raise RuntimeError("a-secret")

    monkeypatch.setattr("poise.serve.endpoint.check_items", wrong)
    with serving(Service(ScriptedGuard()).app) as url:
        answer = httpx.post(f"{url}/contentsafety/text:analyze?api-version=2024-09-01", json={"text": "x"})
    assert answer.status_code == 500 and answer.json()["error"]["code"] == "InternalError"
    (bug,) = [line for line in map(json.loads, lines.getvalue().splitlines()) if line["event"] == "bug"]
    assert bug["error"] == "RuntimeError" and bug["at"].startswith("test_server.py:")
    assert "secret" not in lines.getvalue() + answer.text


def test_without_keys_it_binds_to_this_machine_only() -> None:
    for host in ("127.0.0.1", "localhost", "::1", "127.8.8.8"):
        check_access(host, None, no_auth=False)
    for host in ("0.0.0.0", "::", "192.168.1.5", "example.com"):
        with pytest.raises(PoiseError, match="no key is asked for"):
            check_access(host, None, no_auth=False)
        check_access(host, None, no_auth=True)
        check_access(host, Path("keys.json"), no_auth=False)
    with pytest.raises(PoiseError, match="contradict"):
        check_access("::1", Path("keys.json"), no_auth=True)


def test_what_can_not_be_served_is_said_before(tmp_path: Path) -> None:
    with pytest.raises(PoiseError, match="holds no guard"):
        open_guard(tmp_path)
    guard = ScriptedGuard()
    check_guard(guard)
    guard.broken = True
    with pytest.raises(PoiseError, match="fails on a harmless pair"):
        check_guard(guard)
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(PoiseError, match="can't listen"):
        listen("127.0.0.1", taken.getsockname()[1])
    for wrong in ({"items": 0}, {"items": 600}, {"wait_s": -1.0}, {"text_characters": 10**9}):
        with pytest.raises(PoiseError, match=next(iter(wrong))):
            Limits(**wrong)  # type: ignore[arg-type]


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "uvicorn" else find(name))
    assert main(["guard", "serve", "nowhere"]) == 3
    assert "uvicorn is not installed (pip install -e '.[serve]')" in capsys.readouterr().err


def test_a_queue_shorter_than_a_request_is_said_by_its_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["guard", "serve", "starter", "--max-queue", "100"]) == 2
    told = capsys.readouterr().err
    assert "--max-items 256 is above --max-queue 100" in told and "raise --max-queue" in told


@pytest.fixture
def folder(tmp_path: Path, tiny_encoder: Path) -> Path:
    """A trained guard's folder with random weights."""
    calibration = Calibration(((1.0, 0.0),) * 19, (1.0, (0.0, 0.0, 0.0)), (1.0, 0.0))
    thresholds = {"unsafe": 0.5, "categories": [0.5] * 19}
    told = {"calibration": calibration.to_json(), "thresholds": thresholds, "plan": {"name": "tiny"}}
    (tmp_path / "guard").mkdir()
    GuardModel(tiny_encoder, max_length=48).save(tmp_path / "guard", told | {"encoder": str(tiny_encoder)})
    return tmp_path / "guard"


def test_the_command_serves_a_folder_and_stops_when_told(folder: Path) -> None:
    import httpx

    words = [sys.executable, "-m", "poise", "guard", "serve", str(folder), "--port", "0"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ) as child:
        assert child.stdout is not None and child.stderr is not None
        try:
            url = child.stdout.readline().split()[-1]
            answer = httpx.post(f"{url}/v1/moderations", json={"input": "hello"}, timeout=30).json()
            assert httpx.get(f"{url}/ready").json()["guard_version"] == answer["guard_version"]
            result = answer["results"][0]
            assert len(result["harm_category_scores"]) == 19 and result["unjudged"] is None
        finally:
            child.send_signal(signal.SIGTERM)
        logged = child.stderr.read()
        child.wait(15)
    assert all(json.loads(line) for line in logged.splitlines()), logged
    assert child.returncode in (-signal.SIGTERM, 143, 0)
