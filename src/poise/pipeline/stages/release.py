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

    from poise.data import Final, write_release

    corpus = read_corpus(ctx, "annotate")
    folder = ctx.dir / "dataset"
    shutil.rmtree(folder, ignore_errors=True)
    release = write_release(
        corpus, folder, name=settings.name, licence=settings.licence, seed=ctx.seed, final=Final.of(corpus, PRECEDENCE)
    )
    rows = release.validation.rows
    ctx.log(f"released {rows}; 0 violations")
    return {"rows": rows, "violations": sum(release.validation.counts.values())}
