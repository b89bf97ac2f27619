"""Stage `report`: one HTML page about the run."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from pydantic import Field

from poise.errors import PoiseError
from poise.pipeline.context import StageContext
from poise.pipeline.manifest import read_manifest
from poise.pipeline.stages.common import Settings, final_judgements

READS = ("sources", "prompts", "responses", "annotate", "release", "guard", "preference", "align", "evaluate")
_HEADLINES = {
    "sources": ("qa", "responses"),
    "prompts": ("prompts", "prompts"),
    "responses": ("qa", "responses"),
    "annotate": ("judgements", "judgements"),
    "guard": ("train", "training rows"),
    "preference": ("train_pairs", "training pairs"),
    "align": ("steps", "steps"),
    "evaluate": ("prompts", "test prompts"),
}


class ReportSettings(Settings):
    """Title and how many samples to show."""

    title: str = "Poise quickstart"
    samples: int = Field(12, ge=0)


def run(ctx: StageContext, settings: ReportSettings) -> dict[str, Any]:
    """Write `report.html`, self-contained.

    Raises:
        PoiseError: the recipe has no stage before it.
    """
    from poise.evaluate.report import render_report
    from poise.evaluate.report_data import ReportData

    manifests = {stage: _manifest(ctx.input(stage)) for stage in READS if ctx.has_input(stage)}
    if not manifests:
        raise PoiseError("nothing to report on", where="report", do="add a stage before it to the recipe")
    last = list(manifests.values())[-1]
    fields: dict[str, Any] = {
        "title": settings.title,
        "created": last["finished"],
        "recipe_name": ctx.recipe_name,
        "seed": ctx.seed,
        "versions": last["versions"],
        "settings": {"models": dict(ctx.models), **{stage: m["settings"] for stage, m in manifests.items()}},
        "stages": [_stage_row(stage, m) for stage, m in manifests.items()],
        "loop_counts": [(stage, _headline(stage, m["summary"])) for stage, m in manifests.items()]
        + [("report", "this page")],
    }
    if "annotate" in manifests:
        fields |= _labels(ctx.input("annotate"))
    if "guard" in manifests:
        folder = ctx.input("guard")
        fields |= {"guard": _load(folder / "metrics.json"), "calibration": _calibration(folder / "test_scores.json")}
    if "preference" in manifests:
        fields["preference"] = _load(ctx.input("preference") / "metrics.json")
    if "align" in manifests:
        fields["align"] = _curves(ctx.input("align"), manifests["align"]["summary"])
    if "evaluate" in manifests:
        fields |= _evaluation(ctx.input("evaluate"), settings.samples)
    page = render_report(ReportData(**fields))
    ctx.write_text("report.html", page)
    return {"bytes": len(page.encode("utf-8"))}


def _manifest(folder: Path) -> dict[str, Any]:
    manifest = read_manifest(folder)
    if manifest is None:
        raise PoiseError("has no readable manifest", where=str(folder), do="run the recipe again", exit_code=4)
    return manifest.model_dump(mode="json")


def _load(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _stage_row(stage: str, manifest: dict[str, Any]) -> dict[str, Any]:
    summary = {k: v for k, v in manifest["summary"].items() if not isinstance(v, dict | list)}
    return {
        "name": stage,
        "seconds": manifest["seconds"],
        "peak_memory_mb": manifest["peak_memory_mb"],
        "status": "done",
        "summary": summary,
    }


def _headline(stage: str, summary: dict[str, Any]) -> str:
    if stage == "release":
        return f"{sum(summary['rows'].values())} rows, {summary['violations']} violations"
    key, unit = _HEADLINES[stage]
    return f"{summary[key]} {unit}"


def _labels(folder: Path) -> dict[str, Any]:
    from poise.data import Corpus
    from poise.evaluate import rater_table
    from poise.harm import CATEGORIES

    corpus = Corpus.read(folder / "corpus")
    final = final_judgements(corpus)
    grid = {category.code: [0, 0, 0] for category in CATEGORIES}
    for judgement in final["label"].values():
        if judgement.value is not None and judgement.value["severity"]:
            for code in judgement.value["categories"]:
                grid[code][judgement.value["severity"] - 1] += 1
    flow: Counter[str] = Counter()
    for item, better in final["better"].items():
        safer, single = final["safer"].get(item), final["single"].get(item)
        if safer is None or single is None:
            continue
        flow["pairs with all three rankings"] += 1
        if better.value != safer.value:
            flow["better and safer differ"] += 1
            flow["where they differ, single follows better"] += single.value == better.value
            flow["where they differ, single follows safer"] += single.value == safer.value
    return {
        "grid": grid,
        "raters": [row._asdict() for row in rater_table(corpus.judgements)],
        "preference_flow": dict(flow),
    }


def _calibration(path: Path) -> dict[str, Any] | None:
    scores = _load(path)
    known = [(p, y) for p, y in zip(scores["prob"], scores["positive"], strict=True) if p is not None]
    return {"prob": [p for p, _ in known], "positive": [y for _, y in known]} if known else None


def _curves(folder: Path, summary: dict[str, Any]) -> dict[str, Any]:
    history = _load(folder / "history.json")
    curves = {name: [row[name] for row in history] for name in ("reward", "cost", "multiplier", "kl", "violation_rate")}
    steps = [int(row["step"]) + 1 for row in history]
    return {"steps": steps, **curves, "threshold": _load(folder / "threshold.json"), "seconds": summary["seconds"]}


def _evaluation(folder: Path, wanted: int) -> dict[str, Any]:
    rows = _load(folder / "responses.json")
    quadrant: dict[str, Any] = {
        policy: [(r["reward"], None if r["cost"] is None else -r["cost"]) for r in rows if r["policy"] == policy]
        for policy in ("before", "after")
    }
    quadrant["prompts"] = [r["prompt_id"] for r in rows if r["policy"] == "before"]
    pairs: dict[tuple[str, int], dict[str, Any]] = {}
    for row in rows:
        pairs.setdefault((row["prompt_id"], row["sample"]), {})[row["policy"]] = row
    chosen = [p for (_, sample), p in pairs.items() if sample == 0]
    order = sorted(
        range(len(chosen)),
        key=lambda i: ("harmful", "lookalike", "ordinary", "unknown").index(chosen[i]["before"]["kind"]),
    )
    spread = order[:: max(1, len(order) // max(1, wanted))][:wanted]
    samples = [_sample(chosen[i]["before"], chosen[i]["after"]) for i in spread]
    return {"evaluation": {"judges": _load(folder / "metrics.json"), "quadrant": quadrant}, "samples": samples}


def _sample(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    judges = [key for key in ("starter_unsafe", "guard_unsafe") if key in before]
    verdicts = [row[key] for row in (before, after) for key in judges]
    return {
        "prompt": before["prompt"],
        "kind": before["kind"],
        "before": before["response"],
        "after": after["response"],
        "before_cost": before["cost"],
        "after_cost": after["cost"],
        "before_reward": before["reward"],
        "after_reward": after["reward"],
        "harmful": before["kind"] in ("harmful", "unknown") or any(p is None or p >= 0.5 for p in verdicts),
    }
