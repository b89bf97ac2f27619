"""An endpoint that asks nobody: it counts what would be sent, for `--dry-run`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from poise.data.rows import Sampling
from poise.llm.budget import Estimate, Price, dry_run
from poise.llm.endpoint import Completion, Messages
from poise.llm.exchange import ChatRequest
from poise.llm.store import ReplyStore
from poise.llm.stored import completion_of, said, to_request


class DryEndpoint:
    """Answers from the store, and with nothing where the store has no answer.

    Args:
        name: of the model.
        store: open; what is in it would not be sent again.
        prices: model -> price, for the cost.

    Attributes:
        estimate: of all that was asked so far.
    """

    def __init__(self, name: str, store: ReplyStore, prices: Mapping[str, Price] | None = None) -> None:
        self.name, self._store, self._prices = name, store, prices
        self.estimate = Estimate()

    def chat(
        self, conversations: Sequence[Messages], sampling: Sequence[Sampling], on_rows: Callable[[int], object]
    ) -> list[Completion]:
        """What the store has."""
        return self._count(
            [to_request(self.name, said(talk), how) for talk, how in zip(conversations, sampling, strict=True)]
        )

    def complete(
        self, texts: Sequence[str], sampling: Sequence[Sampling], on_rows: Callable[[int], object]
    ) -> list[Completion]:
        """What the store has."""
        return self._count(
            [
                to_request(self.name, (("prompt", text),), how, complete=True)
                for text, how in zip(texts, sampling, strict=True)
            ]
        )

    def _count(self, asked: Sequence[ChatRequest]) -> list[Completion]:
        self.estimate.add(dry_run(asked, self._store, self._prices))
        found = [self._store.get(request.identity) for request in asked]
        return [Completion("", False, "not asked") if one is None else completion_of(one) for one in found]
