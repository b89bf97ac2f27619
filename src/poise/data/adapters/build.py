"""What all adapters share: a source line that names itself in errors, and a builder that turns it into rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from poise.data.corpus import Corpus, pair_row
from poise.data.rows import Judgement, PairRow, PromptRow, Provenance, QARow, Rater, Split, text_id
from poise.errors import PoiseError

Kind = Literal["harmful", "lookalike", "ordinary", "unknown"]


class RowDroppedError(Exception):
    """Raised by an adapter for a row that is not taken in; the message is the reason that is counted."""


@dataclass(frozen=True)
class Line:
    """One row of a source file and where it stands."""

    row: dict[str, Any]
    path: Path
    number: int

    def get(self, column: str) -> Any:
        """The value of a column.

        Raises:
            PoiseError: there is no such column, so the file is not in the expected format.
        """
        if column not in self.row:
            raise PoiseError(
                f"no column {column!r}", where=f"{self.path}:{self.number}", do="is the file in this adapter's format?"
            )
        return self.row[column]

    def text(self, column: str) -> str:
        """A text that can be used.

        Raises:
            RowDroppedError: it is no text, it is blank, or it holds a lone surrogate.
        """
        return usable_text(self.get(column), column)

    def flag(self, column: str) -> bool:
        """A boolean.

        Raises:
            RowDroppedError: it is none.
        """
        value = self.get(column)
        if not isinstance(value, bool):
            raise RowDroppedError(f"{column} is no boolean")
        return value


def usable_text(value: object, name: str) -> str:
    """The value as a text, or `RowDroppedError` with the reason."""
    if not isinstance(value, str):
        raise RowDroppedError(f"{name} is no text")
    if not value.strip():
        raise RowDroppedError(f"{name} is empty")
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise RowDroppedError(f"{name} holds a lone surrogate")
    return value


class Builder:
    """Collects one source's rows; equal texts become one row, each judgement stays.

    Args:
        name: the data set; the rater is `import:<name>`.
        licence: of the data, kept with each text.
    """

    def __init__(self, name: str, licence: str) -> None:
        self.name, self.licence = name, licence
        self.rater = Rater(id=f"import:{name}", kind="import")
        self.judgements: list[Judgement] = []
        self._prompts: dict[str, PromptRow] = {}
        self._qa: dict[str, QARow] = {}
        self._pairs: dict[str, PairRow] = {}
        self._dropped: Counter[str] = Counter()

    def take(self, lines: Iterable[Line], adapt: Callable[[Builder, Line], None]) -> None:
        """Run an adapter over all lines; a `RowDroppedError` row is counted.

        Raises:
            PoiseError: a row of another shape than the adapter's format.
        """
        for line in lines:
            try:
                adapt(self, line)
            except RowDroppedError as reason:
                self.note(str(reason))
            except (AttributeError, LookupError, TypeError, ValueError) as error:
                raise PoiseError(
                    f"not a row of {self.name!r} ({type(error).__name__})",
                    where=f"{line.path}:{line.number}",
                    do="is the file in this adapter's format?",
                ) from error

    def note(self, reason: str) -> None:
        """Count one dropped row, or one judgement that a row does not give."""
        self._dropped[reason] += 1

    def prompt(self, text: str, *, kind: Kind = "unknown", source: str | None = None, split: Split = "train") -> str:
        """Add a prompt; returns its id, made from the text."""
        row_id = text_id("p", text)
        if row_id not in self._prompts:
            made = Provenance(source=source or self.name, licence=self.licence)
            self._prompts[row_id] = PromptRow(id=row_id, prompt=text, kind=kind, split=split, provenance=made)
        return row_id

    def qa(
        self, prompt: str, response: str, *, kind: Kind = "unknown", source: str | None = None, split: Split = "train"
    ) -> QARow:
        """Add a response, and its prompt where it is new; the id is made from both texts."""
        row_id = text_id("qa", prompt, response)
        if row_id not in self._qa:
            self._qa[row_id] = QARow(
                id=row_id,
                prompt_id=self.prompt(prompt, kind=kind, split=split),
                prompt=prompt,
                response=response,
                split=split,
                provenance=Provenance(source=source or self.name, licence=self.licence),
            )
        return self._qa[row_id]

    def pair(
        self,
        prompt: str,
        responses: tuple[str, str],
        *,
        keep_order: bool = False,
        sources: tuple[str | None, str | None] = (None, None),
        split: Split = "train",
    ) -> tuple[PairRow, list[QARow]]:
        """Add two responses and their pair; see `poise.data.corpus.pair_row` for which one becomes response 0.

        Returns:
            The pair and the QA rows in the order given.

        Raises:
            RowDroppedError: the two responses are equal.
        """
        if responses[0] == responses[1]:
            raise RowDroppedError("the two responses are equal")
        answers = [
            self.qa(prompt, text, source=made, split=split) for text, made in zip(responses, sources, strict=True)
        ]
        row = pair_row(answers[0], answers[1], keep_order=keep_order)
        return self._pairs.setdefault(row.id, row), answers

    def judge(self, item: str, question: Any, value: object) -> None:
        """Append the source's answer."""
        self.judgements.append(Judgement(item=item, question=question, value=value, rater=self.rater.id))

    def corpus(self) -> Corpus:
        """What was collected."""
        return Corpus(
            prompts=list(self._prompts.values()),
            qa=list(self._qa.values()),
            pairs=list(self._pairs.values()),
            judgements=self.judgements,
            raters=[self.rater],
            dropped=dict(sorted(self._dropped.items())),
        )
