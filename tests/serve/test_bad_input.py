"""Every bad input, at every API: an error in its shape, never 500, never a verdict, and the worker goes on."""

from __future__ import annotations

import json
import socket
import time
from typing import Any
from urllib.parse import urlsplit

import pytest
from scripted import ScriptedGuard, serving

from poise.serve.app import Service
from poise.serve.faults import ApiError
from poise.serve.limits import Limits, check_items, parse

Shared = tuple[ScriptedGuard, Any]
ROUTES: dict[str, tuple[str, Any]] = {
    "openai": ("/v1/moderations", lambda text: {"input": text}),
    "azure": ("/contentsafety/text:analyze?api-version=2024-09-01", lambda text: {"text": text}),
    "litellm": ("/beta/litellm_basic_guardrail_api", lambda text: {"texts": [text], "input_type": "request"}),
    "vllm": ("/classify", lambda text: {"input": text}),
    "tei": ("/predict", lambda text: {"inputs": text}),
    "perspective": (
        "/v1alpha1/comments:analyze",
        lambda text: {"comment": {"text": text}, "requestedAttributes": {"INSULT": {}}},
    ),
    "judge": ("/v1/judge", lambda text: {"items": [{"prompt": text}]}),
}
TEXTS = {
    "empty": "",
    "blank": " \n\t ",
    "control": "a\x07b",
    "nul": "\x00",
    "surrogate": "a\ud800b",
    "number": 5,
    "null": None,
    "object": {"a": "b"},
    "truth": True,
    "nested": [[["a"]]],
    "image": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}],
    "long": "x" * 100_001,
    "grows": "\ufdfa" * 6_000,  # 18 characters each after NFKC
}
BODIES = {
    "nothing": b"",
    "no json": b"input=hello",
    "cut": b'{"input": "hel',
    "list": b"[]",
    "word": b'"hello"',
    "no utf-8": b'{"input": "\xff"}',
    "nan": b'{"input": NaN}',
    "deep": b'{"input": ' + b"[" * 100_000,
    "digits": b'{"input": ' + b"9" * 10_000 + b"}",
    "raw control": b'{"input": "a\x01"}',
    "empty object": b"{}",
}


def well_shaped(api: str, answer: Any) -> bool:
    """Whether a fault is one that clients of the API can read."""
    told = answer.json()
    if api == "tei":
        return set(told) == {"error", "error_type"}
    error = told["error"]
    if api == "azure":
        return bool(error["message"]) and error["code"] == answer.headers["x-ms-error-code"]
    if api == "perspective":
        return bool(error["code"] == answer.status_code and error["status"].isupper())
    return set(error) == {"message", "type", "param", "code"}


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("api", ROUTES)
def test_texts_that_are_none(shared: Shared, api: str, name: str) -> None:
    path, body = ROUTES[api]
    before = len(shared[0].seen)
    answer = shared[1].post(path, content=json.dumps(body(TEXTS[name])), headers={"content-type": "application/json"})
    assert 400 <= answer.status_code < 500 and well_shaped(api, answer), answer.text
    assert len(shared[0].seen) == before


@pytest.mark.parametrize("name", BODIES)
@pytest.mark.parametrize("api", ROUTES)
def test_bodies_that_are_none(shared: Shared, api: str, name: str) -> None:
    answer = shared[1].post(ROUTES[api][0], content=BODIES[name], headers={"content-type": "application/json"})
    assert 400 <= answer.status_code < 500 and well_shaped(api, answer), answer.text


@pytest.mark.parametrize("api", ROUTES)
def test_ten_megabytes_a_hundred_thousand_texts_and_other_types(shared: Shared, api: str) -> None:
    (path, body), client = ROUTES[api], shared[1]
    assert client.post(path, json=body("x" * 10_000_000)).status_code == 413
    told = json.dumps({"input": ["x"] * 100_000, "texts": ["x"] * 100_000, "inputs": ["x"] * 100_000})
    many = client.post(path, content=told, headers={"content-type": "application/json"})
    assert many.status_code == 413 and well_shaped(api, many)
    for headers in (
        {"content-type": "text/plain"},
        {},
        {"content-type": "application/json", "content-encoding": "gzip"},
    ):
        answer = client.post(path, content=b"{}", headers=headers)
        assert answer.status_code == 415 and well_shaped(api, answer)


