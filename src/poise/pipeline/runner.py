"""Runs a recipe into a run folder.

    <out>/recipe.yaml               the recipe with all defaults
    <out>/01-collect/manifest.json  and the outputs of a finished stage
    <out>/.02-guard.partial/        a stage at work, with `fingerprint.txt` and `parts/`
    <out>/events.jsonl, log.txt     what happened

A stage works in its partial folder. When it is done, its outputs are hashed, the manifest is written, and one rename
puts the folder in place, so a folder that looks finished is finished. A kill at any moment loses at most the part
that was being computed: the next run continues the partial folder if its fingerprint still fits, and removes it if not.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from poise.models import memory
from poise.pipeline.context import FINGERPRINT, MANIFEST, PARTS, Stage, StageContext
from poise.pipeline.failures import as_poise_error, terminate_as_interrupt
from poise.pipeline.files import TEMPORARY, sync_folder, to_json, write_atomic
from poise.pipeline.journal import Console, Journal, now
from poise.pipeline.lock import locked
from poise.pipeline.manifest import (
    Manifest,
    damage,
    hash_outputs,
    host,
    outputs_digest,
    read_manifest,
    versions,
    write_manifest,
)
from poise.pipeline.plan import PlannedStage, decide, needs, stages_until
from poise.pipeline.recipe import Recipe


@dataclass(frozen=True)
class StageResult:
    """One stage after a run: its finished folder, its manifest, and whether anything was done."""

    folder: Path
    manifest: Manifest
    action: Literal["run", "continue", "skip"]


@dataclass(frozen=True)
class RunResult:
    """The run folder and its stages in order."""

    out: Path
    stages: dict[str, StageResult]


def run(
    recipe: Recipe,
    stages: Mapping[str, Stage],
    out: Path,
    *,
    console: Console,
    verify: bool = False,
    only_until: str | None = None,
) -> RunResult:
    """Bring a run folder up to date with a recipe.

    Args:
        recipe: from `load_recipe`.
        stages: the table it was loaded with.
        out: the run folder; made if needed.
        console: takes each line meant for the terminal.
        verify: compare the SHA-256 of finished outputs, not just their sizes.
        only_until: last stage to look at; None means all.

    Raises:
        PoiseError: what the user can mend; exit code 3 for disk and memory, 130 and 143 for signals.
    """
    names = stages_until(recipe, only_until)
    results: dict[str, StageResult] = {}
    with _explained(str(out), out):
        out.mkdir(parents=True, exist_ok=True)
        with locked(out), Journal(out, console) as journal, terminate_as_interrupt():
            write_atomic(out / "recipe.yaml", recipe.to_yaml().encode("utf-8"))
            journal.event(None, "run-start", recipe=recipe.name, seed=recipe.seed, stages=names)
            for name in names:
                with _explained(f"stage {name}", out, journal, name):
                    results[name] = _bring_up_to_date(recipe, stages[name], out, results, journal, verify=verify)
            journal.event(None, "run-done")
    return RunResult(out, results)


def _bring_up_to_date(
    recipe: Recipe, stage: Stage, out: Path, done: Mapping[str, StageResult], journal: Journal, *, verify: bool
) -> StageResult:
    inputs = {need: done[need].manifest.outputs_sha256 for need in needs(recipe, stage)}
    planned = _renumber(recipe, decide(recipe, stage, out, inputs, verify=verify), out)
    if planned.finished is not None:
        journal.log(f"skip  {stage.name}  ({planned.why})")
        journal.event(stage.name, "stage-skip", fingerprint=planned.fingerprint)
        return StageResult(planned.folder, planned.finished, "skip")
    continued = planned.action == "continue"
    journal.log(f"{'cont' if continued else 'run '}  {stage.name}  ({planned.why})")
    journal.event(stage.name, f"stage-{planned.action}", why=planned.why, fingerprint=planned.fingerprint)
    manifest = _complete(planned)
    if manifest is None:
        _prepare(planned)
        manifest = _work(recipe, stage, planned, done, journal)
    _publish(planned)
    journal.log(f"done  {stage.name}  ({manifest.seconds:.0f} s, {manifest.peak_memory_mb:.0f} MB)")
    journal.event(stage.name, "stage-done", seconds=manifest.seconds, outputs_sha256=manifest.outputs_sha256)
    return StageResult(planned.folder, manifest, "continue" if continued else "run")


def _complete(planned: PlannedStage) -> Manifest | None:
    """The manifest of a working folder in which only the last rename is missing."""
    manifest = read_manifest(planned.partial) if planned.action == "continue" else None
    if manifest is None or manifest.fingerprint != planned.fingerprint:
        return None
    return manifest if damage(planned.partial, manifest, verify=True) is None else None


def _prepare(planned: PlannedStage) -> None:
    """Make the working folder, or clear an interrupted one of unfinished files."""
    if planned.action == "continue":
        (planned.partial / MANIFEST).unlink(missing_ok=True)
        for leftover in planned.partial.rglob(f"*{TEMPORARY}"):
            leftover.unlink()
        return
    if planned.partial.exists():
        shutil.rmtree(planned.partial)
    planned.partial.mkdir()
    write_atomic(planned.partial / FINGERPRINT, planned.fingerprint.encode("ascii"))


def _work(
    recipe: Recipe, stage: Stage, planned: PlannedStage, done: Mapping[str, StageResult], journal: Journal
) -> Manifest:
    """Run the stage function and write the manifest into the working folder."""
    context = StageContext(
        stage=stage.name,
        dir=planned.partial,
        seed=recipe.seed,
        models=recipe.models,
        recipe_name=recipe.name,
        recipe_dir=recipe.path.parent,
        needs=stage.needs,
        inputs={need: done[need].folder for need in planned.inputs if need in done},
        journal=journal,
    )
    settings = recipe.settings[stage.name]
    started, begin = now(), time.monotonic()
    memory.reset_peak()
    summary: dict[str, Any] = to_json(stage.run(context, settings))
    outputs = hash_outputs(planned.partial)
    manifest = Manifest(
        stage=stage.name,
        fingerprint=planned.fingerprint,
        settings=settings.model_dump(mode="json"),
        seed=recipe.seed,
        models=recipe.models,
        inputs=planned.inputs,
        outputs=outputs,
        outputs_sha256=outputs_digest(outputs),
        summary=summary,
        versions=versions(),
        started=started,
        finished=now(),
        seconds=round(time.monotonic() - begin, 3),
        peak_memory_mb=memory.peak_mb(),
        continued=planned.action == "continue",
        host=host(),
    )
    write_manifest(planned.partial, manifest)
    return manifest


def _publish(planned: PlannedStage) -> None:
    """Put the working folder in the place of the finished one. A kill between two steps is mended by the next run."""
    old = planned.folder.with_name(f".{planned.folder.name}.old")
    for gone in (planned.partial / PARTS, old):
        if gone.exists():
            shutil.rmtree(gone)
    if planned.folder.exists():
        planned.folder.rename(old)
    planned.partial.rename(planned.folder)
    sync_folder(planned.folder.parent)
    (planned.folder / FINGERPRINT).unlink(missing_ok=True)
    if old.exists():
        shutil.rmtree(old)


def _renumber(recipe: Recipe, planned: PlannedStage, out: Path) -> PlannedStage:
    """Give folders the number that the stage has now (a stage before it was added to or taken from the recipe)."""
    number = list(recipe.settings).index(planned.name) + 1
    folder = out / f"{number:02d}-{planned.name}"
    partial = out / f".{folder.name}.partial"
    for have, want in ((planned.folder, folder), (planned.partial, partial)):
        if have != want and have.exists():
            have.rename(want)
    return replace(planned, folder=folder, partial=partial)


@contextmanager
def _explained(where: str, out: Path, journal: Journal | None = None, stage: str | None = None) -> Iterator[None]:
    """Raise the environment's failures as `PoiseError`; record every failure where there is a journal."""
    try:
        yield
    except BaseException as error:
        explained = as_poise_error(error, where, out)
        if journal is not None:
            with suppress(OSError):  # the disk may be full: that is then the very failure being raised
                journal.traceback(error)
                journal.event(stage, "stage-failed", error=type(error).__name__, message=str(explained or error))
            if explained is None:
                error.add_note(f"traceback in {journal.log_path}")
        if explained is None or explained is error:
            raise
        raise explained from error
