"""Public formats as records, both ways, and public sets as corpora.

One small file a format (`registry` lists them); sets with columns of their own have a mapping file in
`poise/data/mappings/`. `read(name, path)` is the short way from a set to a corpus of the pipeline: ids from texts,
every label a judgement by the rater `import:<name>`. What a corpus has no question for (other taxonomies, single
raters) stays behind; `poise.data.reading` keeps all of it in tables.
"""

from __future__ import annotations

import os
from pathlib import Path

from poise.data.adapters.registry import SETS, format_of, mappings
from poise.data.bridge import CorpusBuilder
from poise.data.corpus import Corpus
from poise.errors import PoiseError

__all__ = ["read", "source_files"]


def read(name: str, path: Path | None = None) -> Corpus:
    """One public set as a corpus.

    Args:
        name: of a set that `poise data formats` lists, or of a format.
        path: the folder that holds `<name>/<name>.jsonl.gz`, or the file itself, or the folder of a release for
            "pku-safe-rlhf"; without it the environment variable POISE_DATA names the folder.

    Raises:
        PoiseError: unknown name, no such file, or the file is not in the expected format.
    """
    from poise.data.reading import Reader  # it imports a neighbour of this file

    form = format_of(name)
    out = CorpusBuilder(name, keep_order=form.name.startswith("pku-safe"))

    def left_out(rule: str, reason: str, where: str, row: object) -> None:
        out.dropped[reason] += 1

    for record in Reader(form).records(source_files(name, path), left_out):
        out.add(record)
    return out.corpus()


def source_files(name: str, path: Path | None = None) -> list[Path]:
    """The files that `read` would read; arguments and errors as there."""
    format_of(name)
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
    if name not in SETS and name not in mappings() and released:
        return released
    raise PoiseError(
        "no such file",
        where=str(path / name / f"{name}.jsonl.gz" if not path.suffix else path),
        do="give another folder or file, or set POISE_DATA to the folder that holds the data sets",
    )
