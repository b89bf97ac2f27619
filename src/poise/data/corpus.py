"""A corpus: prompts, QA pairs, pairs of responses, the judgements about them and who judged, kept as JSON lines.

JSON lines because a stage appends to them, a person can read them and one broken line is found by its number. The
order of rows is kept. What is left out: labels never live in the text rows, they are joined from judgements by id.
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from poise.data.rows import Judgement, PairRow, PromptRow, QARow, Rater, Row, Split, text_id
from poise.errors import PoiseError

R = TypeVar("R", bound=Row)

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass
class Corpus:
    """Texts and what was judged about them.

    Args:
        prompts, qa, pairs: the texts; ids are unique in each list.
        judgements: append-only log; the same question may be answered more than once, see `latest`.
        raters: everyone named by a judgement.
        dropped: reason -> number of source rows that were not taken in.
    """

    prompts: list[PromptRow] = field(default_factory=list)
    qa: list[QARow] = field(default_factory=list)
    pairs: list[PairRow] = field(default_factory=list)
    judgements: list[Judgement] = field(default_factory=list)
    raters: list[Rater] = field(default_factory=list)
    dropped: dict[str, int] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Write `prompts.jsonl`, `qa.jsonl`, `pairs.jsonl`, `judgements.jsonl`, `raters.jsonl`, `dropped.jsonl`."""
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("prompts", "qa", "pairs", "judgements", "raters"):
            write_jsonl(folder / f"{name}.jsonl", (row.to_json() for row in getattr(self, name)))
        write_jsonl(folder / "dropped.jsonl", (_Drop(reason=k, rows=n).to_json() for k, n in self.dropped.items()))

    @classmethod
    def read(cls, folder: Path) -> Corpus:
        """Read what `write` wrote.

        Raises:
            PoiseError: a file is missing, or a line is no JSON or no row of its kind; names file and line.
        """
        return cls(
            prompts=list(read_rows(folder / "prompts.jsonl", PromptRow)),
            qa=list(read_rows(folder / "qa.jsonl", QARow)),
            pairs=list(read_rows(folder / "pairs.jsonl", PairRow)),
            judgements=list(read_rows(folder / "judgements.jsonl", Judgement)),
            raters=list(read_rows(folder / "raters.jsonl", Rater)),
            dropped={row.reason: row.rows for row in read_rows(folder / "dropped.jsonl", _Drop)},
        )


class _Drop(Row):
    """One line of `dropped.jsonl`."""

    reason: str
    rows: int


_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode


def canonical_json(value: object) -> str:
    """JSON text on one line: no blanks, key order kept, UTF-8 characters as they are, lone surrogates escaped."""
    text = _encode(value)
    return _LONE_SURROGATE.sub(lambda match: f"\\u{ord(match.group()):04x}", text)


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write one canonical JSON object a line."""
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for row in rows:
            file.write(canonical_json(row) + "\n")


def read_jsonl(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number from 1, object) of a JSON-lines file, `.gz` or plain; blank lines are skipped.

    Raises:
        PoiseError: no such file, a damaged archive, bytes that are not UTF-8, or a line that is no JSON object.
    """
    number = 0
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            for number, raw in enumerate(file, start=1):
                if raw.strip():
                    yield number, _object(path, number, raw)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise PoiseError(f"damaged archive ({error})", where=f"{path}:{number + 1}", do="fetch it again") from error
    except OSError as error:
        raise PoiseError(f"cannot be read ({error.strerror})", where=str(path), do="check the path") from error


def _object(path: Path, number: int, raw: bytes) -> dict[str, Any]:
    where = f"{path}:{number}"
    try:
        value = json.loads(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise PoiseError(f"byte {error.start + 1} of the line is not UTF-8", where=where, do="save as UTF-8") from error
    except (ValueError, RecursionError) as error:
        raise PoiseError(f"no valid JSON ({error})", where=where, do="mend or remove the line") from error
    if not isinstance(value, dict):
        raise PoiseError(f"a JSON object is needed, not {type(value).__name__}", where=where, do="mend the line")
    return value


def read_rows(path: Path, kind: type[R]) -> Iterator[R]:
    """Yield the rows of one kind; a malformed row is a `PoiseError` that names file, line and field, never the text."""
    for number, row in read_jsonl(path):
        try:
            yield kind.model_validate(row)
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            name = ".".join(str(part) for part in first["loc"]) or kind.__name__
            raise PoiseError(
                f"field {name!r} of {kind.__name__}: {first['msg']}", where=f"{path}:{number}", do="mend the line"
            ) from error


def pair_row(first: QARow, second: QARow, *, keep_order: bool = False) -> PairRow:
    """The pair of two responses to one prompt.

    Unless `keep_order`, the response with the smaller id becomes response 0, so that the position tells nothing
    about which one a source called chosen.
    """
    if not keep_order and second.id < first.id:
        first, second = second, first
    return PairRow(
        id=text_id("pair", first.id, second.id),
        prompt_id=first.prompt_id,
        qa_0=first.id,
        qa_1=second.id,
        split=first.split,
    )


def latest(judgements: Iterable[Judgement], question: str, prefer: Sequence[str] = ()) -> dict[str, Judgement]:
    """The one judgement for each item that stands, for one question.

    A judged value beats an unjudged one (None); then a rater named earlier in `prefer` beats a later one and any
    unnamed rater; then the last one written wins. An item that was only left unjudged keeps its unjudged row.

    Args:
        judgements: the log, oldest first.
        question: "label", "safe", "better", "safer" or "single".
        prefer: rater ids, best first.
    """
    rank = {rater: place for place, rater in enumerate(prefer)}
    chosen: dict[str, tuple[tuple[bool, int], Judgement]] = {}
    for judgement in judgements:
        if judgement.question == question:
            key = (judgement.value is None, rank.get(judgement.rater, len(rank)))
            if judgement.item not in chosen or key <= chosen[judgement.item][0]:
                chosen[judgement.item] = (key, judgement)
    return {item: judgement for item, (_, judgement) in chosen.items()}


def merge(corpora: Iterable[Corpus]) -> Corpus:
    """One corpus from several: a text row that came before is kept, judgements of all are kept, drops are summed."""
    parts = list(corpora)
    merged = Corpus(judgements=[j for part in parts for j in part.judgements])
    for name in ("prompts", "qa", "pairs", "raters"):
        seen: dict[str, Row] = {}
        for part in parts:
            for row in getattr(part, name):
                seen.setdefault(row.id, row)
        setattr(merged, name, list(seen.values()))
    for part in parts:
        for reason, count in part.dropped.items():
            merged.dropped[reason] = merged.dropped.get(reason, 0) + count
    return merged


def with_splits(corpus: Corpus, splits: Mapping[str, Split]) -> Corpus:
    """The corpus with each row moved to the split of its prompt.

    Args:
        splits: prompt id -> "train" or "test", as `split_by_prompt` gives.

    Raises:
        PoiseError: a row's prompt has no split.
    """

    def of(prompt_id: str, row_id: str) -> Split:
        if prompt_id not in splits:
            raise PoiseError(f"prompt {prompt_id!r} has no split", where=row_id, do="split all prompts of the corpus")
        return splits[prompt_id]

    return replace(
        corpus,
        prompts=[row.model_copy(update={"split": of(row.id, row.id)}) for row in corpus.prompts],
        qa=[row.model_copy(update={"split": of(row.prompt_id, row.id)}) for row in corpus.qa],
        pairs=[row.model_copy(update={"split": of(row.prompt_id, row.id)}) for row in corpus.pairs],
    )
