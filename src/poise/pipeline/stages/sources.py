"""Stage `sources`: rows that people wrote and labelled, in place of `prompts` and `responses`."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from poise.pipeline.context import StageContext
from poise.pipeline.stages.common import Settings, counts_by, write_corpus


class SourceSettings(Settings):
    """Which public sets to read, and from where."""

    path: str = Field("", description="folder with <name>/<name>.jsonl.gz; empty takes POISE_DATA from the environment")
    names: tuple[str, ...] = Field((), description="data sets by adapter name")
    test_share: float = Field(0.2, gt=0, lt=1)


def run(ctx: StageContext, settings: SourceSettings) -> dict[str, Any]:
    """Write `corpus/`: all sets merged, split by prompt cluster, a safe flag by majority where a text has several."""
    from poise.annotate.aggregate import majority_safe
    from poise.data import merge, split_by_prompt, with_splits
    from poise.data.adapters import read
    from poise.errors import PoiseError

    if not settings.names:
        raise PoiseError("names no data set", where="sources.names", do="list adapter names, such as beavertails_test")
    folder = (ctx.recipe_dir / settings.path).resolve() if settings.path else None
    if folder is not None and not folder.is_dir():
        raise PoiseError(
            "no such folder of data sets",
            where=str(folder),
            do="set sources.path to the folder that holds <name>/<name>.jsonl.gz (--set sources.path=DIR)",
        )
    corpora = {name: read(name, folder) for name in ctx.progress(list(settings.names), unit="sets", what="reading")}
    corpus = merge(corpora.values())
    corpus = with_splits(corpus, split_by_prompt(corpus.prompts, settings.test_share, ctx.seed))
    voted, rater, tied = majority_safe(corpus.judgements)
    corpus.judgements += voted
    corpus.raters.append(rater)
    corpus.dropped |= {"safe flag: annotators tied": tied}
    ctx.log(f"{len(corpus.qa)} responses from {len(corpora)} sets; dropped {counts_by(corpus.dropped)}")
    rows = {name: len(c.qa) for name, c in corpora.items()}
    return {**write_corpus(ctx, corpus), "rows": rows, "dropped": corpus.dropped}
