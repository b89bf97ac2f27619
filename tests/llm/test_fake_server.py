"""The fake server: what it says, how it fails when told to, and that it speaks HTTP to any client."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poise.errors import PoiseError
from poise.llm.fake import KINDS, FakeServer, Faults, ServerLimits
from poise.llm.fake.answers import answer

ASK = {"model": "m", "messages": [{"role": "user", "content": "What grows in a garden?"}]}
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "minLength": 3}, "age": {"type": "integer", "minimum": 1, "maximum": 9}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


def with_server(work: Callable[[FakeServer], Awaitable[Any]], **settings: Any) -> Any:
    """What `work` returns, run beside a server."""

    async def run() -> Any:
        async with FakeServer(**settings) as server, asyncio.timeout(20):
            return await work(server)

    return asyncio.run(run())


async def raw(server: FakeServer, *parts: bytes) -> bytes:
    """All that the server sends on one connection for these bytes, sent part by part."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    for part in parts:
        writer.write(part)
        await writer.drain()
        await asyncio.sleep(0)
    found = await reader.read()
    writer.close()
    return found


def http(
    body: dict[str, Any] | bytes, path: str = "/v1/chat/completions", head: str = "Connection: close\r\n"
) -> bytes:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return f"POST {path} HTTP/1.1\r\nHost: x\r\n{head}Content-Length: {len(data)}\r\n\r\n".encode() + data


async def ask(
    server: FakeServer, body: dict[str, Any] = ASK, *, head: str = "", path: str = "/v1/chat/completions"
) -> Any:
    """(status, headers, JSON) of one request."""
    found = await raw(server, http(body, path, head + "Connection: close\r\n"))
    top, _, rest = found.partition(b"\r\n\r\n")
    lines = top.decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines[1:])
    return int(lines[0].split()[1]), headers, json.loads(rest) if rest[:1] == b"{" else rest


# What it says


def test_answers_are_a_function_of_seed_and_request() -> None:
    async def work(server: FakeServer) -> list[Any]:
        hot = [await ask(server, head=f"X-Client-Request-Id: {n}\r\n") for n in (1, 1, 2)]
        cold = [await ask(server, {**ASK, "temperature": 0}, head=f"X-Client-Request-Id: {n}\r\n") for n in (1, 2)]
        fixed = [await ask(server, {**ASK, "seed": 7}, head=f"X-Client-Request-Id: {n}\r\n") for n in (1, 2)]
        return [hot, cold, fixed, [await ask(server), await ask(server, {**ASK, "stop": ["zzz"]})]]

    one, two, other = with_server(work, seed=1), with_server(work, seed=1), with_server(work, seed=2)
    assert one == two
    hot, cold, fixed, (plain, changed) = one
    assert hot[0] == hot[1] != hot[2]
    assert cold[0] == cold[1] and fixed[0] == fixed[1]
    assert plain[2]["choices"] != changed[2]["choices"] and plain[2]["choices"] != other[3][0][2]["choices"]


def test_the_answer_is_shaped_as_openai_shapes_it() -> None:
    status, headers, told = with_server(lambda server: ask(server, {**ASK, "logprobs": True, "top_logprobs": 3}))
    assert status == 200 and headers["content-type"] == "application/json"
    (choice,) = told["choices"]
    tokens = choice["logprobs"]["content"]
    assert "".join(token["token"] for token in tokens) == choice["message"]["content"]
    assert all(len(token["top_logprobs"]) == 3 and token["logprob"] <= 0 for token in tokens)
    assert choice["finish_reason"] == "stop" and told["model"] == "m" and told["object"] == "chat.completion"
    # 23 characters of the question are 5 whole fours, and one token for the frame
    assert told["usage"] == {"prompt_tokens": 6, "completion_tokens": len(tokens), "total_tokens": 6 + len(tokens)}


def test_a_completion_has_text_and_parallel_logprobs() -> None:
    body = {"model": "m", "prompt": "Once", "logprobs": 2, "max_tokens": 4}
    _, _, told = with_server(lambda server: ask(server, body, path="/v1/completions"))
    (choice,) = told["choices"]
    assert len(choice["logprobs"]["tokens"]) == 4 == len(choice["logprobs"]["top_logprobs"])
    assert "".join(choice["logprobs"]["tokens"]) == choice["text"] and choice["finish_reason"] == "length"


