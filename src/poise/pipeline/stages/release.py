"""Stage `release`: the labelled corpus in the public formats, validated."""

from __future__ import annotations

from typing import Any

from poise.pipeline.context import StageContext
from poise.pipeline.stages.common import PRECEDENCE, Settings, read_corpus


class ReleaseSettings(Settings):
    """Name and licence that the card states."""

    name: str = "Poise quickstart"
    licence: str = "apache-2.0"


def run(ctx: StageContext, settings: ReleaseSettings) -> dict[str, Any]:
    """Write `dataset/`, readable with `datasets.load_dataset(<folder>, <config>)`; an order violation stops the run."""
    import shutil

    from poise.data import Final, corpus_tables, write_release

    corpus = read_corpus(ctx, "annotate")
    for name in ("tables", "dataset"):
        shutil.rmtree(ctx.dir / name, ignore_errors=True)
    tables = corpus_tables(corpus, Final.of(corpus, PRECEDENCE), ctx.dir / "tables")
    release = write_release(tables, ctx.dir / "dataset", name=settings.name, licence=settings.licence, seed=ctx.seed)
    rows = release.validation.rows
    ctx.log(f"released {rows}; 0 violations")
    return {"rows": rows, "violations": sum(release.validation.errors.values())}
