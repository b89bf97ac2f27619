"""`poise annotate`, continued: how far raters agree, and one judgement out of several."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from poise.cli.annotate import Folder, Force, Out, app
from poise.errors import PoiseError

WithoutModels = Annotated[bool, typer.Option("--without-models", help="Leave out raters that are models.")]
Raters = Annotated[list[str] | None, typer.Option("--rater", metavar="NAME", help="Only this rater; may be repeated.")]
Judged = Annotated[
    str, typer.Argument(metavar="TABLES", help="A folder of tables, or a store: a SQLite file or a postgresql:// URL.")
]
Round = Annotated[Literal["last", "first"], typer.Option("--round", help="Which of a rater's answers counts.")]


@app.command()
def agreement(
    tables: Judged,
    out: Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Where JSON and plot go.")] = None,
    without_models: WithoutModels = False,
    rater: Raters = None,
    round_: Round = "last",
    order: Annotated[
        list[str] | None,
        typer.Option("--order", metavar="QUESTION=A,B,...", help="Values in their order, which makes it ordinal."),
    ] = None,
    replicates: Annotated[int, typer.Option(min=0, help="Resamples of the intervals.")] = 1000,
    seed: Annotated[int, typer.Option(help="Of the resamples.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
    force: Force = False,
) -> None:
    """Alpha, AC1 and percent agreement by question and category with intervals, and every rater's estimated error."""
    from poise.annotate.agreement.report import report
    from poise.annotate.agreement.terminal import render
    from poise.annotate.store.database import is_url
    from poise.pipeline import progress

    questions = _questions(tables, without_models, rater, round_)
    with progress(iter(()), unit="variables", what="measuring") as bar:
        found = report(questions, orders=_orders(order), replicates=replicates, seed=seed, progress=bar.update)
    found = {
        "tables": tables.rpartition("@")[2] if is_url(tables) else tables,
        "without_models": without_models,
        "round": round_,
        **found,
    }
    typer.echo(json.dumps(found, ensure_ascii=False, indent=2) if as_json else render(found).rstrip())
    if out is not None:
        from poise.annotate.agreement.plots import write_report

        write_report(found, out, replace=force)
        if not as_json:
            typer.echo(f"\n{out}: agreement.json, agreement.svg")


@app.command()
def aggregate(
    tables: Folder,
    out: Out,
    method: Annotated[
        Literal["majority", "dawid-skene", "one-coin", "mace"], typer.Option(help="How judgements become one.")
    ] = "dawid-skene",
    threshold: Annotated[
        float, typer.Option(help="Least posterior of a decision, 0.5 to 1; below it nothing is said.")
    ] = 0.5,
    without_models: WithoutModels = False,
    rater: Raters = None,
    round_: Round = "last",
    force: Force = False,
) -> None:
    """Set labels and choices from the judgements; the posterior goes to provenance, what is open is counted."""
    from poise.annotate.aggregation import aggregate_tables
    from poise.data.tables import open_tables

    questions = _questions(tables, without_models, rater, round_)
    settings = {"without_models": without_models, "raters": rater, "round": round_}
    made, report = aggregate_tables(
        open_tables(tables), questions, out, method, threshold=threshold, settings=settings, replace=force
    )
    typer.echo(f"{out}: " + ", ".join(f"{unit} {rows:,}" for unit, rows in made.rows.items()))
    for name, count in report["counts"].items():
        typer.echo(f"    {name}: {count:,}")


def _questions(
    source: str | Path, without_models: bool, raters: list[str] | None, round_: Literal["last", "first"]
) -> Any:
    names = None if raters is None else set(raters)
    kept = None if names is None else lambda who: who.name in names
    from poise.annotate.store.database import is_url

    if is_url(str(source)) or Path(source).is_file():
        from poise.annotate.agreement.from_store import read_store
        from poise.annotate.store import AnnotationStore

        with AnnotationStore.open(source) as store:
            return read_store(store, without_models=without_models, rater=kept, round_=round_)
    from poise.annotate.agreement.reading import read_questions
    from poise.data.tables import open_tables

    tables = open_tables(Path(source))
    return read_questions(tables, without_models=without_models, rater=kept, round_=round_)


def _orders(given: list[str] | None) -> dict[str, list[Any]]:
    """The values as JSON where they are, else as text."""
    orders = {}
    for text in given or []:
        question, equals, values = text.partition("=")
        if not equals or not values:
            raise PoiseError(f"--order {text}", do="write QUESTION=FIRST,SECOND,...")
        orders[question] = [_read(value) for value in values.split(",")]
    return orders


def _read(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
