"""The options of commands that ask language models behind endpoints, and what they become: lanes and a budget.

Each `--endpoint` is a lane; all of them serve the same models and answer alike. Keys are named by where they are kept,
never typed on the command line, where other users of the machine and the shell's history would see them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from poise.errors import PoiseError

if TYPE_CHECKING:
    from poise.llm.budget import Budget, Estimate, Price
    from poise.llm.exchange import ChatClient
    from poise.llm.keys import Key
    from poise.llm.limits import Lane

Endpoints = Annotated[
    list[str],
    typer.Option("--endpoint", metavar="URL", help="OpenAI-compatible, up to /v1. Repeat it for more servers alike."),
]
KeyEnv = Annotated[
    list[str] | None,
    typer.Option("--key-env", metavar="NAME", help="Variable that holds the key: one for all, or one an --endpoint."),
]
KeyFile = Annotated[
    list[Path] | None,
    typer.Option("--key-file", metavar="FILE", help="File that holds the key: one for all, or one an --endpoint."),
]
Concurrency = Annotated[int, typer.Option(min=1, help="Requests in flight at most, of each endpoint.")]
Rpm = Annotated[float | None, typer.Option("--rpm", min=0.01, help="Requests a minute, of each endpoint.")]
Tpm = Annotated[float | None, typer.Option("--tpm", min=1, help="Tokens a minute, of each endpoint.")]
Timeout = Annotated[float, typer.Option("--timeout", min=0.1, help="Seconds for one answer.")]
Store = Annotated[Path, typer.Option("--store", metavar="FILE", help="Replies; what is in it is not asked again.")]
BudgetRequests = Annotated[int | None, typer.Option(min=1, help="Stop after so many sends.")]
BudgetTokens = Annotated[int | None, typer.Option(min=1, help="Stop before more tokens, both ways together.")]
BudgetCost = Annotated[float | None, typer.Option(min=0, help="Stop before more money; needs both prices.")]
PricePrompt = Annotated[float | None, typer.Option(min=0, help="Money for a million prompt tokens.")]
PriceCompletion = Annotated[float | None, typer.Option(min=0, help="Money for a million tokens that come back.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say how many requests and tokens, and send nothing.")]

CONCURRENCY, TIMEOUT_S = 16, 300.0
"""Defaults of `--concurrency` and `--timeout`."""


def make_lanes(
    endpoints: Sequence[str],
    *,
    key_env: Sequence[str] | None = None,
    key_file: Sequence[Path] | None = None,
    concurrency: int = CONCURRENCY,
    rpm: float | None = None,
    tpm: float | None = None,
    timeout_s: float = TIMEOUT_S,
    client: Callable[[str, str, Key | None, float], ChatClient] | None = None,
) -> list[Lane]:
    """New lanes, one an endpoint, called "endpoint-1", "endpoint-2", ...; a key that others may read is warned of.

    Make new ones for each model: a lane that has met an unknown model is closed for good.

    Args:
        client: makes the client of (alias, address, key, seconds) for servers that are no chat; None: chat clients.

    Raises:
        PoiseError: no endpoint, an address that is none, a key that is not there, or another number of keys than one
            or one an endpoint.
    """
    from poise.llm.http_client import HttpClient
    from poise.llm.limits import Lane, Limits

    if not endpoints:
        raise PoiseError("no endpoint", do="name one with --endpoint URL")
    limits = Limits(concurrency, rpm, tpm)
    keys = _keys(len(endpoints), key_env or (), key_file or ())
    make = client or (lambda alias, url, key, seconds: HttpClient(alias, url, key=key, timeout_s=seconds))
    return [
        Lane(make(f"endpoint-{number}", url, key, timeout_s), limits)
        for number, (url, key) in enumerate(zip(endpoints, keys, strict=True), 1)
    ]


def _keys(endpoints: int, names: Sequence[str], files: Sequence[Path]) -> list[Key | None]:
    """A key for each endpoint, None where none is needed."""
    from poise.llm.keys import Key

    if names and files:
        raise PoiseError("--key-env and --key-file together", do="keep all keys in one way")
    keys = [*map(Key.from_env, names), *map(Key.from_file, files)]
    for warning in sorted({key.warning for key in keys if key.warning}):
        typer.echo(f"warning: {warning}", err=True)
    if not keys:
        return [None] * endpoints
    if len(keys) == 1:
        return [keys[0]] * endpoints
    if len(keys) != endpoints:
        raise PoiseError(f"{len(keys)} keys for {endpoints} endpoints", do="name one key, or one an --endpoint")
    return [*keys]


def make_prices(models: Sequence[str], prompt: float | None, completion: float | None) -> dict[str, Price]:
    """The price of each model, empty when none is given.

    Raises:
        PoiseError: only one of the two prices is given.
    """
    from poise.llm.budget import Price

    if prompt is None and completion is None:
        return {}
    if prompt is None or completion is None:
        raise PoiseError("one price of two", do="give both --price-prompt and --price-completion")
    return dict.fromkeys(models, Price(prompt, completion))


def make_budget(
    models: Sequence[str],
    *,
    requests: int | None = None,
    tokens: int | None = None,
    cost: float | None = None,
    price_prompt: float | None = None,
    price_completion: float | None = None,
) -> Budget:
    """The limits of a whole command, with the same prices for all its models.

    Raises:
        PoiseError: a limit of money without prices, or one price without the other.
    """
    from poise.llm.budget import Budget

    prices = make_prices(models, price_prompt, price_completion)
    if cost is not None and not prices:
        raise PoiseError("--budget-cost without prices", do="give --price-prompt and --price-completion")
    return Budget(requests, tokens, cost, prices)


def show_estimate(found: Estimate) -> None:
    """Print what a dry run found."""
    cost = "unknown, no prices given" if found.most_cost is None else f"{found.most_cost:.2f} at most"
    typer.echo(
        f"{found.requests:,} requests, {found.stored:,} of them answered before; to send: "
        f"{found.prompt_tokens:,} prompt tokens (estimated), {found.most_completion_tokens:,} completion tokens at "
        f"most; cost: {cost}"
    )