def test_a_hundred_thousand_texts_in_a_body_that_may_be_large(start: Any) -> None:
    _, client = start(limits=Limits(body_bytes=1 << 22))
    for api in ("openai", "vllm", "tei", "litellm"):
        name = {"openai": "input", "vllm": "input", "tei": "inputs", "litellm": "texts"}[api]
        body = {name: [["x"]] * 100_000 if api == "tei" else ["x"] * 100_000, "input_type": "request"}
        if api != "litellm":
            del body["input_type"]
        answer = client.post(ROUTES[api][0], json=body)
        assert answer.status_code in (400, 422) and well_shaped(api, answer), answer.text
        assert "more than" in answer.text
    nested = client.post("/predict", json={"inputs": [["x"] * 200] * 200})
    assert nested.status_code == 422 and "too many parts" in nested.text


def test_no_message_quotes_a_text(shared: Shared) -> None:
    secret = "s3cr3t-words"
    for path, body in ROUTES.values():
        for text in (f"{secret}\x00", {secret: 1}, [secret, 5], f"boom {secret}", f"odd {secret}"):
            answer = shared[1].post(path, json=body(text))
            assert secret not in answer.text or "unjudged" in answer.json().get("verdicts", [{}])[0]


def test_a_body_without_a_length_is_cut_off(shared: Shared) -> None:
    def parts() -> Any:
        yield b'{"input": "'
        for _ in range(40):
            yield b"x" * 65_536

    answer = shared[1].post("/v1/moderations", content=parts(), headers={"content-type": "application/json"})
    assert answer.status_code == 413


def test_a_body_that_never_ends_is_given_up(start: Any) -> None:
    _, client = start(limits=Limits(body_s=0.2))
    url = urlsplit(str(client.base_url))
    with socket.create_connection((url.hostname or "", url.port or 0)) as raw:
        raw.sendall(
            b"POST /v1/moderations HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n{"
        )
        assert raw.recv(4096).startswith(b"HTTP/1.1 408")


@pytest.mark.parametrize("api", ROUTES)
def test_a_failing_guard_is_503_and_the_worker_lives(api: str) -> None:
    import httpx

    guard = ScriptedGuard()
    with serving(Service(guard).app) as url:
        path, body = ROUTES[api]
        guard.broken = True
        answer = httpx.post(url + path, json=body("fine"))
        assert answer.status_code == 503 and well_shaped(api, answer) and "secret" not in answer.text
        assert answer.headers["retry-after"] == "1"
        guard.broken = False
        assert httpx.post(url + path, json=body("fine")).status_code == 200


def test_unknown_addresses_and_methods(shared: Shared) -> None:
    client = shared[1]
    assert client.get("/v1/moderations").status_code == 405
    assert client.get("/v1/moderations").headers["allow"] == "POST"
    assert client.delete("/contentsafety/text:analyze").json()["error"]["code"] == "MethodNotAllowed"
    assert client.post("/v1/chat/completions", json={}).json()["error"]["code"] == "unknown_url"
    assert client.post("/v1alpha1/comments:suggestscore", json={}).json()["error"]["status"] == "NOT_FOUND"


def test_a_request_id_comes_back_when_it_is_one(shared: Shared) -> None:
    for given, kept in (("abc-1", True), ("a b", False), ("x" * 65, False)):
        told = shared[1].get("/health", headers={"x-request-id": given}).headers["x-request-id"]
        assert (told == given) is kept


@pytest.mark.parametrize(("text", "fits"), [("\ufdfa" * 55, True), ("\ufdfa" * 56, False), ("é" * 1000, True)])
def test_a_text_is_measured_after_normalisation_too(text: str, fits: bool) -> None:
    limits = Limits(text_characters=1000, request_characters=1000)  # 55 * 18 = 990
    if fits:
        assert check_items([(text, None)], limits) == len(text)
    else:
        with pytest.raises(ApiError, match="after normalisation"):
            check_items([(text, None)], limits)


def test_all_texts_together_are_measured() -> None:
    limits = Limits(text_characters=10, request_characters=15)
    assert check_items([("a" * 10, "b" * 5)], limits) == 15
    with pytest.raises(ApiError, match="in all"):
        check_items([("a" * 10, "b" * 6)], limits)


def test_a_large_bad_text_is_found_quickly() -> None:
    began = time.perf_counter()
    for text in ("a" * 100_000 + "\x00", " " * 100_000, "a" * 99_999 + "\ud800", "\ufdfa" * 100_000):
        with pytest.raises(ApiError):
            check_items([(text, None)], Limits())
    assert time.perf_counter() - began < 1


def test_stacked_accents_hold_nobody_up() -> None:
    # NFKC sorts them in quadratic time, on the thread that answers everybody: 400,000 took a minute
    text = "a" + "\u0301\u0327" * 49_000
    began = time.process_time()
    assert check_items([(text, text), (text, text)], Limits()) == 4 * len(text)
    assert time.process_time() - began < 5


def test_an_escaped_pair_is_a_character() -> None:
    assert parse(b'"\\ud83d\\ude00"') == "\U0001f600"
