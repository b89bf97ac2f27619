"""`poise annotate`, continued: may a batch of labels be used, what does a screen of it miss, how do raters work."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from poise.cli.annotate import Folder, Force, Out, app
from poise.errors import PoiseError

if TYPE_CHECKING:
    from poise.metrics import Interval

Confidence = Annotated[float, typer.Option(help="Of bounds and intervals, between 0 and 1.")]
Cut = Annotated[float, typer.Option(help="Robust deviations below a rater's own pace that are flagged.")]
FastestWpm = Annotated[float, typer.Option(help="Words a minute above which an answer is flagged.")]


@app.command()
def accept(
    batch: Annotated[int, typer.Option(min=1, metavar="N", help="Labels in the batch.")],
    limit: Annotated[float, typer.Option(help="The rate of wrong labels that it may have at most, 0 to below 1.")],
    checked: Annotated[int | None, typer.Option(min=0, help="Labels checked, drawn at random from the batch.")] = None,
    errors: Annotated[int | None, typer.Option(min=0, help="Wrong ones among them.")] = None,
    confidence: Confidence = 0.95,
    looks: Annotated[int, typer.Option(min=1, help="Decisions planned while more is checked; each is stricter.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """Accept a batch, reject it or check more, by exact bounds; without --checked, how many to check."""
    from poise.annotate.quality.acceptance import decide

    if (checked is None) != (errors is None):
        raise PoiseError("--checked and --errors belong together", do="give both, or neither to plan")
    if not 0 < confidence < 1 or not 0 <= limit < 1:
        raise PoiseError(
            f"--confidence {confidence} and --limit {limit} are not both shares",
            do="give numbers between 0 and 1; the limit may be 0",
        )
    if checked is None or errors is None:
        _plan(batch, limit, 1 - (1 - confidence) / looks, as_json)
        return
    if not errors <= checked <= batch:
        raise PoiseError(f"{errors} errors of {checked} checked of {batch}", do="each is at most the next")
    found = decide(errors, checked, batch, limit, confidence, looks)
    rate, lower, upper = found.bounds
    if as_json:
        told = {"verdict": found.verdict, "lower": lower, "upper": upper, "more": found.more}
        typer.echo(json.dumps(told | {"rate": rate if checked else None}, indent=2))
        return
    typer.echo(f"{found.verdict}: {errors} of {checked} wrong, at least {lower:.2%}, at most {upper:.2%} of the batch")
    if found.verdict == "check more":
        more = "no further check passes it" if found.more is None else f"passes if the next {found.more:,} are right"
        typer.echo(f"    {more}")


def _plan(batch: int, limit: float, confidence: float, as_json: bool) -> None:
    """How many to check for 0 to 5 allowed errors, and how often a batch with half of the limit then passes."""
    from poise.annotate.quality.acceptance import hypergeometric_cdf, sample_size

    plans = []
    for errors in range(6):
        if (check := sample_size(batch, limit, errors, confidence)) is None:
            break
        passes = hypergeometric_cdf(errors, check, int(limit * batch / 2), batch)
        plans.append({"errors": errors, "check": check, "passes_at_half_the_limit": passes})
    if as_json:
        typer.echo(json.dumps(plans, indent=2))
        return
    typer.echo("allowed wrong    check    a batch with half of the limit passes")
    for plan in plans:
        typer.echo(f"{plan['errors']:>13}{plan['check']:>9,}    {plan['passes_at_half_the_limit']:.0%}")


@app.command()
def screen(
    tables: Folder,
    out: Out,
    k: Annotated[int, typer.Option("--k", min=1, help="Rows of the greatest doubt, and as many of the others.")],
    model: Annotated[str | None, typer.Option("--model", metavar="NAME", help="Whose labels screen the rows'.")] = None,
    seed: Annotated[int, typer.Option(help="Of the draw.")] = 0,
    force: Force = False,
) -> None:
    """Choose the labelled rows that a model doubts most and random others; written without labels, to be labelled."""
    from poise.annotate.quality.batch import screen_tables
    from poise.data.tables import open_tables

    plan = screen_tables(open_tables(tables), out, model, k, seed, replace=force)
    typer.echo(f"{out}: of {plan.batch:,} labels {len(plan.top):,} by doubt and {len(plan.rest):,} at random")
    for count, what in ((plan.unlabelled, "responses have no label"), (plan.unknown, "labels the model did not judge")):
        if count:
            typer.echo(f"    {count:,} {what}")


@app.command()
def screened(
    plan: Annotated[Path, typer.Argument(metavar="SCREEN", help="What `poise annotate screen` wrote.")],
    checked: Annotated[Path, typer.Argument(metavar="CHECKED", help="Tables with the new labels of those rows.")],
    confidence: Confidence = 0.95,
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """The batch's error rate, and the screen's precision and recall, from the rows that were labelled again."""
    from poise.annotate.quality import batch
    from poise.data.tables import open_tables

    if not 0 < confidence < 1:
        raise PoiseError(f"--confidence {confidence}", do="give a number between 0 and 1")
    found = batch.screened(batch.read_plan(plan), open_tables(checked), confidence)._asdict()
    if as_json:
        told = {name: {part: _number(x) for part, x in value._asdict().items()} for name, value in found.items()}
        typer.echo(json.dumps(told, indent=2))
        return
    for name, value in found.items():
        typer.echo(f"{name.replace('_', ' '):<12}{told_interval(value)}")


@app.command()
def habits(
    tables: Folder,
    cut: Cut = 3.5,
    fastest_wpm: FastestWpm = 600,
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON, with the items flagged.")] = False,
) -> None:
    """Every rater's repeats, preference for the left side, and answers that came too fast; flagged, never left out."""
    from poise.annotate.quality.habits import habits as found_in
    from poise.data.tables import open_tables

    check_speeds(cut, fastest_wpm)
    found = found_in(open_tables(tables), cut=cut, fastest_wpm=fastest_wpm)
    if as_json:
        typer.echo(json.dumps(found, ensure_ascii=False, indent=2))
        return
    show_habits(found)


def check_speeds(cut: float, fastest_wpm: float) -> None:
    """Refuse a cut or a speed that flags nothing or everything.

    Raises:
        PoiseError: one is not above 0.
    """
    if not cut > 0 or not fastest_wpm > 0:
        raise PoiseError(f"--cut {cut} --fastest-wpm {fastest_wpm}", do="give numbers above 0")


def show_habits(found: dict[str, Any]) -> None:
    """Print what `poise.annotate.quality.habits` found."""
    for part, what in (("repeats", "same answer again"), ("left", "left chosen"), ("swaps", "same with sides changed")):
        typer.echo(what if found[part] else f"{what}: no such answers")
        for row in found[part]:
            twice = f", left twice {row['left_twice']:,}, right twice {row['right_twice']:,}" if part == "swaps" else ""
            told = f"{row['mean']:.3f} [{row['low']:.3f}, {row['high']:.3f}] of {row['n']:,}"
            typer.echo(f"    {row['rater']}, {row['question']}: {told}{twice}")
    typer.echo("too fast" if found["times"] else "too fast: no times")
    for row in found["times"]:
        counts = f"{row['by_pace']:,} for the rater, {row['by_floor']:,} for reading"
        typer.echo(f"    {row['rater']}: {counts}, of {row['answers']:,} answers")


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def told_interval(value: Interval) -> str:
    """A share with its interval in words."""
    if math.isnan(value.mean):
        return "unknown: nothing to count"
    return f"{value.mean:.3f} [{value.low:.3f}, {value.high:.3f}], {value.n:,} judged"
