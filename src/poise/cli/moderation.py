"""`poise guard serve` and `poise guard keys`: a guard behind the moderation APIs that people already call."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from poise.cli.guard import app
from poise.errors import PoiseError

keys_app = typer.Typer(help="Keys of a moderation server.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(keys_app, name="keys")

KeyFile = Annotated[Path, typer.Argument(metavar="FILE", help="Key file; holds hashes, never a key.")]


@app.command()
def serve(
    guard: Annotated[Path, typer.Argument(metavar="GUARD", help="A guard, trained or exported, or starter.")],
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one.")] = 8080,
    keys: Annotated[Path | None, typer.Option(metavar="FILE", help="Ask for a key of `poise guard keys add`.")] = None,
    no_auth: Annotated[bool, typer.Option("--no-auth", help="Ask for no key, whoever can reach the address.")] = False,
    block_at: Annotated[
        Literal["minor", "moderate", "severe"] | None,
        typer.Option(help="Mildest severity that LiteLLM is told to block; the guard's own by default, else minor."),
    ] = None,
    max_batch: Annotated[int, typer.Option(min=1, help="Texts judged together.")] = 32,
    linger_ms: Annotated[float, typer.Option(min=0, help="How long a busy guard waits for more texts.")] = 2.0,
    max_queue: Annotated[int, typer.Option(min=1, help="Texts that may wait; then 429.")] = 512,
    max_wait: Annotated[float, typer.Option(help="Expected seconds of waiting from which on the answer is 429.")] = 5.0,
    max_items: Annotated[int, typer.Option(min=1, help="Texts of one request.")] = 256,
    max_characters: Annotated[int, typer.Option(min=1, help="Of one text, before and after normalisation.")] = 100_000,
    max_bytes: Annotated[int, typer.Option(min=1, help="Of one request body.")] = 1 << 20,
    log_level: Annotated[Literal["debug", "info", "warning", "error"], typer.Option(help="Of the JSON log.")] = "info",
) -> None:
    """Serve a guard as OpenAI's, Azure's, LiteLLM's, vLLM's, TEI's and Perspective's moderation API."""
    from poise.serve.run import check_access, check_guard, listen, need_extra
    from poise.serve.run import serve as run

    need_extra()
    check_access(host, keys, no_auth=no_auth)
    from poise.guard.fast.opening import open_guard
    from poise.harm import Severity
    from poise.serve.app import Service
    from poise.serve.batching import Batching
    from poise.serve.limits import Limits
    from poise.serve.telemetry import start_logging

    if max_items > max_queue:
        raise PoiseError(
            f"--max-items {max_items} is above --max-queue {max_queue}",
            where="serve",
            do="raise --max-queue or lower --max-items",
        )
    limits = Limits(
        body_bytes=max_bytes,
        items=max_items,
        text_characters=max_characters,
        request_characters=max(max_characters, Limits.request_characters),
        queue_items=max_queue,
        wait_s=max_wait,
    )
    with listen(host, port) as sock:
        opened = open_guard(guard)
        check_guard(opened)
        service = Service(
            opened,
            keys=keys,
            limits=limits,
            batching=Batching(max_batch, linger_ms),
            block_at=None if block_at is None else Severity.parse(block_at),
        )
        start_logging(level=log_level)
        run(service.app, sock, lambda url: typer.echo(f"{opened.name}: {url}"))


@keys_app.command("add")
def add(
    file: KeyFile,
    name: Annotated[str, typer.Option(metavar="NAME", help="Whose key it is.")],
    scope: Annotated[list[str] | None, typer.Option(metavar="SCOPE", help="moderate (default), metrics.")] = None,
    per_minute: Annotated[int | None, typer.Option(metavar="N", help="Texts a minute; no limit by default.")] = None,
) -> None:
    """Make a key and show it, this once."""
    from poise.serve.keys import add_key

    entry, token = add_key(file, name, scope or ["moderate"], per_minute)
    typer.echo(f"{entry.id} {entry.name}", err=True)
    typer.echo(token)


@keys_app.command("list")
def list_keys(file: KeyFile) -> None:
    """The keys of a file, without the keys themselves."""
    from poise.serve.keys import read_keys

    for entry in read_keys(file):
        rate = "no limit" if entry.per_minute is None else f"{entry.per_minute} texts a minute"
        typer.echo(f"{entry.id} {entry.name}: {', '.join(entry.scopes)}; {rate}; made {entry.created}")


@keys_app.command()
def revoke(
    file: KeyFile, key: Annotated[str, typer.Argument(metavar="ID", help="As `poise guard keys list` shows it.")]
) -> None:
    """Take a key away; a running server knows within a second."""
    from poise.serve.keys import revoke_key

    entry = revoke_key(file, key)
    typer.echo(f"revoked {entry.id} {entry.name}")
