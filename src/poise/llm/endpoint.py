"""What turns text into text: the seam behind which a local model or a remote server sits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

from poise.data.rows import Sampling

Messages = list[dict[str, str]]


class Completion(NamedTuple):
    """A reply.

    Args:
        finished: false when the length limit cut it, and when there is none.
        reason: why there is none, for example "too-long": the prompt fills the model's context.
    """

    text: str
    finished: bool
    reason: str | None = None


class Endpoint(Protocol):
    """A language model.

    `name` goes into the provenance of every text it writes.
    """

    name: str

    def chat(
        self, conversations: Sequence[Messages], sampling: Sequence[Sampling], on_rows: Callable[[int], Any]
    ) -> list[Completion]:
        """One reply to each conversation, in order; `on_rows` hears how many more are done."""
        ...

    def complete(
        self, texts: Sequence[str], sampling: Sequence[Sampling], on_rows: Callable[[int], Any]
    ) -> list[Completion]:
        """One continuation of each plain text, in order."""
        ...
