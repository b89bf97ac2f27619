"""The HTTP client against the fake server, and against canned answers in the words of real servers."""

from __future__ import annotations

import asyncio
import copy
import io
import json
import logging
import math
import pickle
import ssl
import subprocess
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from email.utils import formatdate
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from poise.errors import PoiseError
from poise.llm.exchange import ChatRequest, EndpointError, Reply
from poise.llm.fake import KINDS, FakeServer, Faults
from poise.llm.http_client import HttpClient
from poise.llm.http_faults import Asked, duration, fault_of, quotable, retry_after
from poise.llm.json_client import JsonClient
from poise.llm.keys import Key
from poise.llm.sse import EventParser
from poise.llm.wire import request_body

SECRET = "sk-test-0123456789-abcdef"
QUESTION = "Which of the seven harbours lies nearest to the lighthouse?"
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"], "additionalProperties": False}


def ask(text: str = QUESTION, **settings: Any) -> ChatRequest:
    return ChatRequest("m", (("user", text),), **settings)


def with_fake(work: Callable[[FakeServer], Awaitable[Any]], **settings: Any) -> Any:
    async def run() -> Any:
        async with FakeServer(**settings) as server, asyncio.timeout(20):
            return await work(server)

    return asyncio.run(run())


async def sent(base_url: str, request: ChatRequest, *, shape: Any = "text", **settings: Any) -> Reply | EndpointError:
    """The reply, or the fault as a value."""
    client = HttpClient("lane", base_url, **settings)
    try:
        return await client.send(request, shape)
    except EndpointError as error:
        return error
    finally:
        await client.close()


def send_to_fake(request: ChatRequest, *, server: Mapping[str, Any] = {}, **settings: Any) -> Any:
    return with_fake(lambda fake: sent(fake.url, request, **settings), **server)


@asynccontextmanager
async def canned(*answers: bytes, tls: ssl.SSLContext | None = None) -> AsyncIterator[tuple[str, list[bytes]]]:
    """A server that gives one raw answer after another, the last for ever, and hangs up; with the heads it was sent."""
    heads: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            heads.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(answers[min(len(heads), len(answers)) - 1])
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    scheme = "https" if tls else "http"
    try:
        yield f"{scheme}://localhost:{server.sockets[0].getsockname()[1]}/v1", heads
    finally:
        server.close()


def plain(status: int, body: bytes | str | Mapping[str, Any], *headers: str) -> bytes:
    """A whole HTTP answer."""
    data = body if isinstance(body, bytes) else (body if isinstance(body, str) else json.dumps(body)).encode()
    lines = [f"HTTP/1.1 {status} X", "Content-Type: application/json", f"Content-Length: {len(data)}", *headers]
    return "\r\n".join([*lines, "Connection: close", "", ""]).encode() + data


def stream(*events: str) -> bytes:
    """A stream that ends with the connection."""
    head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nConnection: close\r\n\r\n"
    return (head + "".join(f"data: {event}\n\n" for event in events)).encode()


def send_canned(answer: bytes, request: ChatRequest | None = None, **settings: Any) -> Any:
    async def run() -> Any:
        async with canned(answer) as (url, _), asyncio.timeout(20):
            return await sent(url, request or ask(), **settings)

    return asyncio.run(run())


def chunk(delta: Mapping[str, Any], finish: str | None = None) -> str:
    return json.dumps({"model": "served", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})


# Good answers


@pytest.mark.parametrize("complete", [False, True])
@pytest.mark.parametrize("logprobs", [0, 3])
def test_a_stream_gives_the_same_reply_as_a_whole_answer(complete: bool, logprobs: int) -> None:
    request = ask(complete=complete, logprobs=logprobs)
    whole, streamed = (send_to_fake(request, stream=stream) for stream in (False, True))
    assert isinstance(whole, Reply) and whole.text and whole.finish_reason == "stop" and whole.served_model == "m"
    assert whole.prompt_tokens == 15 and whole.completion_tokens and whole.latency_s > 0
    assert (whole.logprobs is not None) == bool(logprobs)
    if whole.logprobs is not None:
        assert "".join(token for token, _, _ in whole.logprobs) == whole.text
        assert all(len(others) == 3 and others[token] == own for token, own, others in whole.logprobs)
    same = {name: getattr(whole, name) for name in vars(whole) if name != "latency_s"}
    assert same == {name: getattr(streamed, name) for name in same}


