"""`poise llm`: what stands in a store of replies, and what a batch gave back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from poise.cli.endpoints import Store
from poise.errors import PoiseError

app = typer.Typer(help="Stores of replies, batch files.", no_args_is_help=True, rich_markup_mode=None)


@app.command()
def replies(store: Annotated[Path, typer.Argument(metavar="STORE")]) -> None:
    """How the requests of a store ended, and what went wrong on the way."""
    from poise.llm.store import ReplyStore

    if not store.is_file():
        raise PoiseError("no such file", where=str(store), do="name a store of replies")
    with ReplyStore(store) as opened:
        for state, count in opened.counts().items():
            typer.echo(f"{state:10s} {count:,}")
        for (lane, kind), count in opened.faults().items():
            typer.echo(f"fault      {count:,} {kind} ({lane})")


@app.command("read-batch")
def read_batch(
    results: Annotated[Path, typer.Argument(metavar="RESULTS", help="Output or error file of the batch.")],
    requests: Annotated[Path, typer.Argument(metavar="REQUESTS", help="The *.requests.jsonl beside the batch file.")],
    store: Store,
) -> None:
    """Take the results of an OpenAI Batch into a store; then run the command again that wrote the batch."""
    from poise.llm import batch_files
    from poise.llm.store import ReplyStore

    with ReplyStore(store) as opened:
        for state, count in sorted(batch_files.read_batch(results, requests, opened).items()):
            typer.echo(f"{state:10s} {count:,}")
