"""`poise annotate`, continued: hidden checks in a store, gold that is doubted, and the quality report."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from poise.cli.annotate import Folder, app
from poise.cli.quality_control import Cut, FastestWpm, check_speeds, show_habits
from poise.cli.workbench import Where
from poise.errors import PoiseError


@app.command()
def gold(
    store: Where,
    tables: Folder,
    rate: Annotated[
        float | None,
        typer.Option(min=0, max=0.5, help="Share of a person's tasks that are gold; 0.05 where nothing was set."),
    ] = None,
    cap: Annotated[
        int | None, typer.Option(min=1, help="People to whom an item is given; 50 where nothing was.")
    ] = None,
) -> None:
    """Add items with known answers, hidden among the tasks; answers to them are logged and become no data."""
    from poise.annotate.quality.golds import add_gold, set_policy
    from poise.annotate.store import AnnotationStore
    from poise.annotate.store.known import quality_policy
    from poise.data.tables import open_tables

    with AnnotationStore.open(store) as opened:
        with opened.database.read() as db:
            first = quality_policy(db) is None
        set_policy(opened, gold_rate=0.05 if first and rate is None else rate, cap=cap)
        counts = add_gold(opened, open_tables(tables))
    typer.echo(f"{store}: " + (", ".join(f"{what} {count:,}" for what, count in counts.items()) or "nothing new"))


@app.command("gold-review")
def gold_review(
    store: Where,
    item: Annotated[str | None, typer.Argument(metavar="ITEM", help="Its key as listed; without it, list.")] = None,
    keep: Annotated[bool, typer.Option("--keep", help="The known answer is right.")] = False,
    retire: Annotated[bool, typer.Option("--retire", help="Serve it no more.")] = False,
    answer: Annotated[
        list[str] | None, typer.Option(metavar="QUESTION=JSON", help="With --keep: the right answer from now on.")
    ] = None,
    why: Annotated[str, typer.Option(help="Kept in its history.")] = "",
    every: Annotated[bool, typer.Option("--all", help="List every gold item, not those under review alone.")] = False,
    texts: Annotated[bool, typer.Option("--texts", help="List the beginning of each text too.")] = False,
) -> None:
    """List the gold items that good raters doubt, or decide about one."""
    from poise.annotate.quality.golds import decide_gold, gold_items
    from poise.annotate.store import AnnotationStore

    with AnnotationStore.open(store) as opened:
        if item is None:
            for one in gold_items(opened, None if every else "review"):
                state = f"{one.state}, " if every else ""
                typer.echo(f"{one.kind}:{one.key[:12]} {state}known {json.dumps(one.answers)}, shown {one.shown}")
                for text in (one.prompt, *one.responses) if texts else ():
                    typer.echo(f"    {text[:300]!r}")
                for question, said in one.said.items():
                    typer.echo(f"    {question}: " + ", ".join(json.dumps(value) for value in said))
            return
        if keep == retire or every or texts:
            raise PoiseError("no decision", where=item, do="say --keep or --retire")
        answers = dict(_answer(text) for text in answer or [])
        if answers and retire:
            raise PoiseError("an answer for an item that is retired", where=item, do="say --keep with --answer")
        state = decide_gold(opened, item, "keep" if keep else "retire", answers=answers, why=why)
    typer.echo(f"{item}: {state}")


def _answer(text: str) -> tuple[str, Any]:
    question, _, value = text.partition("=")
    try:
        return question, json.loads(value)
    except ValueError as error:
        raise PoiseError(f"--answer {text}", do='write label={"categories": ["S2"], "severity": 1}') from error


@app.command()
def checks(
    store: Where,
    gold_rate: Annotated[float | None, typer.Option("--gold", help="Share of tasks with a known answer.")] = None,
    repeat: Annotated[float | None, typer.Option(help="Share of tasks that a person has answered before.")] = None,
    swap: Annotated[float | None, typer.Option(help="Share of tasks that are a pair again, sides swapped.")] = None,
    repeat_after: Annotated[int | None, typer.Option(help="Other items before one comes again.")] = None,
    cap: Annotated[int | None, typer.Option(help="People to whom a gold item is given.")] = None,
    doubters: Annotated[int | None, typer.Option(help="Good raters before gold can be doubted.")] = None,
    good_answers: Annotated[int | None, typer.Option(help="Gold answers of a good rater, at least.")] = None,
    good_accuracy: Annotated[float | None, typer.Option(help="Share of them that are exact, at least.")] = None,
    goal: Annotated[float | None, typer.Option(help="Share of exact gold answers that is expected.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of what is drawn.")] = None,
) -> None:
    """Set how often hidden checks are served, and when gold is doubted; what is not named stays as it is."""
    from poise.annotate.quality.golds import set_policy
    from poise.annotate.store import AnnotationStore

    with AnnotationStore.open(store) as opened:
        policy = set_policy(
            opened,
            gold_rate=gold_rate,
            repeat_rate=repeat,
            swap_rate=swap,
            repeat_after=repeat_after,
            cap=cap,
            doubters=doubters,
            good_answers=good_answers,
            good_accuracy=good_accuracy,
            accuracy_goal=goal,
            seed=seed,
        )
    typer.echo(f"{store}: " + ", ".join(f"{name} {value}" for name, value in policy.model_dump().items()))


@app.command()
def quality(
    store: Where,
    cut: Cut = 3.5,
    fastest_wpm: FastestWpm = 600,
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON, with the items flagged.")] = False,
) -> None:
    """Every rater on gold, repeats, sides and times; gold under review; suggestions, and nothing that acts on them."""
    from poise.annotate.quality.report import quality_report
    from poise.annotate.store import AnnotationStore

    check_speeds(cut, fastest_wpm)
    with AnnotationStore.open(store) as opened:
        report = quality_report(opened, cut=cut, fastest_wpm=fastest_wpm)
    if as_json:
        typer.echo(json.dumps(report, ensure_ascii=False, indent=2))
        return
    typer.echo("gold" if report["raters"] else "gold: nobody has answered yet")
    for one in report["raters"]:
        typer.echo(f"    {one['name']}: {_on_gold(one['gold'])}")
    show_habits(report["habits"])
    for one in report["raters"]:
        for told in one["suggestions"]:
            typer.echo(f"suggestion, {one['name']}: {told}")
    items = ", ".join(f"{name} {count:,}" for name, count in report["gold"]["items"].items()) or "none"
    review = len(report["gold"]["review"])
    typer.echo(f"gold items: {items}; shown {report['gold']['shown']:,} times, {review:,} under review")


def _on_gold(found: dict[str, Any]) -> str:
    accuracy = found["accuracy"]
    if not accuracy["n"]:
        return "no gold answers"
    told = f"{accuracy['mean']:.3f} [{accuracy['low']:.3f}, {accuracy['high']:.3f}] of {accuracy['n']:,} exact"
    return f"{told}, {found['with_half_points']:.3f} with half points"
