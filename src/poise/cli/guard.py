"""`poise guard`: the severity-aware guard."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="The severity-aware guard.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def _group() -> None:
    """The severity-aware guard."""


@app.command("train-starter")
def train_starter_guard(
    data: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the public data sets.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the trained rater goes.")] = Path("starter-rater"),
) -> None:
    """Train the starter rater on public sets with permissive licences and our own seeds."""
    from poise.guard.starter_training import train_starter
    from poise.pipeline import progress

    for name, row in train_starter(data, out, progress).items():
        typer.echo(f"{name:20s} " + "  ".join(f"{key} {value}" for key, value in row.items()))
    typer.echo(f"starter rater: {out}")
