"""`poise guard`: the severity-aware guard."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from poise.errors import PoiseError

if TYPE_CHECKING:
    from poise.guard.fit.run import Plan

app = typer.Typer(help="The severity-aware guard.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def _group() -> None:
    """The severity-aware guard."""


@app.command()
def train(
    plan: Annotated[Path, typer.Argument(metavar="PLAN", help="YAML file, see recipes/guard-starter.yaml.")],
    data: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the sets, one folder each.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="The new guard.")],
    overrides: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key.")] = None,
) -> None:
    """Read, train, calibrate and measure a guard; run it again to go on after a stop."""
    from poise.guard.fit.run import Watch, train_guard
    from poise.pipeline.progress import Meter

    read = read_guard_plan(plan, overrides)
    with Meter() as meter:
        watch = Watch(
            note=typer.echo,
            answered=lambda done, total: meter.show("answering", "answers", done, total),
            step=lambda done, total, loss: meter.show("training", "steps", done, total, loss=loss),
            judged=lambda done, total: meter.show("judging", "rows", done, total),
        )
        measured = train_guard(read, data, out, watch)
    for line in table_lines(measured):
        typer.echo(line)
    typer.echo(f"guard: {out}")


@app.command()
def evaluate(
    guard: Annotated[Path, typer.Argument(metavar="GUARD", help="A guard, trained or exported, or starter.")],
    tables: Annotated[Path, typer.Argument(metavar="TABLES", help="Folder of labelled tables.")],
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Also write the metrics as JSON.")] = None,
) -> None:
    """Measure a guard on labelled tables, set by set."""
    from poise.data.folders import write_json
    from poise.data.tables import open_tables
    from poise.guard.fast.opening import open_guard
    from poise.guard.fit.apply import evaluate as measure
    from poise.pipeline import progress

    opened = open_tables(tables)
    with progress(iter(()), unit="texts", what="judging") as bar:
        measured = measure(open_guard(guard), opened, bar.update)
    for line in table_lines(measured):
        typer.echo(line)
    if out is not None:
        write_json(out, measured)


@app.command()
def label(
    guard: Annotated[Path, typer.Argument(metavar="GUARD", help="A guard, trained or exported, or starter.")],
    tables: Annotated[Path, typer.Argument(metavar="TABLES", help="Folder of tables.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the rows and judgements go.")],
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier result.")] = False,
) -> None:
    """Categories and severity of every response by a trained guard, as judgements beside the rows."""
    from poise.data.folders import refuse_used
    from poise.data.tables import open_tables
    from poise.guard.fast.opening import open_guard
    from poise.guard.fit.apply import label_tables
    from poise.pipeline import progress

    refuse_used(out, force)
    opened = open_tables(tables)
    with progress(iter(()), unit="texts", what="judging") as bar:
        counts = label_tables(open_guard(guard), opened, out, replace=force, on_rows=bar.update)
    typer.echo(f"{out}: " + ", ".join(f"{verdict} {count:,}" for verdict, count in sorted(counts.items())))


def read_guard_plan(path: Path, overrides: list[str] | None) -> Plan:
    """The plan in a YAML file.

    Raises:
        PoiseError: what is wrong with it, one line for each problem.
    """
    from poise.guard.fit.plan import DataPlan, ModelPlan, PlanHead, TrainingPlan
    from poise.guard.fit.run import Plan
    from poise.pipeline.recipe import read_sections

    sections: Mapping[str, Any] = {"data": DataPlan, "model": ModelPlan, "training": TrainingPlan}
    head, found = read_sections(path, PlanHead, sections, overrides or [])
    if "data" not in found:
        raise PoiseError("has no section 'data'", where=str(path), do="name the sets under data.sets")
    parts: dict[str, Any] = {"model": ModelPlan(), "training": TrainingPlan()} | found
    return Plan(head.name, head.seed, parts["data"], parts["model"], parts["training"])


def table_lines(measured: Mapping[str, Any]) -> list[str]:
    """The metrics for people."""
    lines = [f"{'set':28s} {'kind':8s} {'n':>6s} {'AUROC':>6s} {'TF-IDF':>7s} {'F1':>6s} {'FPR':>6s} {'ECE':>6s}"]
    lines += [
        f"{row['set']:28s} {row['kind']:8s} {row['n']:6d} {_number(row.get('auroc')):>6s} "
        f"{_number(row.get('tfidf_auroc')):>7s} {_number(row['f1']):>6s} {_number(row['fpr']):>6s} "
        f"{_number(row['ece']):>6s}"
        for row in measured["sets"]
    ]
    severity = measured["severity"] or {}
    for name in ("guard", "category prior", "always moderate"):
        if name in severity:
            told = ", ".join(f"{key} {_number(value)}" for key, value in severity[name].items())
            lines.append(f"severity, {severity['n']} rows, {name}: {told}")
    return lines


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


@app.command("train-helpfulness")
def train_helpfulness_head(
    data: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the public data sets.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the trained head goes.")] = Path("helpfulness-head"),
) -> None:
    """Train the helpfulness head of the starter rater on pairs with permissive licences and our own seeds."""
    from poise.guard.helpfulness_training import train_helpfulness
    from poise.pipeline import progress

    for name, row in train_helpfulness(data, out, progress).items():
        typer.echo(f"{name:20s} " + "  ".join(f"{key} {value}" for key, value in row.items()))
    typer.echo(f"helpfulness head: {out}")
