"""`poise run` and `poise validate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import BaseModel
from tqdm import tqdm

from poise.cli.collecting import is_guard_plan, is_plan, read_plan
from poise.cli.guard import read_guard_plan
from poise.cli.preferring import is_preference_recipe, read_preference_recipe
from poise.pipeline import PlannedStage, Recipe, load_recipe, plan
from poise.pipeline import run as run_recipe
from poise.pipeline.stages import STAGES

RecipeFile = Annotated[Path, typer.Argument(metavar="RECIPE", help="The recipe, a YAML file.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a setting: --set align.steps=10.")
]


def run(
    recipe: RecipeFile,
    out: Annotated[Path | None, typer.Option(help="The run folder; default runs/<recipe name>.")] = None,
    overrides: Overrides = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")] = False,
    until: Annotated[str | None, typer.Option(metavar="STAGE", help="Stop after this stage.")] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Check finished outputs by SHA-256, not by size alone.")
    ] = False,
) -> None:
    """Run a recipe: skip what is finished, continue what was interrupted."""
    loaded = load_recipe(recipe, STAGES, overrides or ())
    folder = out or Path("runs") / loaded.name
    if dry_run:
        _show_plan(loaded, plan(loaded, STAGES, folder, verify=verify, only_until=until))
        return
    # tqdm.write keeps lines from tearing a progress bar apart.
    result = run_recipe(loaded, STAGES, folder, console=tqdm.write, verify=verify, only_until=until)
    if "report" in result.stages:
        typer.echo(f"report: {result.stages['report'].folder / 'report.html'}")


def validate(recipe: RecipeFile, overrides: Overrides = None) -> None:
    """Check a recipe, or that of `poise collect`, `guard train` or `align preference`, without loading a model."""
    if is_plan(recipe):
        _, sections = read_plan(recipe, overrides)
        typer.echo(f"{recipe}: valid plan for `poise collect`; {', '.join(sections)}")
        return
    if is_guard_plan(recipe):
        typer.echo(
            f"{recipe}: valid plan for `poise guard train`; {len(read_guard_plan(recipe, overrides).data.sets)} sets"
        )
        return
    if is_preference_recipe(recipe):
        sets = [*(read := read_preference_recipe(recipe, overrides)).reward.sets, *read.cost.sets]
        told = f"{', '.join(sets)}; cost speaks of {read.cost.part.words}"
        typer.echo(f"{recipe}: valid recipe for `poise align preference`; {told}")
        return
    loaded = load_recipe(recipe, STAGES, overrides or ())
    typer.echo(f"{recipe}: valid; stages {', '.join(loaded.settings)}")


def _show_plan(recipe: Recipe, planned: list[PlannedStage]) -> None:
    for stage in planned:
        action = "run?" if stage.action == "unsure" else stage.action
        typer.echo(f"{action:8}  {stage.name}  ({stage.why})")
        for key, value in _changed(recipe.settings[stage.name]).items():
            typer.echo(f"          {stage.name}.{key} = {value!r}")


def _changed(settings: BaseModel) -> dict[str, Any]:
    """The settings that differ from their defaults."""
    return settings.model_dump(mode="json", exclude_defaults=True)
