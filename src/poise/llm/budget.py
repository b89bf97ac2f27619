"""What a run will cost, before it starts, and a limit at which it stops by itself.

Tokens of a prompt are estimated (4 characters a token, or a tokenizer of yours); what comes back counts at most as
`max_tokens` before, and as the server says afterwards. Prices are the user's own table: none are built in, they age.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from poise.llm.exchange import ChatRequest, Reply
from poise.llm.store import ReplyStore

CountTokens = Callable[[str], int]


class Price(NamedTuple):
    """Money for a million tokens, in the currency of the table."""

    prompt: float
    completion: float


def estimate_tokens(request: ChatRequest, count: CountTokens | None = None) -> int:
    """Tokens of the prompt: 4 characters a token, or as `count` says; 4 for the frame of each message."""
    texts = [content for _, content in request.messages]
    return sum((count(text) if count else math.ceil(len(text) / 4)) + 4 for text in texts)


@dataclass
class Estimate:
    """What a dry run says.

    Args:
        requests: different requests.
        stored: of them already answered.
        prompt_tokens: to be sent.
        most_completion_tokens: that can come back.
        most_cost: in the currency of the table, None when a model has no price.
    """

    requests: int = 0
    stored: int = 0
    prompt_tokens: int = 0
    most_completion_tokens: int = 0
    most_cost: float | None = 0.0

    def add(self, other: Estimate) -> None:
        """Count further requests."""
        self.requests += other.requests
        self.stored += other.stored
        self.prompt_tokens += other.prompt_tokens
        self.most_completion_tokens += other.most_completion_tokens
        known = self.most_cost is not None and other.most_cost is not None
        self.most_cost = (self.most_cost or 0.0) + (other.most_cost or 0.0) if known else None


def dry_run(
    requests: Iterable[ChatRequest],
    store: ReplyStore,
    prices: Mapping[str, Price] | None = None,
    count: CountTokens | None = None,
) -> Estimate:
    """What running these requests would send and cost at most; nothing is sent."""
    found = Estimate()
    seen: set[str] = set()
    for request in requests:
        identity = request.identity
        if identity in seen:
            continue
        seen.add(identity)
        found.requests += 1
        if store.state(identity) not in (None, "dead"):
            found.stored += 1
            continue
        prompt = estimate_tokens(request, count)
        found.prompt_tokens += prompt
        found.most_completion_tokens += request.max_tokens
        price = (prices or {}).get(request.model)
        if price is None or found.most_cost is None:
            found.most_cost = None
        else:
            found.most_cost += (prompt * price.prompt + request.max_tokens * price.completion) / 1e6
    return found


@dataclass
class Budget:
    """A limit on a run; whatever is reached first stops it. None is no limit.

    Args:
        requests: sends, repeated ones included.
        tokens: prompt and completion tokens.
        cost: money, with `prices`.
        prices: model -> price.
    """

    requests: int | None = None
    tokens: int | None = None
    cost: float | None = None
    prices: Mapping[str, Price] = field(default_factory=dict)
    sent: int = 0
    tokens_used: int = 0
    cost_used: float = 0.0
    _reserved: dict[int, tuple[int, float]] = field(default_factory=dict)

    def reserve(self, request: ChatRequest) -> int | None:
        """Set aside what a send can cost at most; returns a ticket, or None when it would go over the limit."""
        prompt, most = estimate_tokens(request), request.max_tokens
        tokens, cost = prompt + most, self._cost(request.model, prompt, most)
        held = list(self._reserved.values())
        over = (
            (self.requests is not None and self.sent >= self.requests)
            or (self.tokens is not None and self.tokens_used + sum(t for t, _ in held) + tokens > self.tokens)
            or (self.cost is not None and self.cost_used + sum(c for _, c in held) + cost > self.cost)
        )
        if over:
            return None
        self.sent += 1
        self._reserved[self.sent] = tokens, cost
        return self.sent

    def settle(self, ticket: int, request: ChatRequest, reply: Reply | None) -> None:
        """Count what the send really cost; a fault without a reply costs nothing that we know of."""
        self._reserved.pop(ticket)
        if reply is not None:
            prompt = reply.prompt_tokens if reply.prompt_tokens is not None else estimate_tokens(request)
            completion = reply.completion_tokens if reply.completion_tokens is not None else len(reply.text) // 4
            self.tokens_used += prompt + completion
            self.cost_used += self._cost(request.model, prompt, completion)

    def _cost(self, model: str, prompt: int, completion: int) -> float:
        price = self.prices.get(model, Price(0.0, 0.0))
        return (prompt * price.prompt + completion * price.completion) / 1e6
