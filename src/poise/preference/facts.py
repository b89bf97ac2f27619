"""Rows of public formats as facts about responses: which of two is better, which is safer, which label one has.

A set is read for help (`reward`), for harm (`cost`) or for both, as the recipe says: of a single choice or a correction
only the user knows what it is about. What several rows say of the same text is put to a vote, because public sets
contradict themselves; a tie is unknown, never a guess, and all that is left out is counted.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from poise.data.adapters.base import Format
from poise.data.adapters.registry import FORMATS, SETS, detect, format_of, mappings
from poise.data.containers import SUFFIXES, Line, find_files, read_lines
from poise.data.reading import Reader
from poise.data.records import UNKNOWN, CorrectionRecord, DualRecord, PartialLabel, QARecord, Record, SingleRecord
from poise.data.rows import uniform_seed
from poise.errors import PoiseError
from poise.models.encoder import ignore

Conversation = tuple[tuple[str, str], ...]
"""(role, text) of each turn, the prompt of the user last."""


class Fact(NamedTuple):
    """What one row says.

    Args:
        name: set and id, or set and number.
        conversation: before the response.
        responses: one or two.
        better, safer: 0 or 1, None when the row does not say.
        labels: of each response.
        test: the source calls it a test row.
    """

    name: str
    conversation: Conversation
    responses: tuple[str, ...]
    better: int | None
    safer: int | None
    labels: tuple[PartialLabel, ...]
    test: bool


class Source(NamedTuple):
    """A set: its files, and how a row of them is read."""

    name: str
    files: list[Path]
    format: Format

    def sha256(self) -> str:
        """Of all files, in order."""
        digest = hashlib.sha256()
        for file in self.files:
            with file.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
        return digest.hexdigest()


def source_of(name: str, data: Path, formats: Mapping[str, str]) -> Source:
    """The set of that name in a data folder: a folder, a file, or a file without its suffix.

    Raises:
        PoiseError: no such folder, nothing there, or its format is unknown.
    """
    if not data.is_dir():
        raise PoiseError("no such folder", where=str(data), do="give the one in which the sets are with --data")
    places = [data / name, *(data / f"{name}{suffix}" for suffix in SUFFIXES)]
    place = next((place for place in places if place.exists()), None)
    if place is None:
        there = sorted({entry.name.split(".")[0] for entry in data.iterdir()} - {""})
        near = get_close_matches(name, there, n=1, cutoff=0.6)
        hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(there[:8]) or 'nothing'}"
        raise PoiseError(f"no set {name!r}", where=str(data), do=hint)
    files = find_files(place)
    if name in formats:
        return Source(name, files, format_of(formats[name]))
    if name in FORMATS or name in SETS or name in mappings():
        return Source(name, files, format_of(name))
    first = next((line.row for line in islice(read_lines(files[0]), 100) if isinstance(line, Line)), {})
    found = _of_columns(first)
    if found is None:
        columns = ", ".join(map(repr, list(first)[:8])) or "none"
        raise PoiseError(
            f"no known format has the columns {columns}",
            where=str(files[0]),
            do=f"add it to the recipe under data.formats: {{{name}: FORMAT}}; see `poise data formats`",
        )
    return Source(name, files, found)


def _of_columns(row: Mapping[str, Any]) -> Format | None:
    """The format that the columns tell; of `chosen` and `rejected`, which several have, transcripts or TRL's."""
    if (found := detect(row)) is not None or not {"chosen", "rejected"} <= row.keys():
        return found
    transcript = str(row["chosen"]).lstrip().startswith("Human:")
    return FORMATS["hh-rlhf" if transcript else "trl-preference"]


def read_facts(
    source: Source, use: str, dropped: Counter[str], on_row: Callable[[int], object] = ignore
) -> Iterator[Fact]:
    """The facts of a set that are of use.

    Args:
        use: "reward", "cost" or "both".
        dropped: reasons of rows left out are counted here.
        on_row: called with 1 for each record.
    """

    def bad(rule: str, reason: str, where: str, row: object) -> None:
        dropped[f"{source.name}: {rule}"] += 1

    for number, record in enumerate(Reader(source.format, dataset=source.name).records(source.files, bad), 1):
        on_row(1)
        fact = _fact(record, use, f"{source.name}:{record.source_id or number}")
        if fact is None:
            continue
        if not fact.conversation[-1][1].strip() or not all(text.strip() for text in fact.responses):
            dropped[f"{source.name}: a prompt or a response is blank"] += 1
        elif record.image is not None:
            dropped[f"{source.name}: has an image"] += 1
        elif len(set(fact.responses)) < len(fact.responses):
            dropped[f"{source.name}: both responses are equal"] += 1
        elif _says_nothing(fact):
            dropped[f"{source.name}: says nothing about {use}"] += 1
        else:
            yield fact


def _fact(record: Record, use: str, name: str) -> Fact | None:
    help_, harm = use in ("reward", "both"), use in ("cost", "both")
    before = tuple((turn.role, turn.content) for turn in record.turns)
    test = record.split == "test"
    if isinstance(record, SingleRecord):
        labels = record.labels if isinstance(record, DualRecord) and harm else (UNKNOWN, UNKNOWN)
        safer = record.safer if isinstance(record, DualRecord) else record.better
        asked = (*before, ("user", record.prompt))
        better = record.better if help_ else None
        return Fact(name, asked, record.responses, better, safer if harm else None, labels, test)
    if isinstance(record, QARecord):
        label = record.label if harm else UNKNOWN
        return Fact(name, (*before, ("user", record.prompt)), (record.response,), None, None, (label,), test)
    if isinstance(record, CorrectionRecord):
        pair = (record.answer, record.correction)
        chosen = (1 if help_ else None, 1 if harm else None)
        return Fact(name, (*before, ("user", record.question)), pair, *chosen, (UNKNOWN, UNKNOWN), test)
    return None


def _says_nothing(fact: Fact) -> bool:
    return fact.better is None and fact.safer is None and all(label.safe is None for label in fact.labels)


def thinned(facts: Sequence[Fact], rows: int, seed: int) -> list[Fact]:
    """At most `rows` of them (0: all), whole conversations in the order of a hash."""
    if not rows or len(facts) <= rows:
        return list(facts)
    counts = Counter(fact.conversation for fact in facts)
    kept: set[Conversation] = set()
    left = rows
    for conversation in sorted(counts, key=lambda c: uniform_seed(seed, repr(c), "preference rows")):
        if counts[conversation] <= left:
            kept.add(conversation)
            left -= counts[conversation]
    return [fact for fact in facts if fact.conversation in kept]
