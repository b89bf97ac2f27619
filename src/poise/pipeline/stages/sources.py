"""Stage `sources`: rows that people wrote and labelled, in place of `prompts` and `responses`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field

from poise.pipeline.context import StageContext
from poise.pipeline.stages.common import Settings, counts_by, write_corpus


class SourceSettings(Settings):
    """Which public sets to read, and from where."""

    path: str = Field("", description="folder with <name>/<name>.jsonl.gz; empty takes POISE_DATA from the environment")
    names: tuple[str, ...] = Field((), description="data sets by adapter name")
    test_share: float = Field(0.2, gt=0, lt=1)


def reads(settings: SourceSettings, recipe_dir: Path) -> dict[str, Path]:
    """The files of all sets, so that a change in one makes the stage run again.

    Raises:
        PoiseError: no set is named, or the folder or a file is not there.
    """
    from poise.data.adapters import source_files
    from poise.errors import PoiseError

    if not settings.names:
        raise PoiseError("names no data set", where="sources.names", do="list adapter names, such as beavertails_test")
    folder = _folder(settings, recipe_dir)
    files = {name: source_files(name, folder) for name in settings.names}
    return {f"{name}/{path.name}": path for name, paths in files.items() for path in paths}


def _folder(settings: SourceSettings, recipe_dir: Path) -> Path | None:
    """Where the sets are, or None to ask the environment."""
    from poise.errors import PoiseError

    folder = (recipe_dir / settings.path).resolve() if settings.path else None
    if folder is not None and not folder.is_dir():
        raise PoiseError(
            "no such folder of data sets",
            where=str(folder),
            do="set sources.path to the folder that holds <name>/<name>.jsonl.gz (--set sources.path=DIR)",
        )
    return folder


def run(ctx: StageContext, settings: SourceSettings) -> dict[str, Any]:
    """Write `corpus/`: all sets merged, split by prompt cluster, a safe flag by majority where a text has several."""
    from poise.annotate.aggregate import majority_safe
    from poise.data import merge, split_by_prompt, with_splits
    from poise.data.adapters import read
    from poise.errors import PoiseError

    folder = _folder(settings, ctx.recipe_dir)
    corpora = {name: read(name, folder) for name in ctx.progress(list(settings.names), unit="sets", what="reading")}
    corpus = merge(corpora.values())
    if not corpus.qa:
        where = ", ".join(settings.names)
        raise PoiseError(f"no usable row; dropped {counts_by(corpus.dropped)}", where=where, do="check the files")
    corpus = with_splits(corpus, split_by_prompt(corpus.prompts, settings.test_share, ctx.seed))
    voted, rater, tied = majority_safe(corpus.judgements)
    corpus.judgements += voted
    corpus.raters.append(rater)
    corpus.dropped |= {"safe flag: annotators tied": tied}
    ctx.log(f"{len(corpus.qa)} responses from {len(corpora)} sets; dropped {counts_by(corpus.dropped)}")
    rows = {name: len(c.qa) for name, c in corpora.items()}
    return {**write_corpus(ctx, corpus), "rows": rows, "dropped": corpus.dropped}
