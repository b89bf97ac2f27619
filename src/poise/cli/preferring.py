"""`poise align preference`: the reward and the cost model from sets of choices and labels."""

from __future__ import annotations

import math
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from poise.cli.align import app

if TYPE_CHECKING:
    from poise.preference.recipe import PreferenceRecipe
    from poise.preference.runs import Watch


@app.command()
def preference(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe such as recipes/preference.yaml.")],
    data: Annotated[Path, typer.Option("--data", metavar="DIR", help="Folder of the sets that the recipe names.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="The new folder of models.")],
    change: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a key, as training.epochs=2.")
    ] = None,
) -> None:
    """Train a reward and a cost model; run it again to go on after a stop.

    The folder is what online alignment takes as scores; its metrics are about prompts that were held out.
    """
    import shutil

    from poise.data.resumable import work_folder
    from poise.models.bundled import resolve
    from poise.pipeline.lock import locked
    from poise.preference.runs import train_scores

    plan = read_preference_recipe(recipe, change)
    source = resolve(plan.head.model)
    work = work_folder(out)
    work.mkdir(parents=True, exist_ok=True)
    with locked(work):
        try:
            with ExitStack() as bars:
                report = train_scores(plan, data, source, out, _watch(bars))
        finally:
            if not (work / "settings.json").is_file():  # nothing was begun
                shutil.rmtree(work, ignore_errors=True)
    _show(report, out)


def is_preference_recipe(path: Path) -> bool:
    """Whether a YAML file is a recipe of this command: it has a section of reward or of cost."""
    from poise.pipeline.yamlfile import parse, read_text

    told = parse(read_text(path), str(path)).value
    return isinstance(told, dict) and bool({"reward", "cost"} & told.keys())


def read_preference_recipe(path: Path, changes: list[str] | None = None) -> PreferenceRecipe:
    """The recipe in a YAML file, with the changes of the command line.

    Raises:
        PoiseError: what is wrong with it, one line for each problem.
    """
    from poise.errors import PoiseError
    from poise.pipeline.recipe import read_sections
    from poise.preference.recipe import SECTIONS, PreferenceHead, PreferenceRecipe

    head, sections = read_sections(path, PreferenceHead, SECTIONS, changes or [])
    if missing := [name for name in ("reward", "cost") if name not in sections]:
        raise PoiseError(f"has no section {missing[0]!r}", where=str(path), do="name its sets: {sets: [...]}")
    return PreferenceRecipe.model_validate({"head": head, **sections})


def _watch(bars: ExitStack) -> Watch:
    """One line of progress for each kind of work, opened when it begins."""
    from poise.pipeline import progress
    from poise.preference.runs import Watch

    opened: dict[str, Any] = {}

    def bar(what: str, unit: str, total: int | None = None) -> Any:
        if what not in opened:
            for other in opened.values():
                other.close()
            work: Any = iter(()) if total is None else total
            opened[what] = bars.enter_context(progress(work, unit=unit, what=what))
        return opened[what]

    def step(done: int, total: int, losses: dict[str, float]) -> None:
        line = bar("training reward and cost", "steps", total)
        line.set(**{role: loss for role, loss in losses.items() if not math.isnan(loss)})
        line.update(done - line.n)

    return Watch(
        row=lambda rows: bar("reading", "rows").update(rows),
        step=step,
        scored=lambda rows: bar("scoring", "responses").update(rows),
        note=typer.echo,
    )


def _show(report: dict[str, Any], out: Path) -> None:
    test = report["test"]
    dropped = ", ".join(f"{reason} {count:,}" for reason, count in report["dropped"].items()) or "none"
    typer.echo(f"left out: {dropped}")
    typer.echo(f"reward, pairs: {_interval(test['reward']['pair_accuracy'])}")
    cost = test["cost"]
    typer.echo(f"cost speaks of: {report.get('cost_speaks_of', 'all harm')}")
    for name, interval in (
        ("pairs", cost["pair_accuracy"]),
        ("signs", cost["sign_accuracy"]),
        ("AUROC", cost["auroc"]),
    ):
        typer.echo(f"cost, {name}: {_interval(interval)}")
    typer.echo(f"cost, calibration error of sigmoid(cost): {_interval(cost['ece'])}")
    for role in ("reward", "cost"):
        typer.echo(f"{role}, Spearman with response tokens: {_interval(test[role]['length']['spearman'])}")
    rule = report["threshold"]
    typer.echo(
        f"threshold: {rule['threshold']:.3f} ({rule['rule']} {rule['value']:g} of {rule['responses']:,} responses)"
    )
    seconds, since = report["seconds"]["training"], report["seconds"]["from_step"]
    told = f" since step {since:,}, where it went on" if since else ""
    typer.echo(f"training: {seconds:,.0f} s{told}; {100 * report['padding_share']:.1f} % of its tokens padding")
    typer.echo(f"models: {out}")


def _interval(interval: dict[str, Any]) -> str:
    if interval["mean"] is None:
        return "n/a"
    if interval["low"] is None:
        return f"{interval['mean']:.3f} ({interval['n']:,} prompts)"
    return f"{interval['mean']:.3f} [{interval['low']:.3f}, {interval['high']:.3f}] ({interval['n']:,} prompts)"
