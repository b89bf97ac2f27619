"""A client of one OpenAI-compatible server: vLLM, SGLang, llama.cpp, Ollama or a hosted one, streaming or not.

    client = HttpClient("lab", "http://127.0.0.1:8000/v1", key=Key.from_env("LAB_KEY"))

One request is one send: nothing is tried again here, that is the runner's business. Every send ends within `timeout_s`
and a bounded number of bytes, whatever the server does. Left out: proxies, tools, images, several choices a request.
"""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import suppress
from pathlib import Path

import aiohttp
from yarl import URL

from poise.llm.exchange import ChatRequest, EndpointError, Reply, Shape
from poise.llm.http_faults import Asked, error_in, fault_of
from poise.llm.http_line import HttpLine, checked_address
from poise.llm.keys import Key
from poise.llm.sse import EventParser
from poise.llm.wire import Answer, Prefill, load_json, request_body

_DRAIN_S = 0.5


class HttpClient:
    """One lane: an address with one key.

    Args:
        alias: what logs and the store call it.
        base_url: up to and without /chat/completions, for example "https://api.openai.com/v1".
        key: sent as a bearer token.
        timeout_s: wall clock for a whole request, streamed or not.
        stream: ask for server-sent events.
        prefill: how the server is told to continue an answer, None when it can't.
        tokens_name: "max_completion_tokens" for servers that refuse `max_tokens`.
        verify: False takes any certificate; a path names the certificates to trust.

    Raises:
        PoiseError: an address that is none or carries credentials, or no certificates at that path.
    """

    def __init__(
        self,
        alias: str,
        base_url: str,
        *,
        key: Key | None = None,
        timeout_s: float = 300.0,
        stream: bool = False,
        prefill: Prefill | None = None,
        tokens_name: str = "max_tokens",
        verify: bool | Path = True,
    ) -> None:
        self.alias = alias
        base = checked_address(base_url, alias)
        self._urls, self._key = (URL(f"{base}/chat/completions"), URL(f"{base}/completions")), key
        self._stream, self._prefill, self._tokens_name = stream, prefill, tokens_name
        self._line = HttpLine(key, timeout_s, verify=verify)

    def __repr__(self) -> str:
        return f"HttpClient({self.alias!r})"

    async def send(self, request: ChatRequest, shape: Shape = "text") -> Reply:
        """One exchange.

        Raises:
            EndpointError: there is no reply; of the kinds that `exchange.FaultKind` lists.
        """
        body = request_body(request, shape, prefill=self._prefill, tokens_name=self._tokens_name)
        if self._stream:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        try:
            data = json.dumps(body, ensure_ascii=False).encode()
        except UnicodeEncodeError:  # lone surrogates
            data = json.dumps(body).encode()
        return await self._line.reply(self._exchange(request, shape, data))

    async def close(self) -> None:
        """Give connections back; a later `send` opens new ones."""
        await self._line.close()

    async def _exchange(self, request: ChatRequest, shape: Shape, data: bytes) -> Reply | EndpointError:
        started = time.perf_counter()
        asked, answer = Asked(request, shape, self._key), Answer(chat=not request.complete)
        # the request's hash: OpenAI logs it, and the fake server tells samples of one request apart by it
        headers = {"X-Client-Request-Id": request.identity}
        url = self._urls[request.complete]
        async with self._line.session().post(url, data=data, headers=headers, allow_redirects=False) as response:
            streams = response.status == 200 and response.content_type == "text/event-stream"
            fault = await (_read_stream if streams else _read_whole)(response, answer, asked)
        if fault is not None:
            return fault
        reply = answer.reply(shape, time.perf_counter() - started)
        return reply or EndpointError(
            "server", "an answer of another shape than OpenAI's, or without an end", status=200
        )


async def _read_whole(response: aiohttp.ClientResponse, answer: Answer, asked: Asked) -> EndpointError | None:
    parts, left = [], _most_bytes(asked.request)
    async for part in response.content.iter_any():
        parts.append(part)
        left -= len(part)
        if left < 0:
            return _endless()
    raw = b"".join(parts)
    if response.status != 200:
        return fault_of(response.status, response.headers, raw, asked)
    told = load_json(raw)
    if error_in(told) is not None:
        return fault_of(200, response.headers, raw, asked)
    if not isinstance(told, dict) or not answer.add(told):
        return EndpointError("server", _no_answer(raw), status=200)
    return None


async def _read_stream(response: aiohttp.ClientResponse, answer: Answer, asked: Asked) -> EndpointError | None:
    events, left, done = EventParser(), _most_bytes(asked.request), False
    async for part in response.content.iter_any():
        left -= len(part)
        if left < 0:
            return _endless()
        for data in events.feed(part):
            if data == "[DONE]":
                done = True
                break
            told = load_json(data)
            if error_in(told) is not None:
                return fault_of(200, response.headers, data.encode(), asked)
            if not isinstance(told, dict) or not answer.add(told):
                return EndpointError("server", "a stream with an event that is no answer", status=200)
        if done:
            break
    if not answer.finished:
        return EndpointError("server", "half a stream: it ended without a finish_reason", status=200)
    with suppress(TimeoutError, aiohttp.ClientError):  # the end of the body, so that the connection can be used again
        async with asyncio.timeout(_DRAIN_S):
            while not response.content.at_eof() and left > 0:
                left -= len(await response.content.readany())
    return None


def _endless() -> EndpointError:
    return EndpointError("timeout", "the answer does not end: far more bytes than max_tokens allows")


def _most_bytes(request: ChatRequest) -> int:
    """More than any honest answer takes: a chunk of about 1 kB for each token, and its logprobs."""
    return 65536 + request.max_tokens * (1024 + 160 * request.logprobs)


def _no_answer(raw: bytes) -> str:
    start = raw[:500].lstrip().lower()
    if not start:
        return "an empty answer"
    if start.startswith(b"<"):
        return "a page for people (HTML) in place of JSON; base_url ends in /v1 at most servers"
    return "an answer that is no JSON"
