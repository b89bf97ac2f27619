"""What is in a data set: every statistic that is published about PKU-SafeRLHF, recomputed from the rows.

`audit` counts in one pass and computes; `render_table` is for a terminal, `render_page` one HTML page, `write_audit`
writes both and the JSON. Near-duplicates and leaks are other verbs (`poise.data.dedup`, `poise.data.split`).
"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from poise.data.audit.count import Progress, count_tables
from poise.data.audit.page import render_page
from poise.data.audit.shares import Json
from poise.data.audit.statistics import statistics
from poise.data.audit.table import render_table
from poise.data.folders import disk_error, write_json
from poise.data.tables import Tables
from poise.errors import PoiseError

__all__ = ["audit", "render_page", "render_table", "write_audit"]


def audit(tables: Tables, progress: Progress | None = None, *, split: str | None = None) -> Json:
    """All statistics of the tables, as plain JSON values; see `poise.data.audit.statistics`.

    Args:
        progress: called with (rows done since the last call, unit).
        split: look at the rows of this split only; most published numbers are of "train".

    Raises:
        PoiseError: a file is damaged or a text is not valid UTF-8, or no row is in that split.
    """
    try:
        counts = count_tables(tables, split, progress)
    except (UnicodeDecodeError, pa.ArrowInvalid) as error:
        raise PoiseError(
            "a text is not valid UTF-8", where=str(tables.folder), do="find such rows with `poise data validate`"
        ) from error
    if split is not None and not counts.rows:
        raise PoiseError(f"no row is in split {split!r}", where=str(tables.folder), do="name another, or none for all")
    return statistics(counts, split)


def write_audit(found: Json, folder: Path, title: str = "Audit") -> None:
    """Write `audit.json`, `audit.txt` and `audit.html`, each whole or not at all; earlier ones are replaced.

    Raises:
        PoiseError: the disk is full (exit code 3).
    """
    partial = {name: folder / f".{name}.partial" for name in ("audit.json", "audit.txt", "audit.html")}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(partial["audit.json"], found)
        for name, text in (("audit.txt", render_table(found) + "\n"), ("audit.html", render_page(found, title))):
            partial[name].write_text(text, encoding="utf-8", newline="\n")
        for name, path in partial.items():
            path.replace(folder / name)
    except OSError as error:
        raise disk_error(error, folder) from error
    finally:
        for path in partial.values():
            path.unlink(missing_ok=True)