scalars = st.one_of(
    st.fixed_dictionaries({"type": st.just("string")}, optional={"minLength": st.integers(0, 40)}),
    st.tuples(st.integers(-20, 20), st.integers(0, 20)).map(
        lambda t: {"type": "integer", "minimum": t[0], "maximum": t[0] + t[1]}
    ),
    st.integers(-5, 5).map(lambda n: {"type": "integer", "exclusiveMinimum": n, "exclusiveMaximum": n + 2}),
    st.integers(-5, 5).map(lambda n: {"type": "number", "exclusiveMinimum": n, "exclusiveMaximum": n + 1}),
    st.integers(1, 7).map(lambda n: {"type": "integer", "multipleOf": n}),
    st.just({"type": "string", "maxLength": 4}),
    st.sampled_from([{"type": "boolean"}, {"type": "null"}, {"enum": ["a", 2]}, {"const": [1]}, {}]),
    st.just({"type": ["string", "null"]}),
)
schemas = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.dictionaries(st.sampled_from("abcd"), inner, min_size=1).map(
            lambda d: {"type": "object", "properties": d, "required": sorted(d), "additionalProperties": False}
        ),
        st.tuples(inner, st.integers(0, 3)).map(lambda t: {"type": "array", "items": t[0], "minItems": t[1]}),
        st.tuples(inner, inner).map(lambda t: {"anyOf": list(t)}),
    ),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None)
@given(schemas, st.binary(min_size=32, max_size=32))
def test_answers_satisfy_simple_schemas(schema: dict[str, Any], key: bytes) -> None:
    shape = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    jsonschema.validate(json.loads(answer({**ASK, "response_format": shape}, key).text), schema)


def test_schemas_may_refer_to_themselves_and_must_end() -> None:
    tree = {"$ref": "#/$defs/node", "$defs": {"node": {"type": "object", "required": ["next"], "properties": {}}}}
    tree["$defs"]["node"]["properties"]["next"] = {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}  # type: ignore[index]
    for byte in range(20):
        shape = {"type": "json_schema", "json_schema": {"name": "x", "schema": tree}}
        jsonschema.validate(json.loads(answer({**ASK, "response_format": shape}, bytes([byte]) * 32).text), tree)
    tree["$defs"]["node"]["properties"]["next"] = {"$ref": "#/$defs/node"}  # type: ignore[index]
    for bad in (
        tree,
        {"$ref": "#"},
        {"$ref": "#/nowhere"},
        {"$ref": "http://x/y"},
        {"type": "object", "properties": 3},
    ):
        body = {**ASK, "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": bad}}}
        status, _, told = with_server(lambda server, body=body: ask(server, body))
        assert status == 400 and "schema" in told["error"]["message"]


def test_a_prefilled_answer_is_continued() -> None:
    shape = {"type": "json_schema", "json_schema": {"name": "x", "schema": PERSON}}
    begun = [*ASK["messages"], {"role": "assistant", "content": '{"name": "'}]
    body = {**ASK, "messages": begun, "response_format": shape}
    _, _, told = with_server(lambda server: ask(server, body))
    jsonschema.validate(json.loads('{"name": "' + told["choices"][0]["message"]["content"]), PERSON)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"model": "m"}, "messages"),
        ({"messages": ASK["messages"]}, "model"),
        ({**ASK, "n": 2}, "n = 1"),
        ({**ASK, "messages": []}, "messages"),
        ({**ASK, "messages": [{"role": "user", "content": 3}]}, "Invalid type"),
        ({**ASK, "temperature": "hot"}, "temperature"),
        ({**ASK, "stop": 3}, "Invalid request"),
    ],
)
def test_bad_requests_are_answered_as_such(body: dict[str, Any], message: str) -> None:
    status, _, told = with_server(lambda server: ask(server, body))
    assert status == 400 and message in told["error"]["message"]


def test_keys_models_and_context_are_checked_when_asked_for() -> None:
    async def work(server: FakeServer) -> list[int]:
        good = "Authorization: Bearer right\r\n"
        long = {**ASK, "messages": [{"role": "user", "content": "word " * 100}]}
        asked = [
            (ASK, good),
            (ASK, ""),
            (ASK, "Authorization: Bearer wrong\r\n"),
            ({**ASK, "model": "n"}, good),
            (long, good),
        ]
        return [(await ask(server, body, head=head))[0] for body, head in asked]

    assert with_server(work, key="right", models=("m",), context=100) == [200, 401, 401, 404, 400]


# How it speaks HTTP


