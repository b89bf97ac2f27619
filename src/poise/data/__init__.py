"""The data room: row types, corpora, seeds, public formats, near-duplicates, splits, validation and release.

`rows` and `corpus` are the vocabulary; `seeds` and `adapters` fill a corpus; `neardup` and `split` keep test prompts
apart; `columns`, `validate`, `release` and `card` turn a corpus into a public data set. Names are loaded on first
use, so that importing the row types does not start Arrow.
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
    from poise.data.release import Final, Release, write_release
    from poise.data.seeds import load_seeds
    from poise.data.split import leaks, split_by_prompt
    from poise.data.validate import Validation, check_rows, validate_release

_LATER = {
    "clusters": "neardup",
    "drop_near_duplicates": "neardup",
    "load_seeds": "seeds",
    "split_by_prompt": "split",
    "leaks": "split",
    "Validation": "validate",
    "check_rows": "validate",
    "validate_release": "validate",
    "Final": "release",
    "Release": "release",
    "write_release": "release",
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
    "Validation",
    "check_rows",
    "clusters",
    "drop_near_duplicates",
    "label_value",
    "latest",
    "leaks",
    "load_seeds",
    "merge",
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
