"""Named rules that every released row obeys, checked on row streams and on a release's Parquet files alone.

A third party can run `validate_release` on a folder without our logs: hashes, order, labels and the split are
recomputed from the columns. A summary names rows by config, split and position, never by text.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from poise.data.columns import SCHEMAS
from poise.data.neardup import clusters
from poise.data.rules import RULES, RowDict, violations
from poise.errors import PoiseError

Mode = Literal["raise", "quarantine", "keep"]

_EXAMPLES = 20


class Quarantined(NamedTuple):
    """A row that breaks at least one rule: the first rule broken, all reasons, the row, its position from 0."""

    rule: str
    reason: str
    row: RowDict
    number: int


@dataclass
class Validation:
    """What `validate_release` found.

    Args:
        rows: "config/split" -> number of rows.
        counts: rule -> number of rows (for `split-leak`: clusters) that break it; every rule is listed.
        examples: rule -> ids "config/split/position" of the first 20.
        unread: folders under `data/` that are no config of ours.
    """

    rows: dict[str, int] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(RULES, 0))
    examples: dict[str, list[str]] = field(default_factory=dict)
    unread: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """True when no rule is broken."""
        return not any(self.counts.values())

    def add(self, rule: str, row_id: str) -> None:
        """Count one violation."""
        self.counts[rule] += 1
        if len(self.examples.setdefault(rule, [])) < _EXAMPLES:
            self.examples[rule].append(row_id)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "ok": self.ok,
            "rows": self.rows,
            "rules": {rule: {"demands": text, "broken": self.counts[rule]} for rule, text in RULES.items()},
            "examples": self.examples,
            "unread": self.unread,
        }


def check_rows(
    rows: Iterable[RowDict], mode: Mode = "quarantine", config: str = "default"
) -> tuple[list[RowDict], list[Quarantined]]:
    """Check a stream of release rows against all rules but `split-leak`.

    Args:
        rows: rows with the columns of the config.
        mode: "raise" at the first bad row; "quarantine" keeps bad rows out of the good ones; "keep" only reports.
        config: a key of `poise.data.columns.SCHEMAS`.

    Returns:
        Good rows, and one entry for each bad row.

    Raises:
        PoiseError: in mode "raise", naming rule and row number.
    """
    good: list[RowDict] = []
    bad: list[Quarantined] = []
    seen: set[bytes] = set()
    for number, row in enumerate(rows):
        found = violations(row, config, seen)
        if found and mode == "raise":
            rule, reason = found[0]
            raise PoiseError(f"{rule}: {reason}", where=f"{config} row {number}", do="mend it or use mode quarantine")
        if found:
            bad.append(Quarantined(found[0][0], "; ".join(reason for _, reason in found), row, number))
        if not found or mode == "keep":
            good.append(row)
    return good, bad


def validate_release(folder: Path) -> Validation:
    """Check a release from its files `data/<config>/<split>-*.parquet` alone.

    Raises:
        PoiseError: no config is there, or a file is no Parquet file.
    """
    result = Validation()
    prompts: dict[str, dict[str, str]] = {}  # prompt -> split -> id of its first row
    found = {path.name for path in folder.glob("data/*") if path.is_dir()}
    if not found & set(SCHEMAS):
        raise PoiseError("no data/<config>/ in it", where=str(folder), do="name the folder of a release")
    result.unread = sorted(found - set(SCHEMAS))
    for config in SCHEMAS:
        seen: set[bytes] = set()
        for path in sorted(folder.glob(f"data/{config}/*.parquet")):
            split = path.name.split("-")[0]
            number = result.rows.get(f"{config}/{split}", 0)
            for row in _parquet_rows(path, config, result):
                row_id = f"{config}/{split}/{number}"
                for rule in dict.fromkeys(rule for rule, _ in violations(row, config, seen)):
                    result.add(rule, row_id)
                if isinstance(row.get("prompt"), str):
                    prompts.setdefault(row["prompt"], {}).setdefault(split, row_id)
                number += 1
            result.rows[f"{config}/{split}"] = number
    for row_id in _split_leaks(prompts):
        result.add("split-leak", row_id)
    return result


def _parquet_rows(path: Path, config: str, result: Validation) -> Iterator[dict[str, Any]]:
    try:
        with pq.ParquetFile(path) as file:
            if not file.schema_arrow.equals(SCHEMAS[config]):
                result.add("field-type", f"{config}/{path.name}")
            for batch in file.iter_batches(batch_size=1024):
                yield from batch.to_pylist()
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise PoiseError(
            f"no readable Parquet file ({error})", where=str(path), do="write or fetch it again"
        ) from error


def _split_leaks(prompts: Mapping[str, Mapping[str, str]]) -> Iterator[str]:
    """Row id of a test (or other later) prompt for each near-duplicate cluster that lies in more than one split."""
    texts = list(prompts)
    by_cluster: dict[int, dict[str, str]] = {}
    for cluster, text in zip(clusters(texts).tolist(), texts, strict=True):
        for split, row_id in prompts[text].items():
            by_cluster.setdefault(cluster, {}).setdefault(split, row_id)
    for splits in by_cluster.values():
        if len(splits) > 1:
            yield splits.get("test", max(splits.values()))