def test_the_halves_of_a_character_are_joined() -> None:
    """An emoji is two UTF-16 halves; a stream may part them, and a server may lose one."""
    events = stream(chunk({"content": "a\ud83d"}), chunk({"content": "\ude00b\ud83d"}, "stop"), "[DONE]")
    assert send_canned(events, stream=True).text == "a\U0001f600b\ufffd"


def test_a_score_that_is_no_number_is_a_fault_and_a_token_of_no_probability_is_not() -> None:
    async def scores(text: str) -> Any:
        async with canned(plain(200, text)) as (url, _):
            client = JsonClient("scores", url, "/moderations", lambda request: {})
            try:
                return await client.send(ask())
            except EndpointError as error:
                return error
            finally:
                await client.close()

    fault = asyncio.run(scores('{"hate": NaN}'))
    assert isinstance(fault, EndpointError) and fault.kind == "server" and "number" in fault.reason
    assert asyncio.run(scores('{"hate": 0.5}')).text == '{"hate":0.5}'
    told = '{"model": "m", "choices": [{"message": {"content": "a"}, "finish_reason": "stop", "logprobs": {"content": '
    told += '[{"token": "a", "logprob": 0.0, "top_logprobs": [{"token": "b", "logprob": -Infinity}]}]}}]}'
    assert send_canned(plain(200, told)).logprobs[0][2]["b"] == -math.inf


def test_logprobs_of_llama_cpp_completions_have_the_shape_of_a_chat() -> None:
    token = {"id": 1, "token": " a", "bytes": [32, 97], "logprob": -0.5, "top_logprobs": []}
    tops = [{"token": "�", "logprob": -1.0}, {"token": "�", "logprob": -2.0}]
    content = [token, {**token, "top_logprobs": tops}]
    choice = {"text": " a a", "finish_reason": "stop", "logprobs": {"content": content}}
    found = send_canned(plain(200, {"choices": [choice]}), ask(complete=True, logprobs=2))
    assert found.logprobs == ((" a", -0.5, {}), (" a", -0.5, {"�": -1.0}))


@pytest.mark.parametrize("streamed", [False, True])
def test_a_schema_is_asked_for_and_kept(streamed: bool) -> None:
    found = send_to_fake(ask(schema=SCHEMA), shape="json_schema", stream=streamed)
    jsonschema.validate(json.loads(found.text), SCHEMA)
    assert found.shape == "json_schema"
    assert isinstance(json.loads(send_to_fake(ask(schema=SCHEMA), shape="json_object").text), dict)
    assert not send_to_fake(ask(schema=SCHEMA), shape="text").text.startswith("{")


def test_what_is_sent() -> None:
    request = ask(temperature=0.5, top_p=0.9, max_tokens=7, seed=3, stop=("x",), logprobs=2, schema=SCHEMA)
    assert request_body(request, "json_schema") == {
        "model": "m",
        "messages": [{"role": "user", "content": QUESTION}],
        "temperature": 0.5,
        "top_p": 0.9,
        "max_tokens": 7,
        "seed": 3,
        "stop": ["x"],
        "logprobs": True,
        "top_logprobs": 2,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": SCHEMA, "strict": True},
        },
    }
    assert request_body(request, "json_object")["response_format"] == {"type": "json_object"}
    assert "response_format" not in request_body(request) and "response_format" not in request_body(
        ask(), "json_schema"
    )
    loose = request_body(ask(schema={"type": "object", "properties": {"n": {}}}), "json_schema")
    assert loose["response_format"]["json_schema"]["strict"] is False
    optional = request_body(ask(schema={**SCHEMA, "properties": {"n": {}, "maybe": {}}}), "json_schema")
    assert optional["response_format"]["json_schema"]["strict"] is False
    assert "max_completion_tokens" in request_body(ask(), tokens_name="max_completion_tokens")
    plain_body = request_body(ask(complete=True, logprobs=2, prefill=" It"))
    assert (plain_body["prompt"], plain_body["logprobs"]) == (f"{QUESTION} It", 2)


def test_samples_of_a_seeded_request_have_seeds_of_their_own() -> None:
    seeds = [request_body(ask(seed=1, sample=n))["seed"] for n in range(5)]
    assert seeds[0] == 1 and len(set(seeds)) == 5 and "seed" not in request_body(ask(sample=1))


