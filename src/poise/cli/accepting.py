"""`poise annotate accept`: whether a batch may be released after some of its items were checked."""

from __future__ import annotations

from typing import Annotated

import typer

from poise.cli.annotate import app


@app.command()
def accept(
    batch: Annotated[int, typer.Option(min=1, help="Items in the batch.")],
    limit: Annotated[float, typer.Option(min=0, max=1, help="Share of wrong items that is tolerated.")],
    checked: Annotated[int, typer.Option(min=0, help="Items checked, drawn at random.")] = 0,
    errors: Annotated[int, typer.Option(min=0, help="Wrong ones among them.")] = 0,
    confidence: Annotated[float, typer.Option(help="Of the upper bound.")] = 0.95,
) -> None:
    """Accept a batch of labels, reject it, or check more; exit code 1 for a batch that is rejected."""
    from poise.annotate.quality import decide

    found = decide(batch, limit, checked, errors, confidence)
    told = f"{errors} of {checked} wrong: at most {found.bound:.2%} of {batch:,} at confidence {confidence:g}"
    if found.action == "check more":
        told += f"; check {found.more:,} more, and accept it when no further one is wrong"
    typer.echo(f"{found.action}: {told}")
    if found.action == "reject":
        raise typer.Exit(1)
