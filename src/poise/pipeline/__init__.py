"""From a recipe to a run folder: the only room that knows the whole order.

`load_recipe` reads and checks one YAML file; `plan` says what a run would do; `run` does it, skips what is already
finished and continues what was interrupted. The stages themselves live in `poise.pipeline.stages`.
"""

from poise.pipeline.context import Stage, StageContext
from poise.pipeline.plan import PlannedStage, plan
from poise.pipeline.progress import Progress, progress
from poise.pipeline.recipe import Recipe, load_recipe
from poise.pipeline.runner import RunResult, StageResult, run

__all__ = [
    "PlannedStage",
    "Progress",
    "Recipe",
    "RunResult",
    "Stage",
    "StageContext",
    "StageResult",
    "load_recipe",
    "plan",
    "progress",
    "run",
]
