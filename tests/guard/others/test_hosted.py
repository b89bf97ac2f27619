"""Hosted moderation against a small server that answers as OpenAI's and Azure's do, with their errors."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from poise.errors import PoiseError
from poise.guard.others import FAMILIES, EndpointGuard, client_of
from poise.guard.others.hosted import AZURE_LIMIT
from poise.guard.verdict import Verdict
from poise.harm import Category, Severity
from poise.llm.keys import Key
from poise.llm.limits import Lane, Limits
from poise.llm.store import ReplyStore

SECRET = "sk-test-0123456789-abcdef"


class Hosted:
    """Both routes; a text may ask for an error."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, dict[str, str], dict[str, Any]]] = []
        self.refuse = 0

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.seen.append((request.path_qs, dict(request.headers), body))
        text = body.get("input", body.get("text"))
        if SECRET not in (
            request.headers.get("Authorization", "") + request.headers.get("Ocp-Apim-Subscription-Key", "")
        ):
            return web.json_response({"error": {"code": "401", "message": f"bad key {SECRET}"}}, status=401)
        if self.refuse:
            self.refuse -= 1
            return web.json_response({"error": {"message": "slow"}}, status=429, headers={"Retry-After": "0"})
        if "hang" in text:
            await asyncio.sleep(5)
        if "page" in text:
            return web.Response(text="<html>gateway</html>", content_type="text/html")
        if "broken" in text:
            error = {"code": "InvalidRequestBody", "message": "no good", "target": "", "details": []}
            return web.json_response({"error": error}, status=400, headers={"x-ms-error-code": "InvalidRequestBody"})
        bad = "bad" in text
        if request.path.endswith("/moderations"):
            flags = {name: bad and name == "violence" for name in ("harassment", "hate", "violence", "sexual")}
            scores = {name: 0.875 if flag else 0.125 for name, flag in flags.items()}
            result = {"flagged": bad, "categories": flags, "category_scores": scores}
            return web.json_response({"id": "modr-1", "model": "omni-moderation-2024-09-26", "results": [result]})
        levels = [{"category": name, "severity": 6 if bad and name == "Violence" else 0} for name in body["categories"]]
        return web.json_response({"blocklistsMatch": [], "categoriesAnalysis": levels})


@contextmanager
def running(hosted: Hosted) -> Iterator[str]:
    """The server in a loop of its own, as `judge` runs one of its own."""
    loop, ready, address = asyncio.new_event_loop(), threading.Event(), []

    async def start() -> web.AppRunner:
        app = web.Application()
        app.router.add_post("/{tail:.*}", hosted.handle)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        address.append(runner.addresses[0][1])
        ready.set()
        return runner

    runner = None

    def serve() -> None:
        nonlocal runner
        asyncio.set_event_loop(loop)
        runner = loop.run_until_complete(start())
        loop.run_forever()
        loop.run_until_complete(runner.cleanup())
        loop.close()

    thread = threading.Thread(target=serve)
    thread.start()
    assert ready.wait(10)
    try:
        yield f"http://127.0.0.1:{address[0]}"
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)


@pytest.fixture
def server() -> Iterator[tuple[Hosted, str]]:
    hosted = Hosted()
    with running(hosted) as url:
        yield hosted, url


def judge(
    name: str, url: str, path: Path, *texts: str, secret: str = SECRET, timeout_s: float = 10.0
) -> tuple[list[Verdict], ReplyStore]:
    make = client_of(FAMILIES[name])
    assert make is not None
    client = make("lane", url + ("/v1" if name.startswith("openai") else ""), Key(secret, "test"), timeout_s)
    with ReplyStore(path / "replies") as store:
        one = EndpointGuard(FAMILIES[name], "omni-moderation-latest", [Lane(client, Limits(4))], store)
        return one.judge([("The prompt.", text) for text in texts]), store


def test_openai(server: tuple[Hosted, str], tmp_path: Path) -> None:
    hosted, url = server
    (bad, fine), _ = judge("openai-moderation", url, tmp_path, "a bad one", "fine")
    assert bad.unsafe and bad.named == ("violence",) and bad.probability == 0.875
    assert fine.unsafe is False and fine.probability == 0.125
    assert bad.categories == {Category.S6}
    path, headers, body = next(s for s in hosted.seen if "bad" in s[2]["input"])
    assert path == "/v1/moderations" and headers["Authorization"] == f"Bearer {SECRET}"
    assert body == {"model": "omni-moderation-latest", "input": "a bad one"}  # the response alone, as a text
    sends = len(hosted.seen)
    again, _ = judge("openai-moderation", url, tmp_path, "a bad one", "fine")
    assert again == [bad, fine] and len(hosted.seen) == sends


def test_azure(server: tuple[Hosted, str], tmp_path: Path) -> None:
    hosted, url = server
    late = "x" * AZURE_LIMIT + " and at the end a bad one"
    (bad, fine, long), _ = judge("azure-text", url, tmp_path, "a bad one", "fine", late)
    assert bad.unsafe and bad.severity == Severity.SEVERE and bad.named == ("Violence",) and bad.level == "6"
    assert fine.unsafe is False and fine.severity == Severity.NONE
    assert long.unsafe and len(long.raw) == 2  # the tail is looked at
    path, headers, body = hosted.seen[0]
    assert path == "/contentsafety/text:analyze?api-version=2024-09-01"
    assert headers["Ocp-Apim-Subscription-Key"] == SECRET and "Authorization" not in headers
    assert body["outputType"] == "EightSeverityLevels" and body["categories"] == [
        "Hate",
        "SelfHarm",
        "Sexual",
        "Violence",
    ]
    assert all(len(seen["text"]) <= AZURE_LIMIT for _, _, seen in hosted.seen)


@pytest.mark.parametrize("name", ["openai-moderation", "azure-text"])
def test_errors_are_unjudged_or_end_the_run(name: str, server: tuple[Hosted, str], tmp_path: Path) -> None:
    hosted, url = server
    hosted.refuse = 2  # 429 is waited for
    (fine, broken), _ = judge(name, url, tmp_path, "fine", "broken")
    assert fine.unsafe is False and (broken.unsafe, broken.reason) == (None, "dead: request")
    with pytest.raises(PoiseError, match="the key is refused") as refused:
        judge(name, url, tmp_path, "other", secret="sk-wrong-key-0123")
    assert SECRET not in str(refused.value) and "sk-wrong" not in str(refused.value)


def test_the_client_names_timeouts_pages_and_lines_that_are_closed() -> None:
    from poise.llm.exchange import ChatRequest, EndpointError

    make = client_of(FAMILIES["openai-moderation"])
    assert make is not None

    def fault(url: str, text: str) -> str:
        async def send() -> str:
            client = make("lane", url, Key(SECRET, "test"), 0.3)
            try:
                await client.send(ChatRequest("m", (("input", text),)))
            except EndpointError as error:
                assert SECRET not in repr(error) + repr(client)
                return error.kind
            finally:
                await client.close()
            return "none"

        return asyncio.run(send())

    with running(Hosted()) as url:
        assert fault(url, "hang") == "timeout"
        assert fault(url, "page") == "server"
        assert fault(url, "fine") == "none"
    assert fault("http://127.0.0.1:9", "fine") == "connection"
    with pytest.raises(PoiseError, match="no address"):
        make("lane", "ftp://x", None, 1.0)


def test_a_reply_is_kept_as_it_came(server: tuple[Hosted, str], tmp_path: Path) -> None:
    _, url = server
    (verdict,), _ = judge("openai-moderation", url, tmp_path, "fine")
    assert json.loads(verdict.raw[0])["id"] == "modr-1"
