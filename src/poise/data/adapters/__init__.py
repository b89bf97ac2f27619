"""Public data sets as corpora: a table of names, and one small file for each public format.

`read(name, path)` finds `<path>/<name>/<name>.jsonl.gz` (or `.jsonl`, or a file given directly) and translates it to
our rows: ids from texts, response ids 0 and 1, every label a judgement by the rater `import:<name>`. What a format
says beyond our questions (other taxonomies, attack names) is left out. Rows that cannot be used are counted in
`Corpus.dropped`. To add a set, add a line to `SOURCES`; to add a format, add a file with one function.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from poise.data.adapters.binary_qa import HARM_FLAG, SAFE_FLAG, BinaryQA
from poise.data.adapters.build import Builder, Line
from poise.data.adapters.chosen_rejected import chosen_rejected
from poise.data.adapters.pairwise import Pairwise, a_or_b, annotators_1_2, first_wins, label_1_2
from poise.data.adapters.pku_dual import pku_dual
from poise.data.adapters.pyrit import pyrit
from poise.data.adapters.rule_based_rewards import rule_based_rewards
from poise.data.adapters.xstest import xstest
from poise.data.corpus import Corpus, read_jsonl
from poise.errors import PoiseError


@dataclass(frozen=True)
class Source:
    """A public set: how its rows are read, and the licence of its data (of the owner, not of who passed it on)."""

    adapt: Callable[[Builder, Line], None]
    licence: str


SOURCES: dict[str, Source] = {
    "pku_dual": Source(pku_dual, "CC-BY-NC-4.0"),
    "pku_saferlhf_19cat_sample": Source(pku_dual, "CC-BY-NC-4.0"),
    "pku_saferlhf_dual_sample": Source(pku_dual, "CC-BY-NC-4.0"),
    "pku_saferlhf_pairs": Source(chosen_rejected, "CC-BY-NC-4.0"),
    "saferlhf_qa4k": Source(BinaryQA("is_safe", SAFE_FLAG), "CC-BY-NC-4.0"),
    "saferlhf_qa2k": Source(BinaryQA("is_safe", SAFE_FLAG), "CC-BY-NC-4.0"),
    "beavertails_test": Source(BinaryQA("is_safe", SAFE_FLAG), "CC-BY-NC-4.0"),
    "diasafety": Source(BinaryQA("is_safe", SAFE_FLAG), "Apache-2.0"),
    "gptfuzz_labelled": Source(BinaryQA("response_harmful", HARM_FLAG), "MIT"),
    "jbb_artifacts": Source(BinaryQA("jailbroken", HARM_FLAG), "MIT"),
    "harmbench_response": Source(BinaryQA("response_harmful", HARM_FLAG), "MIT"),
    "jailjudge_mini": Source(BinaryQA("response_harmful", HARM_FLAG), "MIT"),
    "air_bench_sample": Source(BinaryQA("safety_score", {1.0: True, 0.0: False}), "CC-BY-4.0"),
    "openai_rbr_gold": Source(rule_based_rewards, "MIT"),
    "pyrit_severity": Source(pyrit, "MIT"),
    "xstest_completions": Source(xstest, "CC-BY-4.0"),
    "pandalm_human": Source(Pairwise("response_1", "response_2", annotators_1_2, context="input"), "Apache-2.0"),
    "tulu_human_eval": Source(Pairwise("response_a", "response_b", a_or_b), "Apache-2.0"),
    "llmbar": Source(Pairwise("output_1", "output_2", label_1_2), "MIT"),
    "dpo_en_demo": Source(Pairwise("chosen", "rejected", first_wins), "Apache-2.0"),
    "coconot_pref": Source(Pairwise("chosen", "rejected", first_wins), "MIT"),
}
"""Name of a public set -> how to read it."""


def read(name: str, path: Path | None = None) -> Corpus:
    """One public set as a corpus.

    Args:
        name: a key of `SOURCES`.
        path: the folder that holds `<name>/<name>.jsonl.gz`, or the file itself (`.jsonl`, `.jsonl.gz`, `.parquet`),
            or for "pku_dual" the folder of a release; without it the environment variable POISE_DATA names the folder.

    Raises:
        PoiseError: unknown name, no such file, or the file is not in the expected format.
    """
    files = source_files(name, path)
    out = Builder(name, SOURCES[name].licence)
    for file in files:
        out.take(_lines(file), SOURCES[name].adapt)
    return out.corpus()


def source_files(name: str, path: Path | None = None) -> list[Path]:
    """The files that `read` would read; arguments and errors as there."""
    if name not in SOURCES:
        near = get_close_matches(name, SOURCES, n=1, cutoff=0)[0]
        raise PoiseError(f"no adapter for data set {name!r}", do=f"did you mean {near!r}?")
    if path is None:
        if not os.environ.get("POISE_DATA"):
            raise PoiseError("no data folder given", where=name, do="give a path or set POISE_DATA to the folder")
        path = Path(os.environ["POISE_DATA"])
    if path.is_file():
        return [path]
    for file in (path / name / f"{name}.jsonl.gz", path / name / f"{name}.jsonl", path / f"{name}.jsonl"):
        if file.is_file():
            return [file]
    released = sorted(path.glob("data/default/*.parquet"), reverse=True)
    if name == "pku_dual" and released:
        return released
    raise PoiseError(
        "no such file",
        where=str(path / name / f"{name}.jsonl.gz" if not path.suffix else path),
        do="give another folder or file, or set POISE_DATA to the folder that holds the data sets",
    )


def _lines(file: Path) -> Iterator[Line]:
    if file.suffix != ".parquet":
        yield from (Line(row, file, number) for number, row in read_jsonl(file))
        return
    try:
        number = 0
        with pq.ParquetFile(file) as table:
            for batch in table.iter_batches(batch_size=1024):
                for row in batch.to_pylist():
                    number += 1
                    yield Line(row, file, number)
    except (pa.ArrowException, OSError) as error:
        raise PoiseError(
            f"no readable Parquet file ({error})", where=str(file), do="write or fetch it again"
        ) from error