def test_samples_without_a_seed_differ_too() -> None:
    async def work(server: FakeServer) -> set[str]:
        found = [await sent(server.url, ask(sample=n)) for n in range(5)]
        return {reply.text for reply in found if isinstance(reply, Reply)}

    assert len(with_fake(work)) == 5


def test_prefill_is_said_as_the_server_needs_it() -> None:
    request = ask(prefill="The")
    begun = {"role": "assistant", "content": "The"}
    vllm, other = (request_body(request, prefill=how) for how in ("vllm", "assistant"))  # type: ignore[arg-type]
    assert vllm["messages"][-1] == other["messages"][-1] == begun
    assert vllm["continue_final_message"] is True and vllm["add_generation_prompt"] is False
    assert "continue_final_message" not in other and "add_generation_prompt" not in other
    assert send_to_fake(request).kind == "unsupported"
    assert send_to_fake(request, prefill="vllm").text[0] == " "  # the continuation, without what was given
    assert send_to_fake(ask(prefill='{"n"', schema=SCHEMA), shape="json_schema", prefill="assistant").text[0] == ":"


def test_a_server_may_leave_out_what_is_optional() -> None:
    bare = {"choices": [{"message": {"content": "Yes."}, "finish_reason": "stop"}]}
    found = send_canned(plain(200, bare), ask(logprobs=2))
    assert (found.text, found.prompt_tokens, found.served_model, found.logprobs) == ("Yes.", None, "", None)
    ends = [[chunk({"content": "Yes."}), chunk({}, "stop")], [chunk({"content": "Yes."}, "stop"), "[DONE]"]]
    for events in ends:  # a stream may do without [DONE]
        assert send_canned(stream(*events), stream=True).text == "Yes."
    assert send_canned(plain(200, bare), stream=True).text == "Yes."  # or may not be one


def test_lone_surrogates_are_sent() -> None:
    assert isinstance(send_to_fake(ask("half \ud800 a pair")), Reply)


# Faults end to end

ENDS: dict[str, str] = {
    "429": "rate-limited",
    "429-bare": "rate-limited",
    "500": "server",
    "503": "overloaded",
    "silence": "timeout",
    "length": "reply length",
    "broken-body": "server",
    "empty": "server",
    "invalid-json": "reply stop",
    "off-schema": "reply stop",
    "refusal": "reply refused",
    "content-filter": "reply content_filter",
    "filter-error": "filtered",
    "whitespace": "timeout",
    "drop": "connection",
    "half-body": "server",
    "half-stream": "server",
    "html": "server",
    "too-long": "too-long",
    "unknown-model": "model",
    "wrong-key": "key",
    "no-schema": "unsupported",
}


def ending(found: Reply | EndpointError) -> str:
    if isinstance(found, EndpointError):
        return found.kind
    return "reply refused" if found.refusal else f"reply {found.finish_reason}"


def test_every_fault_of_the_fake_server_is_known_for_what_it_is() -> None:
    assert set(ENDS) == set(KINDS)

    async def one(server: FakeServer, kind: str, streamed: bool, complete: bool) -> tuple[Any, str]:
        request = ask(f"{QUESTION} [[{kind}]]", schema=SCHEMA, complete=complete)
        found = await sent(server.url, request, shape="json_schema", stream=streamed, timeout_s=1.5)
        return (kind, streamed, complete), ending(found)

    async def work(server: FakeServer) -> dict[Any, str]:
        modes = [(kind, streamed, False) for kind in KINDS for streamed in (False, True)]
        modes += [(kind, True, True) for kind in KINDS if kind != "refusal"]  # completions have no such field
        return dict(await asyncio.gather(*(one(server, *mode) for mode in modes)))

    found = with_fake(work, faults=Faults(retry_after_s=0.25))
    assert found == {mode: ENDS[mode[0]] for mode in found}


def test_a_refusal_keeps_its_text_and_a_429_its_hint() -> None:
    for streamed in (False, True):
        found = send_to_fake(ask("[[refusal]]"), stream=streamed)
        assert found.refusal == "I'm sorry, I can't help with that." and found.text == ""
    assert send_to_fake(ask("[[429]]"), server={"faults": Faults(retry_after_s=0.25)}).retry_after_s == 0.25
    assert send_to_fake(ask("[[429-bare]]")).retry_after_s is None


