"""Batch files: only what is missing goes out, whatever comes back ends once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from poise.errors import PoiseError
from poise.llm.batch_files import read_batch, read_requests, write_batches
from poise.llm.exchange import ChatRequest, Reply
from poise.llm.store import Exchange, ReplyStore

SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}


def ask(n: int, **settings: Any) -> ChatRequest:
    return ChatRequest("m", (("system", "s"), ("user", f"question {n}")), **settings)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ReplyStore]:
    with ReplyStore(tmp_path / "replies.sqlite") as opened:
        yield opened


def answer(text: str | None, finish: str = "stop", **more: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": text, "refusal": None, **more}
    choice = {"index": 0, "message": message, "finish_reason": finish, "logprobs": None}
    body = {"id": "x", "object": "chat.completion", "created": 0, "model": "m-1", "choices": [choice]}
    body["usage"] = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
    return {"status_code": 200, "request_id": "r", "body": body}


def result(request: ChatRequest, response: dict[str, Any] | None, error: Any = None) -> str:
    return json.dumps({"id": "b", "custom_id": request.identity, "response": response, "error": error})


def test_what_is_missing_goes_out_once_and_a_file_has_one_model_and_one_url(tmp_path: Path, store: ReplyStore) -> None:
    store.finish(ask(0), Exchange(ask(0).identity, "done", Reply("a", "stop")))
    store.finish(ask(1), Exchange(ask(1).identity, "dead", reason="failed before"))
    other = ChatRequest("other", (("user", "q"),), schema=SCHEMA, seed=5, sample=2)
    plain = ChatRequest("m", (("prompt", "go on"),), complete=True)
    files = write_batches([*map(ask, range(4)), ask(2), other, plain], store, tmp_path / "out")
    assert [(file.model, file.rows) for file in files] == [("m", 3), ("other", 1), ("m", 1)]
    lines = [json.loads(line) for line in files[0].path.read_text().splitlines()]
    assert [line["custom_id"] for line in lines] == [ask(n).identity for n in (1, 2, 3)]
    assert {line["url"] for line in lines} == {"/v1/chat/completions"} and lines[0]["method"] == "POST"
    assert lines[0]["body"]["messages"][1] == {"role": "user", "content": "question 1"}
    schema_line = json.loads(files[1].path.read_text())
    assert schema_line["body"]["response_format"]["type"] == "json_schema"
    assert read_requests(files[1].requests) == {other.identity: other}
    assert json.loads(files[2].path.read_text())["url"] == "/v1/completions"


def test_files_are_cut_at_their_limits(tmp_path: Path, store: ReplyStore) -> None:
    files = write_batches(map(ask, range(7)), store, tmp_path / "rows", most_requests=3)
    assert [file.rows for file in files] == [3, 3, 1]
    size = len(files[2].path.read_bytes())
    files = write_batches(map(ask, range(7)), store, tmp_path / "bytes", most_bytes=2 * size)
    assert [file.rows for file in files] == [2, 2, 2, 1]
    assert sum(len(read_requests(file.requests)) for file in files) == 7


def test_results_in_any_order_and_twice_end_each_request_once(tmp_path: Path, store: ReplyStore) -> None:
    good, refused, cut, expired, limited, long, structured, bent = (
        *(ask(n) for n in range(6)),
        ask(6, schema=SCHEMA),
        ask(7, schema=SCHEMA),
    )
    (file,) = write_batches([good, refused, cut, expired, limited, long, structured, bent], store, tmp_path / "out")
    message = {"message": "maximum context length is 9", "code": "context_length_exceeded"}
    lines = [
        result(bent, answer('{"n": "seven"}')),
        result(structured, answer('```json\n{"n": 7}\n```')),
        result(long, {"status_code": 400, "body": {"error": message}}),
        result(limited, {"status_code": 429, "body": {"error": {"message": "slow down"}}}),
        result(expired, None, {"code": "batch_expired", "message": "not executed"}),
        result(cut, answer("half", "length")),
        result(refused, answer(None, refusal="I can't help with that.")),
        result(good, answer("fine")),
        result(ask(99), answer("nobody asked")),
        "{broken",
    ]
    (tmp_path / "results.jsonl").write_text("\n".join(lines) + "\n\n")
    counts = read_batch(tmp_path / "results.jsonl", file.requests, store)
    assert dict(counts) == {
        "done": 2,
        "refused": 1,
        "truncated": 1,
        "invalid": 1,
        "dead": 1,
        "pending": 2,
        "unknown": 1,
        "broken": 1,
    }
    reply = store.get(good.identity)
    assert reply is not None and reply.reply is not None
    assert (reply.reply.text, reply.reply.prompt_tokens, reply.reply.served_model) == ("fine", 7, "m-1")
    mended = store.get(structured.identity)
    assert mended is not None and (mended.value, mended.rung) == ({"n": 7}, "repaired")
    again = read_batch(tmp_path / "results.jsonl", file.requests, store)
    assert again["stored"] == 5 and again["pending"] == 2  # the dead one is tried again and dies again
    (rest,) = write_batches([good, refused, expired, limited], store, tmp_path / "rest")
    assert set(read_requests(rest.requests)) == {expired.identity, limited.identity}


def test_wrong_input_says_so(tmp_path: Path, store: ReplyStore) -> None:
    with pytest.raises(PoiseError, match="prefill"):
        write_batches([ask(0, prefill="Sure")], store, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (tmp_path / "here").mkdir()
    with pytest.raises(PoiseError, match="already exists"):
        write_batches([ask(0)], store, tmp_path / "here")
    (tmp_path / "no.jsonl").write_text("{}\n")
    with pytest.raises(PoiseError, match="no file of requests"):
        read_batch(tmp_path / "no.jsonl", tmp_path / "no.jsonl", store)
    (file,) = write_batches([ask(0)], store, tmp_path / "out")
    with pytest.raises(PoiseError, match="can't be read"):
        read_batch(tmp_path / "absent", file.requests, store)
