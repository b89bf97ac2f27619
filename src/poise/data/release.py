"""Write a corpus as a public release: Parquet files, card, manifest and the validation of what was written.

The same corpus, answers and seed give the same bytes: no time stamps, fixed row groups, rows in an order that is a
hash of (seed, row id). The folder appears only when everything is written and every rule holds.
Left out: free-text reasons of judgements, which may quote or identify; people appear as person-1, person-2, ...
in the order of their first judgement.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from poise import __version__
from poise.data.card import render_card
from poise.data.columns import SCHEMA_VERSION, SCHEMAS
from poise.data.corpus import Corpus
from poise.data.release_rows import Final, release_tables
from poise.data.validate import Validation, validate_release
from poise.errors import PoiseError
from poise.harm import policy_version

__all__ = ["Final", "Release", "write_release"]

_ROW_GROUP = 10_000


class Release(NamedTuple):
    """A written release: its folder, the content of `manifest.json`, the content of `validation.json`."""

    folder: Path
    manifest: dict[str, Any]
    validation: Validation


def write_release(
    corpus: Corpus,
    folder: Path,
    *,
    name: str,
    licence: str,
    seed: int,
    final: Final | None = None,
    facts: Mapping[str, str] | None = None,
) -> Release:
    """Write configs `default`, `single-dimension`, `qa`, `prompt` and `judgements`, each with train and test.

    A split without rows has no file, and a config without rows is not on the card: `datasets` refuses empty splits.
    A response is in `qa` when its label is judged; a pair is in `default` when both labels, better and safer are, and
    in `single-dimension` when single is. What is left out is counted with its reason in the manifest.

    Args:
        corpus: texts with their splits, and all judgements.
        folder: must not exist or be empty.
        name: title of the card.
        licence: of the data as a whole, SPDX id.
        seed: decides the order of rows.
        final: the answer that stands for each item; `Final.of(corpus)` when not given.
        facts: key of `poise.data.card.FACTS` -> text for the card; what is missing reads "not recorded".

    Raises:
        PoiseError: the folder is in use, the corpus names an unknown row, or a rule of `poise.data.validate` is
            broken; then nothing is left behind.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise PoiseError("already exists and is not empty", where=str(folder), do="choose another folder or remove it")
    tables, left_out = release_tables(corpus, final or Final.of(corpus), seed)
    if not tables:
        raise PoiseError("the corpus is empty", where=str(folder), do="release a corpus that holds prompts")
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        for config, split in tables:
            _write_table(temporary, config, split, tables[config, split])
        validation = validate_release(temporary)
        _refuse_violations(validation, folder)
        _write_json(temporary / "validation.json", validation.to_json())
        counts = {config: dict(sorted(left_out[config].items())) for config in SCHEMAS}
        card = render_card(temporary, name=name, licence=licence, left_out=counts, facts=facts or {})
        (temporary / "README.md").write_text(card, encoding="utf-8", newline="\n")
        manifest = _manifest(temporary, corpus, name=name, licence=licence, seed=seed, left_out=counts)
        _write_json(temporary / "manifest.json", manifest)
        if folder.exists():
            folder.rmdir()
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return Release(folder, manifest, validation)


def _write_table(folder: Path, config: str, split: str, rows: list[dict[str, Any]]) -> None:
    path = folder / "data" / config / f"{split}-00000-of-00001.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        table = pa.Table.from_pylist(rows, schema=SCHEMAS[config])
    except (TypeError, UnicodeEncodeError, pa.ArrowException) as error:
        raise PoiseError(f"a row does not fit the columns ({error})", where=f"{config}/{split}") from error
    pq.write_table(
        table,
        path,
        compression="zstd",
        row_group_size=_ROW_GROUP,
        write_page_index=True,
        use_content_defined_chunking=True,
    )


def _refuse_violations(validation: Validation, folder: Path) -> None:
    broken = {rule: count for rule, count in validation.counts.items() if count}
    if broken:
        rule = next(iter(broken))
        raise PoiseError(
            f"rows break {', '.join(f'{name} ({count})' for name, count in broken.items())}, "
            f"first {rule} at {validation.examples[rule][0]}",
            where=str(folder),
            do="mend the judgements, texts or split; no release was written",
        )


def _manifest(
    folder: Path, corpus: Corpus, *, name: str, licence: str, seed: int, left_out: dict[str, dict[str, int]]
) -> dict[str, Any]:
    files = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        content = path.read_bytes()
        entry: dict[str, Any] = {"path": path.relative_to(folder).as_posix(), "bytes": len(content)}
        entry["sha256"] = hashlib.sha256(content).hexdigest()
        if path.suffix == ".parquet":
            entry["rows"] = pq.read_metadata(path).num_rows
        files.append(entry)
    return {
        "name": name,
        "licence": licence,
        "poise_version": __version__,
        "schema_version": SCHEMA_VERSION,
        "policy_version": policy_version(),
        "seed": seed,
        "raters": dict(sorted(Counter(rater.kind for rater in corpus.raters).items())),
        "source_rows_dropped": dict(sorted(corpus.dropped.items())),
        "left_out": left_out,
        "files": files,
    }


def _write_json(path: Path, value: object) -> None:
    text = json.dumps(value, ensure_ascii=False, indent=2)
    path.write_text(text + "\n", encoding="utf-8", newline="\n")
