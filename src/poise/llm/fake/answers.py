"""What the fake server says: harmless words, a pure function of its seed and the request, in the wire format of OpenAI.

A request whose body names no `seed` and is hot gets another answer under another `X-Client-Request-Id`, as a real
server would give; without that header equal bodies get equal answers. The time stamp is a constant for the same reason.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from poise.llm.fake.values import Chooser

_TEXT = """
    a about after again air all also and apple around autumn away bird blue boat book bread bridge bright by calm
    can chair clear cloud coat cold colour cool corner cup day door down drift early east easy evening every far
    field find fire first fish flower fog for forest friend from garden gentle glass good grass green ground grow
    hand harbour have hill home hour house in into island it its keep kind lake lamp late leaf left letter light like
    line little long look low map meadow milk month moon morning moss mountain music near new night north not now oak
    of old on one open orange other our out over page paint paper path pear pine plain plant quiet rain read red rest
    river road roof room round sail same sand sea season seed shade shore side sky slow small snow soft some song
    south spring star stone story stream street summer sun table tea that the then there they thin time to tower town
    train tree two under up valley village walk wall warm water way we west white wide wind window winter with wood
    word year yellow young
"""
_WORDS = tuple(_TEXT.split())
_TOKEN = re.compile(r"\s?\w+|\s?[^\w\s]|\s")
_CREATED = 1_700_000_000

Logprob = tuple[str, float, dict[str, float]]


@dataclass(frozen=True)
class Answer:
    """What is said.

    Args:
        tokens: of the text, in order.
        finish_reason: "stop", "length" or "content_filter".
        prompt_tokens: length of what was asked.
        key: what the answer was made from, 32 bytes; names the answer.
        refusal: the text of a refusal, in place of tokens.
    """

    tokens: tuple[str, ...]
    finish_reason: str
    prompt_tokens: int
    key: bytes
    refusal: str | None = None

    @property
    def text(self) -> str:
        """All tokens together."""
        return "".join(self.tokens)

    def cut(self, tokens: int) -> Answer:
        """The same answer ended by its length."""
        return replace(self, tokens=self.tokens[:tokens], finish_reason="length")


def body_hash(body: Mapping[str, Any]) -> bytes:
    """SHA-256 of what determines the answer: the body without the way it is to be sent."""
    told = {name: value for name, value in body.items() if name not in ("stream", "stream_options")}
    return hashlib.sha256(json.dumps(told, sort_keys=True, separators=(",", ":")).encode()).digest()


def answer_key(seed: int, body: Mapping[str, Any], hashed: bytes, client_id: str) -> bytes:
    """From what an answer is made."""
    if client_id and body.get("seed") is None and (body.get("temperature") is None or body["temperature"] > 0):
        hashed += client_id.encode()
    return hashlib.sha256(b"%d:%s" % (seed, hashed)).digest()


def answer(body: Mapping[str, Any], key: bytes) -> Answer:
    """The answer to a chat or completion request.

    Raises:
        ValueError: the schema has no value that we can find; other errors: it is no schema.
    """
    prefill = _prefill(body)
    shape = body.get("response_format") or {}
    if shape.get("type") in ("json_schema", "json_object"):
        schema = (shape.get("json_schema") or {}).get("schema", {"properties": {"answer": {}, "number": {"enum": [1]}}})
        random = _bytes(key)
        text = json.dumps(Chooser(schema, random, lambda count: _sentence(random, count)).value())
        text = text.removeprefix(prefill)
    else:
        text = (" " if prefill and not prefill[-1].isspace() else "") + _sentence(_bytes(key), 4 + key[0] % 28) + "."
    stops = body.get("stop") or ()
    for stop in [stops] if isinstance(stops, str) else stops:
        text = text.partition(stop)[0]
    found = Answer(tokenize(text), "stop", prompt_tokens(body), key)
    most = body.get("max_completion_tokens") or body.get("max_tokens")
    return found.cut(most) if most is not None and len(found.tokens) > most else found


def tokenize(text: str) -> tuple[str, ...]:
    """Words with the blank before them, and signs; together they are the text."""
    return tuple(_TOKEN.findall(text))


def prompt_tokens(body: Mapping[str, Any]) -> int:
    """About a token for 4 characters of what is asked."""
    if "messages" in body:
        return 1 + sum(len(_text(message)) // 4 for message in body["messages"])
    return 1 + len(body["prompt"]) // 4


def _prefill(body: Mapping[str, Any]) -> str:
    """The beginning of the answer, when the last message is one of the assistant's."""
    last = body["messages"][-1] if body.get("messages") else {}
    return _text(last) if last.get("role") == "assistant" else ""


