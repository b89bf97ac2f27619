"""Any endpoint with a memory: what it answered once is in the store and is not asked again.

For the local model, which has no runner in front of it: replies are committed batch by batch, so a killed run loses the
batch in flight, and the next run continues behind it. Servers have the same through `RemoteEndpoint`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from poise.data.rows import Sampling
from poise.llm.endpoint import Completion, Endpoint, Messages
from poise.llm.exchange import ChatRequest, Reply
from poise.llm.store import Exchange, ReplyStore, outcome

FINISHED = ("done", "refused")
"""States of a reply that came to its end."""


def _ignore(rows: int) -> None:
    """Nobody asked how far it is."""


def to_request(
    model: str, messages: Sequence[tuple[str, str]], how: Sampling, *, complete: bool = False
) -> ChatRequest:
    """What determines the answer; `messages` of a completion are one ("prompt", text)."""
    return ChatRequest(
        model,
        tuple(messages),
        temperature=how.temperature,
        top_p=how.top_p,
        max_tokens=how.max_new_tokens,
        seed=how.seed,
        complete=complete,
    )


def said(conversation: Messages) -> tuple[tuple[str, str], ...]:
    """A conversation as (role, content)."""
    return tuple((message["role"], message["content"]) for message in conversation)


class StoredEndpoint:
    """An endpoint in front of which a store stands.

    Args:
        inner: who answers.
        store: open.
        batch: requests answered between two commits.
        key: what the store knows the model by where its name is not enough: a folder's weights may change.
    """

    def __init__(self, inner: Endpoint, store: ReplyStore, batch: int = 96, key: str | None = None) -> None:
        self.inner, self.store, self.batch, self.name = inner, store, batch, inner.name
        self.key = key or inner.name

    def chat(
        self,
        conversations: Sequence[Messages],
        sampling: Sequence[Sampling],
        on_rows: Callable[[int], object] = _ignore,
    ) -> list[Completion]:
        """One reply to each conversation, in order."""
        asked = [to_request(self.key, said(talk), how) for talk, how in zip(conversations, sampling, strict=True)]
        return self._answers(
            asked,
            lambda missing: self.inner.chat(
                [conversations[i] for i in missing], [sampling[i] for i in missing], _ignore
            ),
            on_rows,
        )

    def complete(
        self, texts: Sequence[str], sampling: Sequence[Sampling], on_rows: Callable[[int], object] = _ignore
    ) -> list[Completion]:
        """One continuation of each plain text, in order."""
        asked = [
            to_request(self.key, (("prompt", text),), how, complete=True)
            for text, how in zip(texts, sampling, strict=True)
        ]
        return self._answers(
            asked,
            lambda missing: self.inner.complete([texts[i] for i in missing], [sampling[i] for i in missing], _ignore),
            on_rows,
        )

    def _answers(
        self,
        asked: Sequence[ChatRequest],
        answer: Callable[[Sequence[int]], list[Completion]],
        on_rows: Callable[[int], object],
    ) -> list[Completion]:
        identities = [request.identity for request in asked]
        missing: dict[str, int] = {}
        for index, identity in enumerate(identities):
            if self.store.state(identity) is None:
                missing.setdefault(identity, index)
        on_rows(len(asked) - len(missing))
        # sorted by length, so that a batch holds little padding and the samples of one prompt stand together
        waiting = sorted(missing.values(), key=lambda i: (sum(len(text) for _, text in asked[i].messages), i))
        for start in range(0, len(waiting), self.batch):
            batch = waiting[start : start + self.batch]
            for index, completion in zip(batch, answer(batch), strict=True):
                self.store.finish(asked[index], self._ended(asked[index], completion))
            on_rows(len(batch))
        return [completion_of(exchange) for exchange in self.store.exchanges(identities)]

    def _ended(self, request: ChatRequest, completion: Completion) -> Exchange:
        if completion.reason is not None:
            return Exchange(request.identity, "dead", lane="local", reason=completion.reason)
        reply = Reply(completion.text, "stop" if completion.finished else "length", served_model=self.name)
        state, reason = outcome(request, reply, None)
        return Exchange(request.identity, state, reply, lane="local", reason=reason)


def completion_of(exchange: Exchange) -> Completion:
    """A stored answer as a completion; one without a reply is empty and says why."""
    reply = exchange.reply
    if reply is None:
        return Completion("", False, exchange.reason or exchange.state)
    return Completion(reply.refusal or reply.text, exchange.state in FINISHED)
