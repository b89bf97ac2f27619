"""Whole alignment runs: a recipe, rows and a model become a folder with a policy, a report and curves.

`methods` is the table of methods, `recipe` the settings, `data` the rows as texts, `batches` as token ids and tensors,
`phases` says what each offline method does with them, `objectives` and `offline` are the trainer, `scoring` asks the
preference models, `runs` and `online_runs` are the whole, `folders` what they leave, `policies` and
`adapters` what others can load of it.
"""

from poise.align.train.folders import Watch
from poise.align.train.methods import METHODS, Method
from poise.align.train.online_runs import train_online_run
from poise.align.train.policies import export_merged, open_policy
from poise.align.train.recipe import Head, Recipe, recipe_of, sections
from poise.align.train.runs import train_offline

__all__ = [
    "METHODS",
    "Head",
    "Method",
    "Recipe",
    "Watch",
    "export_merged",
    "open_policy",
    "recipe_of",
    "sections",
    "train_offline",
    "train_online_run",
]
