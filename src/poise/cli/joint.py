"""`poise annotate joint`: how good people, the model and both together are, and how far suggestions move people."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from poise.cli.annotate import Force, app
from poise.cli.workbench import Where


@app.command()
def joint(
    store: Where,
    reference: Annotated[
        Literal["audited", "adjudicated"] | None,
        typer.Option(help="Items whose adjudicated value is the truth; audited where the store audits any."),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE.json", help="Where the report goes.")] = None,
    plot: Annotated[Path | None, typer.Option("--plot", metavar="FILE.png", help="A picture of it; or .svg.")] = None,
    force: Force = False,
) -> None:
    """Accuracy of people alone, of models and of joint labels, overrides and automation bias, with 95 % intervals."""
    from poise.annotate.joint import report
    from poise.annotate.joint.plots import check_target, draw, written
    from poise.annotate.joint.terminal import render
    from poise.annotate.store import AnnotationStore
    from poise.data.folders import write_json

    check_target(out, (".json",), replace=force)
    check_target(plot, (".png", ".svg"), replace=force)
    with AnnotationStore.open(store) as opened:
        found = report(opened, reference)
    typer.echo(render(found).rstrip())
    if out is not None:
        with written(out) as path:
            write_json(path, found)
    if plot is not None:
        with written(plot) as path:
            draw(found, path, plot.suffix[1:])
