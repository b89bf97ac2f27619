"""How each rater of tables works: repeats, sides of pairs, answers too fast. Nothing in the data is changed.

The times are those that the workbench sends (`client_ms` in the provenance of an exported judgement): all questions of
one page share one. Words are those of the prompt, the turns before it and the responses, split at white space, so texts
in scripts without spaces have too few words and are not flagged.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np

from poise.annotate.quality.consistency import left_share, own, repeats, swaps
from poise.annotate.quality.timing import too_fast
from poise.data.records import DualRecord, JudgementRecord, QARecord, SingleRecord
from poise.data.tables import Tables
from poise.errors import PoiseError

_UNITS = ("qa", "default", "pairs-extended", "single-dimension")


def habits(tables: Tables, *, cut: float = 3.5, fastest_wpm: float = 600.0) -> dict[str, Any]:
    """A report as JSON: `repeats`, `left`, `swaps` by rater and question, `times` by rater.

    Args:
        cut, fastest_wpm: as in `poise.annotate.quality.timing.too_fast`.

    Raises:
        PoiseError: there are no judgements.
    """
    if "judgements" not in tables:
        raise PoiseError("no judgements", where=str(tables.folder), do="export a store, or `poise annotate label`")
    rows = [row for row in tables["judgements"].records() if isinstance(row, JudgementRecord)]
    return {
        "repeats": [{"rater": r, "question": q, **i._asdict()} for (r, q), i in repeats(rows).items()],
        "left": [{"rater": r, "question": q, **i._asdict()} for (r, q), i in left_share(rows).items()],
        "swaps": [
            {"rater": r, "question": q, **found.same._asdict(), "left_twice": found.left, "right_twice": found.right}
            for (r, q), found in swaps(rows).items()
        ],
        "times": _times(tables, rows, cut, fastest_wpm),
    }


def _times(tables: Tables, rows: list[JudgementRecord], cut: float, fastest_wpm: float) -> list[dict[str, Any]]:
    pages: dict[tuple[str, str, Any, int], None] = {}
    for row in own(rows):
        told = row.provenance or {}
        if isinstance(told.get("client_ms"), int) and row.rater_kind == "person":
            pages[row.rater, row.item, told.get("at_ms", row.round), told["client_ms"]] = None
    words = _words(tables, {item for _, item, _, _ in pages})
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


def _words(tables: Tables, wanted: set[str]) -> dict[str, int]:
    """Item -> number of words that its page shows."""
    words: dict[str, int] = {}
    for unit in (unit for unit in _UNITS if unit in tables and wanted):
        for row in tables[unit].records():
            if isinstance(row, QARecord):
                item, texts = row.item, [row.response]
            elif isinstance(row, DualRecord | SingleRecord):
                item, texts = ":".join(row.items), list(row.responses)
            else:
                continue
            if item in wanted:
                texts += [row.prompt, *(turn.content for turn in row.turns)]
                words[item] = sum(len(text.split()) for text in texts)
    return words
