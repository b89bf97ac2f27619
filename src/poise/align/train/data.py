"""Preference rows as pairs of texts: from any format of `poise.data`, or from its tables, into what methods ask for.

A row that can't be used, or that contradicts itself, is left out and counted by its reason, never silently. A row
that names no safer response while exactly one is safe gets it from the flags; nothing is ever derived of helpfulness.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from poise.data.adapters.base import Format
from poise.data.adapters.registry import detect, format_of
from poise.data.containers import BadLine, Line, find_files, read_lines
from poise.data.harm_part import labels_of
from poise.data.reading import Reader
from poise.data.records import UNKNOWN, DualRecord, PartialLabel, PromptRecord, Record, SingleRecord
from poise.data.rows import uniform_seed
from poise.data.tables import open_tables
from poise.errors import PoiseError
from poise.harm import Category, Severity
from poise.models.encoder import ignore

Message = dict[str, str]
_PAIR_UNITS = ("default", "single-dimension")


class TextPair(NamedTuple):
    """Two responses to one conversation.

    Args:
        where: file and row, for messages.
        messages: the conversation up to the last prompt.
        responses: two different texts.
        better, safer: response id 0 or 1, None when nobody judged.
        unsafe: of both responses, None when nobody judged.
    """

    where: str
    messages: list[Message]
    responses: tuple[str, str]
    better: int | None
    safer: int | None
    unsafe: tuple[bool | None, bool | None]

    @property
    def prompt(self) -> str:
        """The last prompt, by whose hash rows are held out."""
        return self.messages[-1]["content"]


class Pairs(NamedTuple):
    """What files hold. Args: pairs in their order; left out, (rule, place) each; sha256 over all files."""

    pairs: list[TextPair]
    left_out: list[tuple[str, str]]
    sha256: str

    @property
    def counts(self) -> dict[str, int]:
        """Rows left out by rule, the most frequent first."""
        return dict(Counter(rule for rule, _ in self.left_out).most_common())


def read_pairs(
    paths: Sequence[Path],
    *,
    form: str | None = None,
    system: str | None = None,
    on_row: Callable[[int], object] = ignore,
) -> Pairs:
    """Read preference rows.

    Args:
        paths: files, folders of files, or tables of `poise data read` (a folder with `data/` in it).
        form: name of the format or of a mapping; found from the columns where it is None.
        system: message put before conversations that have none.
        on_row: called with 1 for each row.

    Raises:
        PoiseError: no such file, a format that is not clear, or not one usable pair.
    """
    pairs: list[TextPair] = []
    left_out: list[tuple[str, str]] = []
    digest = hashlib.sha256()
    for path in paths:
        for where, record in _records(path, form, left_out, digest, _PAIR_UNITS):
            on_row(1)
            if (rule := fault(record)) is not None:
                left_out.append((rule, where))
            else:
                assert isinstance(record, SingleRecord)
                pairs.append(_pair(record, where, system))
    found = Pairs(pairs, left_out, digest.hexdigest())
    if not pairs:
        told = ", ".join(f"{rule} {count:,}" for rule, count in found.counts.items()) or "the files are empty"
        raise PoiseError(
            f"no pair of responses to learn from ({told})",
            where=", ".join(map(str, paths)),
            do="rows need prompt, two responses and which one is better or safer; see `poise data formats`",
        )
    return found


class Prompts(NamedTuple):
    """What files ask.

    Args:
        texts: each once, in their order.
        left_out: rows, (rule, place) each.
        sha256: over all files.
        harm: what the rows of a text tell of the harm that it asks for; nothing where none tells any.
    """

    texts: list[str]
    left_out: list[tuple[str, str]]
    sha256: str
    harm: Mapping[str, tuple[PartialLabel, ...]] = {}


def read_prompts(
    paths: Sequence[Path], *, form: str | None = None, on_row: Callable[[int], object] = ignore
) -> Prompts:
    """The prompts of rows of any kind; what was said before the last prompt is not asked, such rows are left out.

    Args and errors: as `read_pairs`.
    """
    texts: dict[str, tuple[PartialLabel, ...]] = {}
    left_out: list[tuple[str, str]] = []
    digest = hashlib.sha256()
    for path in paths:
        for where, record in _records(path, form, left_out, digest, ("prompt", "qa", *_PAIR_UNITS)):
            on_row(1)
            text = getattr(record, "prompt", None)
            rule = "no-prompt" if not text or not text.strip() else "turns" if record.turns else None
            rule = "image" if record.image is not None else rule
            if rule is None:
                texts[str(text)] = (*texts.get(str(text), ()), *labels_of(record))
            else:
                left_out.append((rule, where))
    if not texts:
        told = ", ".join(sorted({rule for rule, _ in left_out})) or "the files are empty"
        where = ", ".join(map(str, paths))
        raise PoiseError(f"no prompt in them ({told})", where=where, do="see `poise data formats`")
    return Prompts(list(texts), left_out, digest.hexdigest(), texts)


def fault(record: Record) -> str | None:  # noqa: PLR0911 - one reason a line
    """Why a record is no pair to learn from, None where it is one."""
    if not isinstance(record, SingleRecord):
        return "no-pair"
    if record.image is not None:
        return "image"
    if not all(text.strip() for text in (record.prompt, *record.responses)):
        return "blank-text"
    if record.responses[0] == record.responses[1]:
        return "equal-responses"
    safer = record.safer if isinstance(record, DualRecord) else None
    if any(vote not in (None, 0, 1) for vote in (record.better, safer)):
        return "vote-range"
    if isinstance(record, DualRecord) and any(map(_contradicts_itself, record.labels)):
        return "severity-contradicts-safe"
    flags = _flags(record)
    if safer is not None and None not in flags and flags[safer] and not flags[1 - safer]:
        return "unsafe-called-safer"
    if record.better is None and safer is None and None in flags:
        return "nothing-judged"
    return None


def is_held_out(prompt: str, share: float, seed: int) -> bool:
    """Whether a prompt is for evaluation, by its hash, so that no prompt is in both parts."""
    return uniform_seed(seed, prompt, "alignment evaluation") < share * 2**63


def chosen_rows(pairs: Sequence[TextPair], rows: int, seed: int) -> list[TextPair]:
    """At most `rows` pairs (0: all), those whose prompts hash lowest, in their own order."""
    if not rows or rows >= len(pairs):
        return list(pairs)
    ranked = sorted(range(len(pairs)), key=lambda at: uniform_seed(seed, pairs[at].prompt, "alignment rows"))
    return [pairs[at] for at in sorted(ranked[:rows])]


def _pair(record: SingleRecord, where: str, system: str | None) -> TextPair:
    messages = [{"role": turn.role, "content": turn.content} for turn in record.turns]
    if system is not None and all(message["role"] != "system" for message in messages):
        messages.insert(0, {"role": "system", "content": system})
    flags = _flags(record)
    safer = record.safer if isinstance(record, DualRecord) else None
    if safer is None and None not in flags and flags[0] != flags[1]:
        safer = int(bool(flags[0]))
    messages.append({"role": "user", "content": record.prompt})
    return TextPair(where, messages, record.responses, record.better, safer, flags)


def _flags(record: SingleRecord) -> tuple[bool | None, bool | None]:
    """Unsafe or not, of both responses."""
    if not isinstance(record, DualRecord):
        return None, None
    first, second = map(_unsafe, record.labels)
    return first, second


def _unsafe(label: PartialLabel) -> bool | None:
    if label.safe is None:
        return None if label.severity is None else label.severity > 0
    return not label.safe


def _contradicts_itself(label: PartialLabel) -> bool:
    return label.safe is not None and label.severity is not None and label.safe != (label.severity == 0)


def _records(
    path: Path,
    form: str | None,
    left_out: list[tuple[str, str]],
    digest: Any,
    units: Sequence[str],
) -> Iterator[tuple[str, Record]]:
    """(place, record) of one path; rows that can't be read go to `left_out`."""
    if form is None and (path / "data").is_dir():
        tables = open_tables(path)
        digest.update(tables.digest().encode())
        for unit in units:
            if unit in tables:
                yield from ((f"{path.name}/{unit} row {n}", r) for n, r in enumerate(tables[unit].records(), 1))
        return
    for file in find_files(path):
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
        known = format_of(form) if form else _detected(file, alone="prompt" in units)
        bad = lambda rule, reason, where, row: left_out.append((rule, where))  # noqa: E731
        records = _prompts_alone(file, left_out) if known is None else Reader(known).records([file], bad)
        yield from ((f"{file.name} row {n}", r) for n, r in enumerate(records, 1))