@pytest.mark.parametrize("kind", ["silence", "whitespace"])
@pytest.mark.parametrize("streamed", [False, True])
def test_a_server_without_an_answer_costs_no_more_than_the_time_limit(kind: str, streamed: bool) -> None:
    started = time.monotonic()
    found = send_to_fake(ask(f"[[{kind}]]"), stream=streamed, timeout_s=0.3)
    assert found.kind == "timeout" and 0.3 <= time.monotonic() - started < 2


@pytest.mark.parametrize("streamed", [False, True])
def test_an_answer_may_not_grow_for_ever(streamed: bool) -> None:
    event = f"data: {chunk({'content': ' ' * 50})}\n\n".encode() if streamed else b" " * 200
    kind = "text/event-stream" if streamed else "application/json"
    endless = f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nConnection: close\r\n\r\n".encode() + event * 20000
    found = send_canned(endless, ask(max_tokens=8), stream=streamed, timeout_s=10)
    assert found.kind == "timeout" and "bytes" in found.reason


def said(message: str, **more: Any) -> dict[str, Any]:
    return {"error": {"message": message, **more}}


VLLM = "This model's maximum context length is {} tokens. However, you requested 19591 tokens (9591 in the messages)."
AZURE = "The response was filtered due to the prompt triggering Azure OpenAI's content management policy."
OPENAI_SHAPE = "Invalid parameter: 'response_format' of type 'json_schema' is not supported with this model."
SGLANG_1 = "The input (61709 tokens) is longer than the model's context length (40960 tokens)."
SGLANG_2 = "Requested token count exceeds the model's maximum context length of 202752 tokens."
LLAMA_CPP = "the request exceeds the available context size. try increasing the context size or enable context shift"
SAID: list[tuple[int, Any, str]] = [
    # too long: OpenAI, vLLM, SGLang, llama.cpp (also with status 200), Ollama, others
    (400, said("...", type="invalid_request_error", code="context_length_exceeded"), "too-long"),
    (400, {"object": "error", "message": VLLM.format(16384), "type": "BadRequestError", "code": 400}, "too-long"),
    (400, said(VLLM.format(2048), type="BadRequestError", param="input_tokens", code=400), "too-long"),
    (400, {"object": "error", "message": "max_tokens must be at least 1, got -186.", "code": 400}, "too-long"),
    (400, {"object": "error", "message": SGLANG_1, "type": "BadRequestError", "param": None, "code": 400}, "too-long"),
    (400, {"message": SGLANG_2}, "too-long"),
    (400, said(LLAMA_CPP, code=400, type="exceed_context_size_error", n_prompt_tokens=14429, n_ctx=8192), "too-long"),
    (200, said(LLAMA_CPP, code=400, type="exceed_context_size_error"), "too-long"),
    (500, said("the input length exceeds the context length", type="api_error"), "too-long"),
    (413, "", "too-long"),
    (429, said("Request too large on tokens per min (TPM)", code="rate_limit_exceeded"), "too-long"),
    # filters
    (400, said(AZURE, type=None, param="prompt", code="content_filter", status=400), "filtered"),
    (400, said("bad", code="400", innererror={"code": "ResponsibleAIPolicyViolation"}), "filtered"),
    (400, said("", code="content_policy_violation"), "filtered"),
    # models
    (404, said("The model `llama-3.1-8b` does not exist.", code="model_not_found"), "model"),
    (404, {"object": "error", "message": "The model `llama-3.1-8b` does not exist.", "code": 404}, "model"),
    (404, said('model "llama3.2" not found, try pulling it first', type="api_error"), "model"),
    (400, said("model not found", code=400), "model"),
    (404, {"detail": "Not Found"}, "model"),
    (307, "", "model"),
    # keys and money
    (401, said("Incorrect API key provided", code="invalid_api_key"), "key"),
    (403, "<html>blocked</html>", "key"),
    (402, said("Insufficient Balance"), "key"),
    (429, said("You exceeded your current quota", code="insufficient_quota"), "key"),
    # limits and load
    (429, said("Rate limit reached. Visit the billing page.", code="rate_limit_exceeded"), "rate-limited"),
    (429, said("Rate limit reached. Please reduce the length of the messages.", type="tokens"), "rate-limited"),
    (429, "", "rate-limited"),
    (503, said("Loading model", code=503, type="unavailable_error"), "overloaded"),
    (529, said("", type="overloaded_error"), "overloaded"),
    (502, "<html>Bad Gateway</html>", "server"),
    (500, said("Internal Server Error"), "server"),
    (408, "", "timeout"),
    # what this server can't do
    (400, said(OPENAI_SHAPE, param=None), "unsupported"),
    (422, {"detail": [{"loc": ["body", "response_format", "type"], "msg": "Input should be 'text'"}]}, "unsupported"),
    (400, {"error": "'response_format.type' must be 'json_schema' or 'text'"}, "unsupported"),
    (403, said("You are not allowed to request logprobs from this model"), "unsupported"),
    (400, said("Assistant response prefill is incompatible with enable_thinking."), "unsupported"),
    # anything else
    (400, said("temperature must be non-negative"), "request"),
    (418, "", "request"),
]