def statuses(found: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d+) ", found)]


def test_bytes_may_come_in_any_portions() -> None:
    request = http(ASK)
    one_by_one = [request[at : at + 1] for at in range(len(request))]
    whole, split = with_server(lambda server: asyncio.gather(raw(server, request), raw(server, *one_by_one)))
    assert whole == split and statuses(whole) == [200]


def test_requests_in_a_row_are_answered_in_order() -> None:
    bodies = [{**ASK, "model": f"m{n}"} for n in range(5)]
    requests = b"".join([*(http(body, head="") for body in bodies[:4]), http(bodies[4])])
    found = with_server(lambda server: raw(server, requests))
    assert statuses(found) == [200] * 5
    assert [found.index(f'"m{n}"'.encode()) for n in range(5)] == sorted(
        found.index(f'"m{n}"'.encode()) for n in range(5)
    )


def test_a_body_may_come_in_chunks() -> None:
    data = json.dumps(ASK).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    body = b"".join(b"%x;note=1\r\n%s\r\n" % (len(p), p) for p in (data[:7], data[7:])) + b"0\r\nTrailer: 1\r\n\r\n"
    assert statuses(with_server(lambda server: raw(server, head + body))) == [200]


def test_a_client_that_asks_before_it_sends_is_told_to_go_on() -> None:
    data = json.dumps(ASK).encode()

    async def work(server: FakeServer) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nExpect: 100-continue\r\n")
        writer.write(b"Content-Length: %d\r\nConnection: close\r\n\r\n" % len(data))
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(data)
        return await reader.read()

    assert statuses(with_server(work)) == [200]


def test_old_clients_get_neither_chunks_nor_a_kept_line() -> None:
    data = json.dumps({**ASK, "stream": True}).encode()
    request = b"POST /v1/chat/completions HTTP/1.0\r\nContent-Length: %d\r\n\r\n%s" % (len(data), data)
    head, _, body = with_server(lambda server: raw(server, request)).partition(b"\r\n\r\n")
    assert b"chunked" not in head and b"Connection: close" in head and body.endswith(b"data: [DONE]\n\n")


