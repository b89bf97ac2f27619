"""The table of stages, in the order in which they run. Heavy libraries are imported inside the stage functions."""

from poise.pipeline.context import Stage
from poise.pipeline.stages import (
    align,
    annotate,
    evaluate,
    guard,
    preference,
    prompts,
    release,
    report,
    responses,
    sources,
)

STAGES: dict[str, Stage] = {
    stage.name: stage
    for stage in (
        Stage("sources", sources.SourceSettings, (), sources.run, sources.reads),
        Stage("prompts", prompts.PromptSettings, (), prompts.run),
        Stage("responses", responses.ResponseSettings, ("prompts",), responses.run),
        Stage("annotate", annotate.AnnotateSettings, ("sources", "responses"), annotate.run),
        Stage("release", release.ReleaseSettings, ("annotate",), release.run),
        Stage("guard", guard.GuardSettings, ("annotate",), guard.run),
        Stage("preference", preference.PreferenceSettings, ("annotate",), preference.run),
        Stage("align", align.AlignSettings, ("annotate", "preference"), align.run),
        Stage("evaluate", evaluate.EvaluateSettings, ("annotate", "guard", "preference", "align"), evaluate.run),
        Stage("report", report.ReportSettings, report.READS, report.run),
    )
}