@pytest.mark.parametrize(("status", "body", "kind"), SAID, ids=[f"{s}-{k}-{n}" for n, (s, _, k) in enumerate(SAID)])
def test_errors_in_the_words_of_real_servers(status: int, body: Any, kind: str) -> None:
    raw = body.encode() if isinstance(body, str) else json.dumps(body).encode()
    asked = Asked(ask(schema=SCHEMA, prefill="{", logprobs=1), "json_schema", None)
    found = fault_of(status, {}, raw, asked)
    assert found.kind == kind and "\n" not in found.reason
    if status >= 300:
        assert found.status == status
    if kind == "unsupported":  # where nothing of the kind was asked for, it is no question of support
        assert fault_of(status, {}, raw, Asked(ask(), "text", None)).kind in ("request", "key")


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        (plain(200, "<!doctype html><p>hello"), "server", "HTML"),
        (plain(200, "  \n"), "server", "empty"),
        (plain(200, '{"choices": ['), "server", "no JSON"),
        (plain(200, "[" * 100_000), "server", "no JSON"),
        (plain(200, "[]"), "server", "no JSON"),
        (plain(200, {"choices": []}), "server", "shape"),
        (plain(200, {"choices": [{"message": None, "finish_reason": None}]}), "server", "shape"),
        (plain(200, {"choices": [{"message": {"content": 5}, "finish_reason": "stop"}]}), "server", "shape"),
        (plain(200, {"choices": "none"}), "server", "JSON"),
        (plain(200, {"choices": [{"message": {}, "logprobs": {"content": [{}]}}]}), "server", "JSON"),
        (plain(200, {"error": {"message": "upstream failed"}}), "server", "upstream failed"),
        (plain(200, {"error": {"message": "slow down", "code": 429}}, "Retry-After: 3"), "rate-limited", "too many"),
        (plain(204, ""), "server", "no answer"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{", "server", "half"),
        (b"220 mail.example ESMTP\r\n", "server", "no HTTP"),
        (b"", "connection", "closed"),
        (stream(chunk({"content": "a"}), "[DONE]"), "server", "half a stream"),
        (stream(chunk({"content": "a"})), "server", "half a stream"),
        (stream("{broken"), "server", "no answer"),
        (stream('{"error": {"message": "out of memory", "code": 500}}', "[DONE]"), "server", "out of memory"),
        (stream('{"error": {"message": "slow down", "code": 429}}', "[DONE]"), "rate-limited", "too many"),
    ],
)
def test_answers_that_are_none(answer: bytes, kind: str, words: str) -> None:
    found = send_canned(answer, stream=True)
    assert isinstance(found, EndpointError) and found.kind == kind and words in found.reason


def test_filters_and_refusals_in_a_stream() -> None:
    found = send_canned(stream(chunk({"content": "a"}), chunk({}, "content_filter: SAFETY"), "[DONE]"), stream=True)
    assert (found.text, found.finish_reason) == ("a", "content_filter")
    found = send_canned(stream(chunk({"refusal": "I "}), chunk({"refusal": "won't."}, "stop"), "[DONE]"), stream=True)
    assert found.refusal == "I won't."