def _text(message: Mapping[str, Any]) -> str:
    content = message.get("content") or ""
    return content if isinstance(content, str) else " ".join(part.get("text", "") for part in content)


def _bytes(key: bytes) -> Iterator[int]:
    while True:
        yield from key
        key = hashlib.sha256(key).digest()


def _sentence(random: Iterator[int], words: int) -> str:
    return " ".join([_WORDS[byte % len(_WORDS)] for byte in islice(random, words)]).capitalize()


def logprobs(found: Answer, alternatives: int) -> list[Logprob]:
    """For each token its log-probability and those of the most likely tokens, itself the first."""
    told = []
    for at, (token, byte) in enumerate(zip(found.tokens, _bytes(found.key), strict=False)):
        own = -byte / 128
        others = {f" {_WORDS[(byte + at + n) % len(_WORDS)]}": own - n for n in range(1, alternatives)}
        told.append((token, own, ({token: own} | others) if alternatives else {}))
    return told


def reply_body(body: Mapping[str, Any], found: Answer, chat: bool) -> dict[str, Any]:
    """The whole answer as one JSON object."""
    told: dict[str, Any] = _envelope(body, found, "chat.completion" if chat else "text_completion", chat)
    choice: dict[str, Any] = {
        "index": 0,
        "logprobs": _logprobs(body, found, chat),
        "finish_reason": found.finish_reason,
    }
    if chat:
        content = None if found.refusal is not None else found.text
        choice["message"] = {"role": "assistant", "content": content, "refusal": found.refusal}
    else:
        choice["text"] = found.text
    return {**told, "choices": [choice], "usage": _usage(found)}


def stream_events(body: Mapping[str, Any], found: Answer, chat: bool) -> list[bytes]:
    """The answer as server-sent events, the last one [DONE]."""
    envelope = _envelope(body, found, "chat.completion.chunk" if chat else "text_completion", chat)
    probabilities = _logprobs(body, found, chat)

    def event(delta: dict[str, Any], finish: str | None = None, at: int | None = None) -> bytes:
        piece = None if probabilities is None or at is None else {n: v[at : at + 1] for n, v in probabilities.items()}
        told = {"delta": delta} if chat else {"text": delta.get("content", "")}
        choice = {"index": 0, **told, "logprobs": piece, "finish_reason": finish}
        return _event({**envelope, "choices": [choice]})

    events = [event({"role": "assistant", "content": ""})] if chat else []
    if found.refusal is not None:
        events.append(event({"refusal": found.refusal}))
    events += [event({"content": token}, at=at) for at, token in enumerate(found.tokens)]
    events.append(event({}, found.finish_reason))
    if (body.get("stream_options") or {}).get("include_usage"):
        events.append(_event({**envelope, "choices": [], "usage": _usage(found)}))
    return [*events, b"data: [DONE]\n\n"]


def blank_event(body: Mapping[str, Any], found: Answer, chat: bool) -> bytes:
    """A piece of an answer that is nothing but blanks."""
    blanks = replace(found, tokens=(" " * 32,))
    return stream_events({**body, "logprobs": None}, blanks, chat)[1 if chat else 0]


def _event(told: Mapping[str, Any]) -> bytes:
    return f"data: {json.dumps(told)}\n\n".encode()


def _envelope(body: Mapping[str, Any], found: Answer, kind: str, chat: bool) -> dict[str, Any]:
    name = ("chatcmpl-" if chat else "cmpl-") + found.key.hex()[:24]
    return {"id": name, "object": kind, "created": _CREATED, "model": body["model"], "system_fingerprint": "poise-fake"}


def _usage(found: Answer) -> dict[str, int]:
    completion = len(found.tokens)
    return {
        "prompt_tokens": found.prompt_tokens,
        "completion_tokens": completion,
        "total_tokens": found.prompt_tokens + completion,
    }


def _logprobs(body: Mapping[str, Any], found: Answer, chat: bool) -> dict[str, list[Any]] | None:
    asked = body.get("logprobs")
    if asked is None or asked is False:
        return None
    if not chat:
        told = logprobs(found, int(asked))
        starts, at = [], 0
        for token in found.tokens:
            starts.append(at)
            at += len(token)
        return {
            "tokens": [token for token, _, _ in told],
            "token_logprobs": [own for _, own, _ in told],
            "top_logprobs": [others for _, _, others in told],
            "text_offset": starts,
        }
    content = [
        {**_one(token, own), "top_logprobs": [_one(t, p) for t, p in others.items()]}
        for token, own, others in logprobs(found, body.get("top_logprobs") or 0)
    ]
    return {"content": content}


def _one(token: str, logprob: float) -> dict[str, Any]:
    return {"token": token, "logprob": logprob, "bytes": list(token.encode())}
