"""The table of stages, in the order in which they run. Heavy libraries are imported inside the stage functions."""

from poise.pipeline.context import Stage

STAGES: dict[str, Stage] = {}