def test_nobody_there() -> None:
    async def run() -> Any:
        server = await asyncio.start_server(lambda r, w: None, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        server.close()
        await server.wait_closed()
        return [await sent(f"http://{host}/v1", ask()) for host in (f"127.0.0.1:{port}", "no-such-host.invalid")]

    refused, unknown = asyncio.run(run())
    assert refused.kind == unknown.kind == "connection" and "refused" in refused.reason
    assert "127.0.0.1" not in refused.reason


def test_redirects_are_not_followed() -> None:
    async def run() -> tuple[Any, list[bytes]]:
        good = plain(200, {"choices": [{"message": {"content": "stolen"}, "finish_reason": "stop"}]})
        async with canned(good) as (elsewhere, heads), canned(plain(307, "", f"Location: {elsewhere}")) as (url, _):
            return await sent(url, ask(), key=Key(SECRET, "test")), heads

    found, heads = asyncio.run(run())
    assert found.kind == "model" and "another address" in found.reason and heads == []


def test_certificates(tmp_path: Path) -> None:
    files = ["-keyout", str(tmp_path / "key.pem"), "-out", str(tmp_path / "cert.pem")]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    try:
        subprocess.run([*command, "-addext", "subjectAltName=DNS:localhost", *files], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no openssl to make a certificate with")
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    good = plain(200, {"choices": [{"message": {"content": "hello"}, "finish_reason": "stop"}]})

    async def run() -> list[Any]:
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # the server's side of the refused handshake
        async with canned(good, tls=tls) as (url, _), FakeServer() as bare, asyncio.timeout(20):
            trusts = [await sent(url, ask(), verify=verify) for verify in (True, False, tmp_path / "cert.pem")]
            return [*trusts, await sent(bare.url.replace("http:", "https:"), ask())]

    untrusted, anything, trusted, no_tls = asyncio.run(run())
    assert untrusted.kind == "certificate" == no_tls.kind and anything.text == trusted.text == "hello"
    with pytest.raises(PoiseError, match="no certificates"):
        HttpClient("lane", "https://x/v1", verify=tmp_path / "key.pem")


# Waiting


SPENT = {"x-ratelimit-reset-requests": "12ms", "x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-tokens": "9s"}


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"Retry-After": "7"}, 7.0),
        ({"Retry-After": "0.5"}, 0.5),
        ({"Retry-After": "9", "retry-after-ms": "250"}, 0.25),
        ({"Retry-After": "-3"}, None),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "inf"}, None),
        ({"Retry-After": formatdate(1_000_030, usegmt=True), "Date": formatdate(1_000_000, usegmt=True)}, 30.0),
        ({"Retry-After": formatdate(1_000_000, usegmt=True)}, 0.0),
        ({"x-ratelimit-reset-requests": "1s", "x-ratelimit-reset-tokens": "6m0s"}, 360.0),
        (SPENT, 0.012),
        ({"x-ratelimit-reset-tokens": "13"}, 13.0),
    ],
)
def test_when_to_come_back(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers) == (None if seconds is None else pytest.approx(seconds))


def test_a_date_counts_from_now_where_the_server_shows_no_clock() -> None:
    found = retry_after({"Retry-After": formatdate(time.time() + 60, usegmt=True)})
    assert found is not None and 57 < found <= 61


def test_durations() -> None:
    assert duration("1h2m3.5s") == pytest.approx(3723.5) and duration("20ms") == pytest.approx(0.02)
    assert duration("") is duration("5x") is duration("s") is None


# Keys


def test_a_key_is_shown_to_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAB_KEY", f" {SECRET}\n")
    path = tmp_path / "key"
    path.write_text(f"{SECRET}\n")
    path.chmod(0o640)
    kept = Key.from_file(path)
    assert kept.warning is not None and "other users" in kept.warning and SECRET not in kept.warning
    path.chmod(0o600)
    for key in (Key.from_env("LAB_KEY"), Key.from_file(path)):
        assert key.reveal() == SECRET and key.warning is None
        client = HttpClient("lane", "http://x/v1", key=key)
        assert SECRET not in repr(key) + str(key) + f"{key}" + repr(client) + repr(vars(client))
        for copier in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(TypeError):
                copier(key)


@pytest.mark.parametrize("text", ["", " \n", f"{SECRET} {SECRET}", f"{SECRET}\nexport X=1", "ключ", "x" * 5000])
def test_what_is_no_key_is_refused_without_quoting_it(tmp_path: Path, text: str) -> None:
    path = tmp_path / "key"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(PoiseError, match=r"empty|no key") as caught:
        Key.from_file(path)
    assert SECRET not in str(caught.value)
    with pytest.raises(PoiseError, match="can't be read"):
        Key.from_file(tmp_path / "none")
    with pytest.raises(PoiseError, match="NO_SUCH_KEY"):
        Key.from_env("NO_SUCH_KEY")


