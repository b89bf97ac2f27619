"""`poise annotate`, continued: the workbench for people, and the invitation with which the first of them comes in."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from poise.cli.annotate import app
from poise.errors import PoiseError

if TYPE_CHECKING:
    from poise.llm.budget import Price

Where = Annotated[str | None, typer.Argument(metavar="STORE", help="A SQLite file, or a postgresql:// URL.")]
Run = Annotated[
    Path | None, typer.Option("--run", metavar="DIR", help="Instead of STORE: the items of a run of the pipeline.")
]
Replies = Annotated[
    list[Path] | None,
    typer.Option("--replies", metavar="FILE", help="Replies of model raters: leads see what they took. Repeatable."),
]
Prices = Annotated[
    list[str] | None,
    typer.Option("--price", metavar="MODEL=PROMPT:COMPLETION", help="Money for a million tokens each. Repeatable."),
]


def _store(store: str | None, run: Path | None) -> str:
    """The store that is named, or that of a run."""
    if (store is None) == (run is None):
        raise PoiseError("name a store or a run", where="poise annotate", do="STORE, or --run DIR")
    if run is None:
        return str(store)
    from poise.pipeline.annotations import open_run

    return str(open_run(run))


def _prices(told: Sequence[str], replies: Sequence[Path]) -> dict[str, Price]:
    """The prices by model, once the stores of replies are found to be some."""
    from poise.annotate.workbench.costs import spent
    from poise.llm.budget import Price

    prices: dict[str, Price] = {}
    for one in told:
        model, _, numbers = one.rpartition("=")  # a model's name may hold one, a number doesn't
        try:
            prompt, completion = map(float, numbers.split(":"))
        except ValueError:
            prompt = completion = math.nan
        if not model or not all(math.isfinite(price) and price >= 0 for price in (prompt, completion)):
            raise PoiseError(
                f"{one!r} is no price",
                where="--price",
                do="give MODEL=PROMPT:COMPLETION, money for a million tokens of prompts and of answers",
            )
        if model in prices:
            raise PoiseError(f"{model!r} has two prices", where="--price", do="give one")
        prices[model] = Price(prompt, completion)
    if prices and not replies:
        raise PoiseError("prices without replies", where="--price", do="name their store with --replies FILE")
    spent(replies)
    return prices


@app.command()
def serve(
    store: Where = None,
    run: Run = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8300,
    title: Annotated[str, typer.Option(help="Shown on top of every page.")] = "Poise workbench",
    https: Annotated[
        bool, typer.Option("--https", help="It is reached over HTTPS, through a proxy: cookies go nowhere else.")
    ] = False,
    shield: Annotated[
        Literal["off", "hints", "always"],
        typer.Option(help="Which texts are covered until asked for: those with a hint of a severe category, or all."),
    ] = "hints",
    budget_items: Annotated[int, typer.Option(min=0, help="Items one person reads on a day; 0 is no limit.")] = 400,
    budget_severe: Annotated[int, typer.Option(min=0, help="Severe ones among them; 0 is no limit.")] = 60,
    break_items: Annotated[int, typer.Option(min=0, help="Items between reminders of a break; 0 is none.")] = 40,
    break_severe: Annotated[int, typer.Option(min=0, help="Severe items between them; 0 is none.")] = 10,
    session_hours: Annotated[float, typer.Option(min=0.1, help="Until one must sign in again.")] = 12.0,
    support: Annotated[str | None, typer.Option(help="Where readers find help; shown on pages of breaks.")] = None,
    replies: Replies = None,
    price: Prices = None,
) -> None:
    """Open the workbench: pages on which people label, compare and rank what is in the store."""
    from poise.annotate.store import AnnotationStore
    from poise.annotate.workbench import Settings, create_app

    told = {} if support is None else {"support": support}
    settings = Settings(
        title=title,
        https=https,
        shield=shield,
        budget_items=budget_items,
        budget_severe=budget_severe,
        break_items=break_items,
        break_severe=break_severe,
        session_hours=session_hours,
        replies=tuple(replies or ()),
        prices=_prices(price or (), replies or ()),
        **told,
    )
    with AnnotationStore.open(_store(store, run)) as opened:
        made = create_app(opened, settings)
        try:
            import uvicorn
        except ModuleNotFoundError as error:
            raise PoiseError(
                "the workbench needs uvicorn", where="serve", do="pip install -e '.[serve]'", exit_code=3
            ) from error
        if host not in ("127.0.0.1", "::1", "localhost") and not https:
            typer.echo(f"{host} is open to others without HTTPS; put a proxy before it and add --https", err=True)
        config = uvicorn.Config(
            made, host=host, port=port, timeout_keep_alive=75, access_log=False, server_header=False, log_level="info"
        )
        uvicorn.Server(config).run()


@app.command()
def invite(
    store: Where = None,
    run: Run = None,
    role: Annotated[
        Literal["annotator", "reviewer", "lead", "admin"], typer.Option(help="Each may do what those before it may.")
    ] = "annotator",
    hours: Annotated[float, typer.Option(min=0.1, help="Until the link is void.")] = 72.0,
) -> None:
    """Print a link, to put behind the workbench's address, that makes one account."""
    from poise.annotate.store import AnnotationStore
    from poise.annotate.workbench.accounts import Accounts

    with AnnotationStore.open(_store(store, run)) as opened:
        token = Accounts(opened).invite(role, hours)
    typer.echo(f"/join#{token}")
