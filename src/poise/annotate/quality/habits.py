"""How each rater works: repeats, sides of pairs, answers too fast. Nothing in the data is changed.

The times are those that the workbench sends (`client_ms` in the provenance of an exported judgement): all questions of
one page share one. Words are those of the prompt, the turns before it and the responses, split at white space, so texts
in scripts without spaces have too few words and are not flagged.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from poise.annotate.quality.consistency import left_share, own, repeats, swaps
from poise.annotate.quality.timing import too_fast
from poise.data.records import DualRecord, JudgementRecord, QARecord, Record, SingleRecord
from poise.data.tables import Tables
from poise.errors import PoiseError

_UNITS = ("qa", "default", "pairs-extended", "single-dimension")


def habits(tables: Tables, *, cut: float = 3.5, fastest_wpm: float = 600.0) -> dict[str, Any]:
    """`habits_of` the judgements of tables.

    Args:
        cut, fastest_wpm: as in `poise.annotate.quality.timing.too_fast`.

    Raises:
        PoiseError: there are no judgements.
    """
    if "judgements" not in tables:
        raise PoiseError("no judgements", where=str(tables.folder), do="export a store, or `poise annotate label`")
    rows = [row for row in tables["judgements"].records() if isinstance(row, JudgementRecord)]
    texts = (record for unit in _UNITS if unit in tables for record in tables[unit].records())
    return habits_of(rows, texts, cut=cut, fastest_wpm=fastest_wpm)


def habits_of(
    rows: Sequence[JudgementRecord], texts: Iterable[Record], *, cut: float = 3.5, fastest_wpm: float = 600.0
) -> dict[str, Any]:
    """A report as JSON: `repeats`, `left`, `swaps` by rater and question, `times` by rater.

    Args:
        texts: the items that were judged; read only where there are times.
        cut, fastest_wpm: as in `poise.annotate.quality.timing.too_fast`.
    """
    return {
        "repeats": [{"rater": r, "question": q, **i._asdict()} for (r, q), i in repeats(rows).items()],
        "left": [{"rater": r, "question": q, **i._asdict()} for (r, q), i in left_share(rows).items()],
        "swaps": [
            {"rater": r, "question": q, **found.same._asdict(), "left_twice": found.left, "right_twice": found.right}
            for (r, q), found in swaps(rows).items()
        ],
        "times": _times(texts, rows, cut, fastest_wpm),
    }


def _times(
    texts: Iterable[Record], rows: Sequence[JudgementRecord], cut: float, fastest_wpm: float
) -> list[dict[str, Any]]:
    pages: dict[tuple[str, str, Any, int], None] = {}
    for row in own(rows):
        told = row.provenance or {}
        if isinstance(told.get("client_ms"), int) and row.rater_kind == "person":
            pages[row.rater, row.item, told.get("at_ms", row.round), told["client_ms"]] = None
    words = dict(_words(texts, {item for _, item, _, _ in pages})) if pages else {}
    known = [page for page in pages if page[1] in words]
    if not known:
        return []
    raters = np.array([rater for rater, _, _, _ in known])
    found = too_fast(
        [ms / 1000 for _, _, _, ms in known],
        [words[item] for _, item, _, _ in known],
        raters,
        cut=cut,
        fastest_wpm=fastest_wpm,
    )
    flagged: dict[str, list[str]] = defaultdict(list)
    for (rater, item, _, _), pace, floor in zip(known, found.by_pace, found.by_floor, strict=True):
        if pace or floor:
            flagged[rater].append(item)
    return [
        {
            "rater": rater,
            "answers": int((raters == rater).sum()),
            "by_pace": int(found.by_pace[raters == rater].sum()),
            "by_floor": int(found.by_floor[raters == rater].sum()),
            "items": flagged[rater],
        }
        for rater in sorted(set(raters.tolist()))
    ]


def _words(texts: Iterable[Record], wanted: set[str]) -> Iterator[tuple[str, int]]:
    """Items and the number of words that their pages show."""
    for row in texts:
        if isinstance(row, QARecord):
            item, shown = row.item, [row.response]
        elif isinstance(row, DualRecord | SingleRecord):
            item, shown = ":".join(row.items), list(row.responses)
        else:
            continue
        if item in wanted:
            shown += [row.prompt, *(turn.content for turn in row.turns)]
            yield item, sum(len(text.split()) for text in shown)