@pytest.mark.parametrize(
    "url", ["https://user:hunter2@host/v1", "https://host/v1?api-key=hunter2", "https://host/v1#hunter2"]
)
def test_an_address_with_credentials_is_refused_without_quoting_it(url: str) -> None:
    with pytest.raises(PoiseError, match="carries credentials") as caught:
        HttpClient("lane", url)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("url", ["host/v1", "ftp://host/v1", "http://", "http://host:99999/v1", "http://a b/v1", ""])
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(PoiseError, match="no address"):
        HttpClient("lane", url)


def leaky(status: int, headers: str = "") -> bytes:
    """A server that repeats the key and the prompt in its answer."""
    said = f"bad request with {SECRET} and {QUESTION} in it"
    told = {"error": {"message": said, "type": SECRET, "code": QUESTION, "param": SECRET}, "detail": said}
    return plain(status, told, *([headers] if headers else []))


def test_no_error_log_or_traceback_shows_the_key_or_the_prompt(capfd: pytest.CaptureFixture[str]) -> None:
    """Every way to fail, with all logs at their loudest and the locals of every frame printed."""
    heard = io.StringIO()
    handler = logging.StreamHandler(heard)
    root, before = logging.getLogger(), logging.getLogger().level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    seen: list[str] = []

    async def fail(url: str, text: str, **settings: Any) -> None:
        client = HttpClient("lane", url, key=Key(SECRET, "test"), timeout_s=0.3, **settings)
        try:
            await client.send(ask(text, schema=SCHEMA), "json_schema")
        except EndpointError as error:
            assert error.__cause__ is None and error.__context__ is None
            shown = traceback.TracebackException.from_exception(error, capture_locals=True)
            assert SECRET not in "".join(shown.format())
            seen.append(f"{error!r} {error} {error.reason} {vars(error)}")
        await client.close()

    async def run() -> None:
        statuses = (200, 301, 400, 401, 403, 404, 413, 418, 422, 429, 500, 503)
        for answer in [*map(leaky, statuses), stream(leaky(400).split(b"\r\n\r\n")[1].decode())]:
            async with canned(answer) as (url, _):
                await fail(url, QUESTION, stream=True)
        for answer in (b"", b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{", b"nonsense\r\n\r\n"):
            async with canned(answer) as (url, _):
                await fail(url, QUESTION)
        async with FakeServer(key="sk-another-key", silence_s=1) as server:
            for kind in KINDS:
                await fail(server.url, f"{QUESTION} [[{kind}]]")

    try:
        asyncio.run(run(), debug=True)
    finally:
        root.removeHandler(handler)
        root.setLevel(before)
    assert len(seen) > 25
    out, err = capfd.readouterr()
    shown = "\n".join([*seen, heard.getvalue(), out, err])
    assert SECRET not in shown and SECRET[:12] not in shown
    assert "harbours" not in "\n".join(seen)


def test_a_message_is_quoted_only_when_it_repeats_nothing() -> None:
    def quote(message: str, text: str = QUESTION) -> str:
        return quotable(message, Asked(ask(text, prefill="Sure"), "text", Key(SECRET, "test")))

    assert quote("temperature must be\n non-negative") == "temperature must be non-negative"
    assert quote("can't parse 'the seven harbours lies'") == ""
    assert quote("can't parse 'SECRET'", "SECRET") == ""
    assert quote(f"no such key {SECRET[4:12]}...") == ""
    assert quote("prefill Sure is bad") == "" and quote("überall") == "" and quote("") == ""
    assert len(quote("x y " * 500)) == 200


def test_where_a_key_is_refused_nothing_is_quoted() -> None:
    """The key in the message may be another one, of a gateway, or ours in a masked form."""
    told = said("Incorrect API key provided: sk-g***way. You can find your API key at https://example.org.")
    found = fault_of(401, {}, json.dumps(told).encode(), Asked(ask(), "text", Key(SECRET, "test")))
    assert found.kind == "key" and found.reason == "HTTP 401: the key is refused"


@given(st.text(min_size=20, max_size=200), st.integers(0, 180), st.text(max_size=30), st.text(max_size=30))
def test_no_longer_piece_of_a_prompt_is_ever_quoted(prompt: str, at: int, before: str, after: str) -> None:
    line = " ".join(prompt.split())
    found = quotable(before + line[at : at + 20] + after, Asked(ask(prompt), "text", None))
    pieces = {line[n : n + 16] for n in range(max(1, len(line) - 15)) if len(line) >= 16}
    assert not any(piece in found for piece in pieces)


# Lines and events


def test_one_line_serves_many_requests_and_many_requests_go_at_one_time() -> None:
    async def work(server: FakeServer) -> tuple[int, float]:
        client, ports = HttpClient("lane", server.url), set()
        answer = server._answer  # type: ignore[attr-defined]

        def note(request: Any, connection: Any, *, chat: bool) -> None:
            ports.add(connection.transport.get_extra_info("peername")[1])
            answer(request, connection, chat=chat)

        server._answer = note  # type: ignore[method-assign]
        for streamed in (False, True):
            client._stream = streamed
            for n in range(20):
                await client.send(ask(str(n)))
        lines = len(ports)
        started = time.monotonic()
        await asyncio.gather(*(client.send(ask(str(n))) for n in range(100)))
        await client.close()
        return lines, time.monotonic() - started

    lines, seconds = with_fake(work, latency_s=0.02)
    assert lines == 1 and seconds < 1  # one after another they would take 2


@pytest.mark.parametrize(("pause", "lines"), [(0.02, 1), (30.0, 3)])
def test_a_line_is_used_again_when_the_stream_ends_soon_after_done(pause: float, lines: int) -> None:
    """Real servers end the body in a packet of its own; one that never does costs half a second, not the time limit."""
    told = stream(chunk({"content": "Yes."}, "stop"), "[DONE]").partition(b"\r\n\r\n")[2]
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    opened: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        opened.append(writer)
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                asked = await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(int(asked.lower().split(b"content-length: ")[1].split(b"\r\n")[0]))
                writer.write(head + b"%x\r\n%s\r\n" % (len(told), told))
                await asyncio.sleep(pause)
                writer.write(b"0\r\n\r\n")

    async def run() -> list[Reply]:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        client = HttpClient("lane", f"http://127.0.0.1:{port}/v1", stream=True)
        found = [await client.send(ask()) for _ in range(3)]
        await client.close()
        server.close()
        return found

    started = time.monotonic()
    assert [reply.text for reply in asyncio.run(run())] == ["Yes."] * 3
    assert len(opened) == lines and time.monotonic() - started < 3


def test_a_client_can_be_used_again_in_another_loop() -> None:
    async def work(server: FakeServer) -> None:
        client.__init__("lane", server.url)  # type: ignore[misc]
        assert isinstance(await client.send(ask()), Reply)
        await client.close()
        assert isinstance(await client.send(ask()), Reply)
        await client.close()

    client = HttpClient("lane", "http://x/v1")
    with_fake(work)
    with_fake(work)


def test_a_cancelled_request_lets_the_others_go_on() -> None:
    async def work(server: FakeServer) -> Any:
        client = HttpClient("lane", server.url)
        task = asyncio.create_task(client.send(ask("[[silence]]")))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        found = await client.send(ask())
        await client.close()
        return found

    assert isinstance(with_fake(work), Reply)


@given(
    st.lists(st.lists(st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"])), min_size=1)),
    st.data(),
)
def test_events_are_the_same_however_the_bytes_are_cut(events: list[list[str]], data: st.DataObject) -> None:
    raw = b""
    for lines in events:
        end = data.draw(st.sampled_from(["\n", "\r\n"]))
        raw += "".join([f": note{end}event: x{end}", *(f"data: {line}{end}" for line in lines), end]).encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=20)))
    parser, found = EventParser(), []
    for start, stop in zip([0, *cuts], [*cuts, len(raw)], strict=True):
        found += parser.feed(raw[start:stop])
    assert found == ["\n".join(lines) for lines in events]


def test_an_event_may_be_cut_inside_the_end_of_a_line() -> None:
    parser = EventParser()
    assert [*parser.feed(b"data: a\r"), *parser.feed(b"\ndata: b\r"), *parser.feed(b"\n\r\n")] == ["a\nb"]


def test_event_data_may_have_several_lines_and_lone_carriage_returns() -> None:
    assert list(EventParser().feed(b"data: a\ndata:b\n\ndata: c\r\rdata: d\n")) == ["a\nb", "c"]