def test_head_has_no_body() -> None:
    found = with_server(lambda server: raw(server, b"HEAD /v1/models HTTP/1.1\r\nConnection: close\r\n\r\n"))
    assert statuses(found) == [200] and found.endswith(b"\r\n\r\n") and b"Content-Length: 0" not in found


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}", 400),
        (b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}", 400),
        (b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: -2\r\n\r\n{}", 400),
        (b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n{}", 413),
        (b"POST /v1/chat/completions HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0x2\r\n{}\r\n0\r\n\r\n", 400),
        (b"POST /v1/chat/completions HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}xx0\r\n\r\n", 400),
        (b"no http at all\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nBad header\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nA : b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * 70000, 431),
        (b"GET /v1/chat/completions HTTP/1.1\r\nConnection: close\r\n\r\n", 405),
        (b"GET /v1/elsewhere HTTP/1.1\r\nConnection: close\r\n\r\n", 404),
        (http(b"{no json"), 400),
    ],
)
def test_what_is_no_request_is_refused_and_the_server_goes_on(request_bytes: bytes, status: int) -> None:
    async def work(server: FakeServer) -> tuple[list[int], int]:
        return statuses(await raw(server, request_bytes)), (await ask(server))[0]

    assert with_server(work) == ([status], 200)


# How it fails


def test_faults_come_by_number_and_by_mark() -> None:
    async def work(server: FakeServer) -> list[int]:
        marked = {**ASK, "messages": [{"role": "user", "content": "please [[500]]"}]}
        found = [(await ask(server))[0] for _ in range(3)]
        return [*found, (await ask(server, marked))[0], (await ask(server, head="X-Fake-Fault: 503\r\n"))[0]]

    assert with_server(work, faults=Faults(at={2: "429-bare"})) == [200, 429, 200, 500, 503]


def test_a_share_of_faults_does_not_depend_on_the_order_and_a_repeat_may_succeed() -> None:
    bodies = [{**ASK, "seed": n} for n in range(200)]

    def run(order: list[dict[str, Any]], seed: int) -> dict[int, list[int]]:
        async def work(server: FakeServer) -> dict[int, list[int]]:
            found: dict[int, list[int]] = {body["seed"]: [] for body in bodies}
            for body in [*order, *order]:
                found[body["seed"]].append((await ask(server, body))[0])
            return found

        return with_server(work, seed=seed, latency_s=0, faults=Faults(share={"500": 0.2, "503": 0.1}))

    one, two, other = run(bodies, 1), run(bodies[::-1], 1), run(bodies, 2)
    assert one == two != other
    counts = Counter(status for both in one.values() for status in both)
    # of 400 draws 80 and 40 are expected, with standard deviations of 8 and 6: five of them are allowed
    assert abs(counts[500] - 80) < 40 and abs(counts[503] - 40) < 30
    assert any(first != 200 and second == 200 for first, second in one.values())


def test_a_schedule_is_read_from_a_file_and_checked(tmp_path: Path) -> None:
    path = tmp_path / "faults.json"
    path.write_text('{"at": {"3": "drop", "10-12": "500"}, "share": {"html": 0.5}, "retry_after_s": 2}')
    found = Faults.read(path)
    assert found.at == {3: "drop", 10: "500", 11: "500", 12: "500"} and found.retry_after_s == 2
    for text, message in [
        ("{", "no schedule"),
        ("[]", "no schedule"),
        ('{"at": {"x": "drop"}}', "no schedule"),
        ('{"after": {}}', "unknown key 'after'"),
        ('{"at": {"1": "flood"}}', "unknown fault 'flood'"),
        ('{"share": {"500": 0.9, "503": 0.2}}', "at most 1"),
    ]:
        path.write_text(text)
        with pytest.raises(PoiseError, match=message):
            Faults.read(path)


def test_429_says_when_to_come_back_or_does_not() -> None:
    async def work(server: FakeServer) -> list[dict[str, str]]:
        return [(await ask(server, head=f"X-Fake-Fault: {kind}\r\n"))[1] for kind in ("429", "429-bare")]

    told, bare = with_server(work, faults=Faults(retry_after_s=1.2))
    assert (told["retry-after"], told["retry-after-ms"]) == ("2", "1200")
    assert not {"retry-after", "retry-after-ms"} & set(bare)


def test_a_window_of_requests_is_kept_and_its_end_is_told() -> None:
    async def work(server: FakeServer) -> tuple[list[int], int, int]:
        burst = [await ask(server) for _ in range(8)]
        wait = int(burst[-1][1]["retry-after-ms"])
        await asyncio.sleep(wait / 1000)
        return [status for status, _, _ in burst], wait, (await ask(server))[0]

    found, wait, after = with_server(work, limits=ServerLimits(requests=5, window_s=0.4))
    assert found == [200] * 5 + [429] * 3 and 0 < wait <= 400 and after == 200


def test_only_so_many_are_answered_at_one_time() -> None:
    async def work(server: FakeServer) -> Counter[int]:
        return Counter(status for status, _, _ in await asyncio.gather(*(ask(server) for _ in range(10))))

    assert with_server(work, latency_s=0.1, limits=ServerLimits(concurrent=4)) == {200: 4, 429: 6}


def test_a_client_that_leaves_frees_its_place() -> None:
    async def work(server: FakeServer) -> list[int]:
        for _ in range(3):
            _, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(http(ASK, head="X-Fake-Fault: silence\r\n"))
            await asyncio.sleep(0.05)
            writer.transport.abort()
            await asyncio.sleep(0.05)
        return [(await ask(server))[0]]

    assert with_server(work, limits=ServerLimits(concurrent=1)) == [200]


def test_the_log_proves_what_came_twice(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"

    async def work(server: FakeServer) -> None:
        await ask(server, head="X-Client-Request-Id: abc\r\nAuthorization: Bearer sk-secret-key\r\n")
        await ask(server, {**ASK, "stream": True})
        await ask(server, {**ASK, "seed": 1}, head="X-Fake-Fault: 500\r\n")
        await raw(server, http(b"{"))

    with_server(work, log=log)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["number"] for line in lines] == [1, 2, 3, 4]
    assert [line["answer"] for line in lines] == ["ok", "ok", "500", "bad-request"]
    assert lines[0]["request"] == lines[1]["request"] != lines[2]["request"] and lines[0]["client_id"] == "abc"
    assert "secret" not in log.read_text()


def test_a_taken_port_is_one_clear_line() -> None:
    async def work(server: FakeServer) -> None:
        with pytest.raises(PoiseError, match=f"port {server.port}"):
            await FakeServer(port=server.port).__aenter__()

    with_server(work)


# Real clients


@pytest.fixture
def process(tmp_path: Path) -> Any:
    """(URL, process) of a server of its own."""
    faults = tmp_path / "faults.json"
    faults.write_text('{"at": {"2": "unknown-model"}}')
    command = [sys.executable, "-m", "poise.llm.fake", "--seed", "3", "--faults", str(faults), "--log", "log.jsonl"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=tmp_path, stdout=pipe, stderr=pipe, text=True) as child:
        assert child.stdout is not None
        yield child.stdout.readline().strip(), child
        child.kill()


def test_curl_talks_to_it(process: Any, tmp_path: Path) -> None:
    url, _ = process
    body = tmp_path / "body.json"  # long enough for curl to ask before it sends
    body.write_text(json.dumps({**ASK, "messages": [{"role": "user", "content": "word " * 400_000}]}))
    curl = ["curl", "-sS", "--max-time", "10", "-d", f"@{body}"]

    def said(*more: str) -> str:
        return subprocess.run([*curl, *more], capture_output=True, text=True, check=True).stdout

    try:
        asked_first = said("-H", "Expect: 100-continue", f"{url}/chat/completions")
    except FileNotFoundError:
        pytest.skip("no curl")
    assert json.loads(asked_first)["error"]["code"] == "context_length_exceeded"
    body.write_text(json.dumps(ASK))
    twice = said("-H", "Transfer-Encoding: chunked", f"{url}/chat/completions", f"{url}/chat/completions")
    assert twice.count("model_not_found") == 1 and twice.count("chat.completion") == 1  # the second request is to fail


def test_it_runs_as_a_process_and_stops_when_told(process: Any, tmp_path: Path) -> None:
    url, child = process
    with urlopen(f"{url}/models", timeout=5) as found:
        assert json.load(found)["data"][0]["id"] == "fake"
    request = Request(f"{url}/chat/completions", json.dumps(ASK).encode(), {"Content-Type": "application/json"})
    with urlopen(request, timeout=5) as found:
        assert json.load(found)["choices"][0]["message"]["content"]
    child.send_signal(signal.SIGTERM)
    out, err = child.communicate(timeout=5)
    assert (child.returncode, out, err) == (0, "", "") and (tmp_path / "log.jsonl").read_text().count("\n") == 1


def test_a_bad_schedule_is_one_line_and_a_status(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "poise.llm.fake", "--faults", str(tmp_path / "none.json")]
    found = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    assert found.returncode == 2 and found.stderr.count("\n") == 1 and "none.json" in found.stderr


def test_the_official_client_talks_to_it(process: Any) -> None:
    openai = pytest.importorskip("openai")
    url, _ = process
    client = openai.OpenAI(base_url=url, api_key="sk-test", max_retries=0, timeout=10)
    chat = client.chat.completions
    first = chat.create(**ASK, logprobs=True, top_logprobs=2)
    said = first.choices[0].message.content
    assert said and "".join(token.token for token in first.choices[0].logprobs.content) == said
    with pytest.raises(openai.NotFoundError):
        chat.create(**ASK)
    pieces = list(
        chat.create(**ASK, logprobs=True, top_logprobs=2, stream=True, stream_options={"include_usage": True})
    )
    assert "".join(p.choices[0].delta.content or "" for p in pieces if p.choices) == said
    assert pieces[-1].usage == first.usage
    shape = {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON, "strict": True}}
    jsonschema.validate(json.loads(chat.create(**ASK, response_format=shape).choices[0].message.content), PERSON)
    assert client.completions.create(model="m", prompt="Once", logprobs=1).choices[0].text
    assert [model.id for model in client.models.list()] == ["fake"]
    for kind, error in [("429", openai.RateLimitError), ("wrong-key", openai.AuthenticationError)]:
        with pytest.raises(error):
            chat.create(**ASK, extra_headers={"X-Fake-Fault": kind})
    refused = chat.create(**ASK, extra_headers={"X-Fake-Fault": "refusal"})
    assert refused.choices[0].message.refusal and refused.choices[0].message.content is None


def test_every_fault_leaves_the_server_alive() -> None:
    async def work(server: FakeServer) -> int:
        for kind in KINDS:
            for stream in (False, True):
                reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
                writer.write(http({**ASK, "stream": stream}, head=f"X-Fake-Fault: {kind}\r\nConnection: close\r\n"))
                try:
                    await reader.read()
                except ConnectionError:
                    assert kind == "drop"
                writer.close()
        return (await ask(server))[0]

    assert with_server(work, silence_s=0.05) == 200
