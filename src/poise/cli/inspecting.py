"""`poise annotate`, continued: a batch of labels in a store is drawn, inspected in the workbench, and judged."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from poise.cli.annotate import app
from poise.cli.quality_control import told_interval
from poise.cli.workbench import Where
from poise.errors import PoiseError

if TYPE_CHECKING:
    from poise.annotate.quality.inspection import Inspection

Name = Annotated[str, typer.Argument(metavar="BATCH", help="Name of the batch.")]
Day = Annotated[datetime | None, typer.Option(formats=["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"], help="UTC.")]


@app.command()
def inspect(
    store: Where,
    name: Name,
    limit: Annotated[
        float | None, typer.Option(help="The rate of wrong labels that the batch may have at most, 0 to below 1.")
    ] = None,
    check: Annotated[int | None, typer.Option(min=1, help="Labels drawn at random.")] = None,
    k: Annotated[
        int | None, typer.Option("--k", min=1, help="Labels that --model doubts most, and as many of the others.")
    ] = None,
    model: Annotated[str | None, typer.Option("--model", metavar="NAME", help="Whose labels screen the batch.")] = None,
    more: Annotated[int | None, typer.Option(min=1, help="Draw more of a batch that is there.")] = None,
    since: Day = None,
    until: Day = None,
    rater: Annotated[str | None, typer.Option(metavar="NAME", help="Labels that this rater has judged.")] = None,
    dataset: Annotated[str | None, typer.Option(metavar="NAME", help="Labels of rows of this data set.")] = None,
    measure: Annotated[
        Literal["verdict", "exact"], typer.Option(help="Wrong: the other of safe and harmful, or any other label.")
    ] = "verdict",
    confidence: Annotated[float, typer.Option(help="Of bounds and intervals, above 0.5, below 1.")] = 0.95,
    looks: Annotated[int, typer.Option(min=1, help="Decisions planned while more is drawn; each is stricter.")] = 1,
    seed: Annotated[int, typer.Option(help="Of the draw.")] = 0,
) -> None:
    """Draw labels that stand for inspection: reviewers label them again in the workbench, blind."""
    from poise.annotate.quality.inspection import draw, draw_more
    from poise.annotate.store import AnnotationStore

    if more is not None:
        if (limit, check, k, model, since, until, rater, dataset) != (None,) * 8:
            raise PoiseError("--more with a new draw", where=name, do="give --more alone; the plan of a batch stays")
        with AnnotationStore.open(store) as opened:
            _show(draw_more(opened, name, more))
        return
    if limit is None or (check is None) == (k is None) or (k is None) != (model is None):
        do = "give --limit, and --check N or --k N --model NAME; `poise annotate accept --batch N --limit X` plans N"
        raise PoiseError("not clear what to draw", where=name, do=do)
    with AnnotationStore.open(store) as opened:
        found = draw(
            opened,
            name,
            check=check or k or 0,
            top=k or 0,
            model=model,
            since_ms=_ms(since),
            until_ms=_ms(until),
            rater=rater,
            dataset=dataset,
            limit=limit,
            measure=measure,
            confidence=confidence,
            looks=looks,
            seed=seed,
        )
    _show(found)
    if found.plan.unknown:
        typer.echo(f"    the model has not judged {found.plan.unknown:,} of the batch; they count as doubted most")


@app.command()
def inspected(
    store: Where,
    name: Annotated[str | None, typer.Argument(metavar="BATCH", help="One batch; without it, all.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON, with the labels found wrong.")] = False,
) -> None:
    """How many labels of a batch were inspected, how many are wrong, and whether the batch may pass."""
    from poise.annotate.quality.inspection import inspections
    from poise.annotate.store import AnnotationStore

    with AnnotationStore.open(store) as opened:
        found = inspections(opened, name)
    if as_json:
        typer.echo(json.dumps([_told(one) for one in found], ensure_ascii=False, indent=2))
        return
    for one in found:
        _show(one)
    if not found:
        typer.echo(f"{store}: no batch was drawn")


def _ms(day: datetime | None) -> int | None:
    return None if day is None else round(day.replace(tzinfo=UTC).timestamp() * 1000)


def _show(one: Inspection) -> None:
    plan, count = one.plan, len(one.wrong)
    typer.echo(f"{one.name}: {one.verdict}, limit {plan.limit:.2%} of {plan.size:,} labels")
    unjudged = f", {one.unjudged:,} of them unjudged" if one.unjudged else ""
    typer.echo(f"    inspected {one.inspected:,} of {one.drawn:,}{unjudged}")
    upheld = sum(wrong.state == "upheld" for wrong in one.wrong)
    waiting = sum(wrong.state == "to adjudicate" for wrong in one.wrong)
    later = f": {waiting:,} to adjudicate, {upheld:,} upheld" if count else ""
    typer.echo(f"    found wrong {count:,}{later}")
    missing = ", whatever the rest says" if one.inspected < one.drawn else ""
    typer.echo(f"    wrong in the batch at least {one.lower:.2%}, at most {one.upper:.2%}{missing}")
    if one.verdict == "check more":
        looks = "no look is left" if plan.draws >= plan.looks else f"look {plan.draws} of {plan.looks}"
        typer.echo(f"    {looks if one.more is None else f'{looks}; passes if the next {one.more:,} are right'}")
    if plan.model is not None:
        typer.echo(f"    screen by {plan.model}: precision {told_interval(one.screen.precision)}")
        typer.echo(f"        recall {told_interval(one.screen.recall)}")
        typer.echo(f"        error rate of the batch {told_interval(one.screen.error_rate)}")


def _told(one: Inspection) -> dict[str, Any]:
    """As JSON; what is undefined is null."""
    told = asdict(one) | {"plan": one.plan.model_dump()}
    told["screen"] = {
        name: {part: None if math.isnan(value) else value for part, value in interval._asdict().items()}
        for name, interval in one.screen._asdict().items()
        if one.plan.model is not None or name == "error_rate"
    }
    return told