def _prompts_alone(file: Path, left_out: list[tuple[str, str]]) -> Iterator[Record]:
    """Rows whose column `prompt` is all that is asked for; `category` or `categories`, and `severity`, may be there."""
    for n, line in enumerate(read_lines(file), 1):
        if isinstance(line, Line) and isinstance(text := line.row.get("prompt"), str):
            yield PromptRecord(prompt=text, label=_told(line.row))
        else:
            left_out.append(("no-prompt", f"{file.name} row {n}"))


def _told(row: Mapping[str, Any]) -> PartialLabel:
    """The harm that a plain row names; what is no name of one of the 19 categories tells nothing."""
    names, level = row.get("categories", row.get("category")), row.get("severity")
    try:
        listed = None if names is None else tuple(Category.parse(n).value for n in _listed(names))
        return PartialLabel(categories=listed, severity=None if level is None else Severity.parse(level))
    except ValueError:
        return UNKNOWN


def _listed(names: object) -> list[object]:
    return names if isinstance(names, list) else [names]


def _detected(file: Path, *, alone: bool) -> Format | None:
    """The format that the columns of the first row tell; None for a column `prompt` where that `alone` will do."""
    bad: list[BadLine] = []
    for first in read_lines(file):
        if isinstance(first, Line):
            break
        bad.append(first)
    else:
        what = f"none of its {len(bad):,} lines can be read ({bad[0].rule})" if bad else "holds no row"
        raise PoiseError(what, where=str(file), do="give another file")
    found = format_of("trl-preference") if {"prompt", "chosen", "rejected"} <= first.row.keys() else detect(first.row)
    if found is None and not (alone and "prompt" in first.row):
        columns = ", ".join(list(first.row)[:12])
        raise PoiseError(
            f"the format is not clear from the columns ({columns})", where=str(file), do="name it under data.format"
        )
    return found
