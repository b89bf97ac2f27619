"""The data room: every public format in, a validated and audited release out, at any size.

`records` are rows that stand alone and `tables` keeps them as Parquet; `containers`, `adapters` and `reading` fill
tables from files, `writing` goes back. `validate`, `audit`, `dedup`, `contamination`, `split`, `crosswalked`, `pairs`
work on tables, `release` makes a public data set of them, `synth` makes test data. `rows` and `corpus` are what a run
of the pipeline works on: rows that refer to each other; `bridge` leads from records to a corpus, `release_rows` back.
Names are loaded on first use, so that importing the row types does not start Arrow.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from poise.data.corpus import Corpus, latest, merge, read_jsonl, with_splits, write_jsonl
from poise.data.rows import (
    Judgement,
    PairRow,
    PromptRow,
    Provenance,
    QARow,
    Rater,
    Sampling,
    label_value,
    text_id,
    uniform_seed,
)

if TYPE_CHECKING:
    from poise.data.neardup import clusters, drop_near_duplicates
    from poise.data.release import Final, Release, corpus_tables, write_release
    from poise.data.seeds import load_seeds
    from poise.data.split import leaks, split_by_prompt
    from poise.data.tables import Tables, TableWriter, open_tables
    from poise.data.validate import Validation, validate_release

_LATER = {
    "clusters": "neardup",
    "drop_near_duplicates": "neardup",
    "load_seeds": "seeds",
    "split_by_prompt": "split",
    "leaks": "split",
    "Validation": "validate",
    "validate_release": "validate",
    "Final": "release",
    "Release": "release",
    "write_release": "release",
    "corpus_tables": "release",
    "Tables": "tables",
    "TableWriter": "tables",
    "open_tables": "tables",
}

__all__ = [
    "Corpus",
    "Final",
    "Judgement",
    "PairRow",
    "PromptRow",
    "Provenance",
    "QARow",
    "Rater",
    "Release",
    "Sampling",
    "TableWriter",
    "Tables",
    "Validation",
    "clusters",
    "corpus_tables",
    "drop_near_duplicates",
    "label_value",
    "latest",
    "leaks",
    "load_seeds",
    "merge",
    "open_tables",
    "read_jsonl",
    "split_by_prompt",
    "text_id",
    "uniform_seed",
    "validate_release",
    "with_splits",
    "write_jsonl",
    "write_release",
]


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(import_module(f"poise.data.{_LATER[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
