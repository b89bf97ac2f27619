"""A request as the JSON that OpenAI-compatible servers take, and their answers, whole or in pieces, as a reply."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from poise.data.rows import uniform_seed
from poise.llm.exchange import ChatRequest, EndpointError, Reply, Shape

Prefill = Literal["vllm", "assistant"]
"""How a server is told to continue an answer: vLLM, SGLang and llama.cpp take `continue_final_message`; others continue
whatever message of the assistant comes last."""

Logprobs = tuple[tuple[str, float, dict[str, float]], ...]


def request_body(
    request: ChatRequest, shape: Shape = "text", *, prefill: Prefill | None = None, tokens_name: str = "max_tokens"
) -> dict[str, Any]:
    """The JSON of a request, without `stream`.

    Args:
        shape: how a structured answer is asked for; counts only when the request has a schema.
        prefill: how the server is told to continue an answer.
        tokens_name: what the server calls `max_tokens`.

    Raises:
        EndpointError: "unsupported", when the request has a prefill and the server is not known to take one.
    """
    body: dict[str, Any] = {"model": request.model}
    if request.complete:
        body["prompt"] = request.messages[0][1] + (request.prefill or "")
    else:
        body["messages"] = [{"role": role, "content": content} for role, content in request.messages]
        if request.prefill is not None:
            if prefill is None:
                raise EndpointError("unsupported", "this endpoint is not set up to continue an answer (prefill)")
            body["messages"].append({"role": "assistant", "content": request.prefill})
            if prefill == "vllm":
                body |= {"continue_final_message": True, "add_generation_prompt": False}
    body |= {"temperature": request.temperature, "top_p": request.top_p}
    body["max_tokens" if request.complete else tokens_name] = request.max_tokens
    if request.seed is not None:
        # the samples of one request must differ, and so must the seeds that are sent
        body["seed"] = uniform_seed(request.seed, "sample", str(request.sample)) if request.sample else request.seed
    if request.stop:
        body["stop"] = list(request.stop)
    if request.logprobs:
        body |= {"logprobs": request.logprobs if request.complete else True}
        if not request.complete:
            body["top_logprobs"] = request.logprobs
    if request.schema is not None and shape == "json_object":
        body["response_format"] = {"type": "json_object"}
    elif request.schema is not None and shape == "json_schema":
        told = {"name": "answer", "schema": request.schema, "strict": _is_strict(request.schema)}
        body["response_format"] = {"type": "json_schema", "json_schema": told}
    return body


def _is_strict(schema: Any) -> bool:
    """Whether OpenAI takes the schema in its strict mode: every object closed and all its properties required."""
    if isinstance(schema, list):
        return all(map(_is_strict, schema))
    if not isinstance(schema, Mapping):
        return True
    properties = schema.get("properties")
    if isinstance(properties, Mapping) or schema.get("type") == "object":
        names = set(properties or ())
        if schema.get("additionalProperties") is not False or names != set(schema.get("required", ())):
            return False
    return all(map(_is_strict, schema.values()))


def load_json(raw: bytes | str) -> Any:
    """The value, or None for what is no JSON.

    No exception, because it would hold the text, which may quote a prompt or a key.
    """
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
        return None


def whole_text(texts: Sequence[str]) -> str:
    """The texts as one; the halves of a character that came apart are joined, one without the other is replaced."""
    return "".join(texts).encode("utf-16", "surrogatepass").decode("utf-16", "replace")


class Answer:
    """An answer as it comes in: one whole object, or one chunk after another.

    Args:
        chat: a chat's answer, otherwise a completion's.
    """

    def __init__(self, *, chat: bool) -> None:
        self._chat = chat
        self._texts: list[str] = []
        self._refusals: list[str] = []
        self._logprobs: list[tuple[str, float, dict[str, float]]] = []
        self._usage: Mapping[str, Any] = {}
        self._model = ""
        self._finish: str | None = None

    @property
    def finished(self) -> bool:
        """Whether the server has said how the answer ended."""
        return self._finish is not None

    def add(self, told: Mapping[str, Any]) -> bool:
        """Take in an object; returns false when it is not of the shape that it should be."""
        try:
            self._model = told.get("model") or self._model
            self._usage = told.get("usage") or self._usage
            for choice in (told.get("choices") or ())[:1]:
                piece = choice.get("message") or choice.get("delta") or {} if self._chat else choice
                self._texts.append(piece.get("content" if self._chat else "text") or "")
                if refusal := piece.get("refusal"):
                    self._refusals.append(refusal)
                if logprobs := choice.get("logprobs"):
                    self._logprobs += _read_logprobs(logprobs)
                self._finish = choice.get("finish_reason") or self._finish
        except (AttributeError, TypeError, KeyError, ValueError):
            return False
        return True

    def reply(self, shape: Shape, latency_s: float) -> Reply | None:
        """The reply, or None when a part of it is missing or of another type."""
        prompt, completion = self._usage.get("prompt_tokens"), self._usage.get("completion_tokens")
        texts_are_texts = all(isinstance(text, str) for text in (*self._texts, *self._refusals, self._model))
        if not isinstance(self._finish, str) or not texts_are_texts:
            return None
        # some servers say which filter it was behind the word
        finish = "content_filter" if self._finish.startswith("content_filter") else self._finish
        return Reply(
            whole_text(self._texts),
            finish,
            prompt_tokens=prompt if isinstance(prompt, int) else None,
            completion_tokens=completion if isinstance(completion, int) else None,
            latency_s=latency_s,
            served_model=whole_text([self._model]),
            logprobs=tuple(self._logprobs) or None,
            refusal=whole_text(self._refusals) or None,
            shape=shape,
        )


def _read_logprobs(told: Mapping[str, Any]) -> Logprobs:
    """Both forms: a list of objects (chat, and all of llama.cpp), and parallel lists (completions)."""
    if "content" in told:
        return tuple(
            (
                one["token"],
                float(one["logprob"]),
                _alternatives((o["token"], o["logprob"]) for o in one["top_logprobs"]),
            )
            for one in told["content"] or ()
        )
    tokens = told.get("tokens") or ()
    others = told.get("top_logprobs") or [None] * len(tokens)
    return tuple(
        (token, float(own), _alternatives((more or {}).items()))
        for token, own, more in zip(tokens, told["token_logprobs"], others, strict=True)
        if own is not None  # an echoed first token has none
    )


def _alternatives(told: Iterable[tuple[str, float]]) -> dict[str, float]:
    """Most likely first; of tokens that look alike (parts of one character) the first."""
    found: dict[str, float] = {}
    for token, logprob in told:
        found.setdefault(token, float(logprob))
    return found
