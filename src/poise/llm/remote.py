"""Servers in the place of the local model: any chat clients as an `Endpoint`, through the runner.

    endpoint = RemoteEndpoint([HttpClient("lab", url)], "llama-3-8b", store=Path("replies.sqlite"))

With a store a killed stage sends only what is missing when it runs again, which includes what had failed for good. A
request without an answer (too long, filtered, failed again and again) gives an empty, unfinished text, which the stages
drop, and is counted in `unanswered`.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from poise.data.rows import Sampling
from poise.errors import PoiseError
from poise.llm.budget import Budget
from poise.llm.endpoint import Completion, Messages
from poise.llm.exchange import ChatClient, ChatRequest
from poise.llm.limits import Lane, Limits
from poise.llm.runner import ask_all
from poise.llm.store import Exchange, ReplyStore
from poise.llm.stored import completion_of, said, to_request

_LIMITS = Limits()


def _ignore(rows: int) -> None:
    """Nobody asked how far it is."""


class RemoteEndpoint:
    """Chat and completion by servers that answer alike.

    Args:
        clients: one lane each, or lanes with limits of their own.
        model: name the servers know.
        name: written into the provenance of every text; the model's name by default.
        limits: of each lane.
        store: file of replies, kept, or an open store; None keeps none.
        budget: stops sending when reached.

    Attributes:
        unanswered: why -> requests that got no answer so far.
    """

    def __init__(
        self,
        clients: Sequence[ChatClient | Lane],
        model: str,
        *,
        name: str | None = None,
        limits: Limits = _LIMITS,
        store: Path | ReplyStore | None = None,
        budget: Budget | None = None,
    ) -> None:
        self.model, self.name = model, name or model
        self.unanswered: Counter[str] = Counter()
        self._lanes = [client if isinstance(client, Lane) else Lane(client, limits) for client in clients]
        self._store, self._budget = store, budget

    def requests(self, conversations: Sequence[Messages], sampling: Sequence[Sampling]) -> list[ChatRequest]:
        """What `chat` would ask, for a dry run or a batch file."""
        return [to_request(self.model, said(talk), how) for talk, how in zip(conversations, sampling, strict=True)]

    def chat(
        self,
        conversations: Sequence[Messages],
        sampling: Sequence[Sampling],
        on_rows: Callable[[int], object] = _ignore,
    ) -> list[Completion]:
        """One reply to each conversation, in order.

        Raises:
            PoiseError: the servers refuse the key or the model, or not one request got an answer.
        """
        return self._ask(self.requests(conversations, sampling), on_rows)

    def complete(
        self, texts: Sequence[str], sampling: Sequence[Sampling], on_rows: Callable[[int], object] = _ignore
    ) -> list[Completion]:
        """One continuation of each plain text, in order.

        Raises:
            PoiseError: as for `chat`.
        """
        prompts = [(("prompt", text),) for text in texts]
        asked = [to_request(self.model, told, how, complete=True) for told, how in zip(prompts, sampling, strict=True)]
        return self._ask(asked, on_rows)

    def _ask(self, requests: Sequence[ChatRequest], on_rows: Callable[[int], object]) -> list[Completion]:
        identities = [request.identity for request in requests]
        waiting = Counter(identities)
        with self._opened() as store:
            ask_all(
                requests,
                store,
                self._lanes,
                name=self.name,
                budget=self._budget,
                on_end=lambda _, ended: on_rows(waiting.pop(ended.identity)),
            )
            on_rows(waiting.total())  # those that an earlier run had answered
            return self._completions(list(store.exchanges(identities)))

    def _completions(self, exchanges: Sequence[Exchange]) -> list[Completion]:
        missing = Counter(f"{e.state}: {e.reason}" for e in exchanges if e.reply is None)
        self.unanswered += missing
        if exchanges and missing.total() == len(exchanges):
            (reason, count), *_ = missing.most_common(1)
            raise PoiseError(
                f"none of {len(exchanges)} requests got an answer; {count} of them {reason}",
                where=self.name,
                do="see to the server, then run it again",
                exit_code=4,
            )
        return [completion_of(exchange) for exchange in exchanges]

    @contextmanager
    def _opened(self) -> Iterator[ReplyStore]:
        if isinstance(self._store, ReplyStore):
            yield self._store
            return
        if self._store is not None:
            with ReplyStore(self._store) as store:
                yield store
            return
        with tempfile.TemporaryDirectory(prefix="poise-") as folder, ReplyStore(Path(folder) / "replies") as store:
            yield store
