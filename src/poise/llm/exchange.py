"""One exchange with a language model: the request, whose identity is what determines its answer, the reply, the fault.

The runner stores replies under a request's identity, clients turn requests into replies or faults, and neither knows
the other. Keys and addresses of servers are no part of a request.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol

from poise.data.corpus import canonical_json
from poise.errors import PoiseError

Shape = Literal["json_schema", "json_object", "text"]
"""How a structured answer is asked for: by a schema that the server enforces, as any JSON object, or in words only."""

FaultKind = Literal[
    "rate-limited",  # 429
    "overloaded",  # 503, 529
    "server",  # other 5xx, or an answer that is no answer (HTML, broken JSON, half a stream)
    "timeout",
    "connection",  # refused, dropped, name not found
    "certificate",
    "key",  # 401, 403
    "model",  # the server has no such model
    "too-long",  # prompt longer than the context
    "filtered",  # the provider's own filter refused to answer
    "unsupported",  # the server can't do what was asked (json_schema, logprobs, prefill)
    "request",  # any other 4xx
]
RETRYABLE: frozenset[FaultKind] = frozenset({"rate-limited", "overloaded", "server", "timeout", "connection"})
"""Faults after which the same request may succeed."""
FATAL: frozenset[FaultKind] = frozenset({"certificate", "key", "model"})
"""Faults that every further request to the endpoint would meet too."""


@dataclass(frozen=True)
class ChatRequest:
    """What determines an answer.

    Args:
        model: name the server knows.
        messages: (role, content) in order; with `complete` a single ("prompt", text).
        temperature, top_p, max_tokens, seed, stop: sampling.
        schema: JSON schema of a structured answer.
        prefill: beginning of the answer, where the server can continue one.
        logprobs: how many alternatives per token to report, 0 for none.
        sample: number of this sample among several of the same request.
        template: version of the prompt template that the messages were made with.
        complete: plain completion instead of chat.
    """

    model: str
    messages: tuple[tuple[str, str], ...]
    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int = 512
    seed: int | None = None
    stop: tuple[str, ...] = ()
    schema: Mapping[str, Any] | None = field(default=None, hash=False)
    prefill: str | None = None
    logprobs: int = 0
    sample: int = 0
    template: str = ""
    complete: bool = False

    @property
    def identity(self) -> str:
        """SHA-256 of the canonical JSON of all fields, 64 hex digits."""
        return hashlib.sha256(canonical_json(asdict(self)).encode()).hexdigest()


@dataclass(frozen=True)
class Reply:
    """What a server answered.

    Args:
        text: the answer, without the prefill.
        finish_reason: "stop", "length", "content_filter", ... as the server says it.
        prompt_tokens, completion_tokens: usage as the server counts it, None when it does not say.
        latency_s: from sending to the last byte.
        served_model: what the server says it ran.
        logprobs: per token (token, log-probability, {alternative: log-probability}), when asked for and given.
        refusal: the text of a refusal that the server marks as one.
        shape: how a structured answer was asked for.
    """

    text: str
    finish_reason: str
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    latency_s: float = 0.0
    served_model: str = ""
    logprobs: tuple[tuple[str, float, dict[str, float]], ...] | None = None
    refusal: str | None = None
    shape: Shape = "text"


class EndpointError(Exception):
    """No reply.

    Args:
        kind: what went wrong.
        reason: one line that quotes neither a key nor the prompt.
        retry_after_s: how long the server asks to wait.
        status: HTTP status, where there was one.
    """

    def __init__(
        self, kind: FaultKind, reason: str, *, retry_after_s: float | None = None, status: int | None = None
    ) -> None:
        self.kind, self.reason, self.retry_after_s, self.status = kind, reason, retry_after_s, status
        super().__init__(f"{kind}: {reason}")


class ServersGoneError(PoiseError):
    """No server takes any request: the key or the model is refused everywhere, or nothing at all comes back."""


class ChatClient(Protocol):
    """One lane to one server: an address with one key."""

    alias: str
    """What logs and the store call it; tells neither address nor key."""

    async def send(self, request: ChatRequest, shape: Shape = "text") -> Reply:
        """One exchange.

        Raises:
            EndpointError: there is no reply.
        """
        ...

    async def close(self) -> None:
        """Give connections back."""
        ...
