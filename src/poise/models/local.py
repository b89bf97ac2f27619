"""The local trunk as an `Endpoint`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from poise.data.rows import Sampling
from poise.llm import Completion, Messages
from poise.models.encoder import ignore
from poise.models.generate import Request, chat_ids, generate
from poise.models.trunk import REFERENCE, Trunk


class LocalEndpoint:
    """Chat and completion with the weights in this process.

    Args:
        trunk: the language model.
        name: written into the provenance of every text.
        role: the adapter that speaks; the plain model by default.
        batch_size: rows decoded together.
    """

    def __init__(self, trunk: Trunk, name: str, *, role: str = REFERENCE, batch_size: int = 96) -> None:
        self.trunk, self.name, self.role, self.batch_size = trunk, name, role, batch_size

    def chat(
        self, conversations: Sequence[Messages], sampling: Sequence[Sampling], on_rows: Callable[[int], object] = ignore
    ) -> list[Completion]:
        """One reply to each conversation, in order; one that can't be served has no text and a reason."""
        return self._sample([chat_ids(self.trunk, messages) for messages in conversations], sampling, on_rows)

    def complete(
        self, texts: Sequence[str], sampling: Sequence[Sampling], on_rows: Callable[[int], object] = ignore
    ) -> list[Completion]:
        """One continuation of each plain text, in order; no template. Without a reply, there is a reason."""
        ids = [self.trunk.tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
        return self._sample(ids, sampling, on_rows)

    def _sample(
        self, prompts: Sequence[Sequence[int]], sampling: Sequence[Sampling], on_rows: Callable[[int], object]
    ) -> list[Completion]:
        requests = [Request(ids, how) for ids, how in zip(prompts, sampling, strict=True)]
        sampled = generate(self.trunk, requests, role=self.role, batch_size=self.batch_size, on_rows=on_rows)
        decode = self.trunk.tokenizer.decode
        return [Completion(decode(s.ids, skip_special_tokens=True), s.finished, s.reason) for s in sampled]
