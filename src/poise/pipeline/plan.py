"""Which stages of a recipe must run, which are finished, which can be continued, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import poise
from poise.errors import PoiseError
from poise.models import fingerprint as weights
from poise.pipeline.context import FINGERPRINT, MANIFEST, Stage
from poise.pipeline.files import sha256_file
from poise.pipeline.manifest import Manifest, damage, fingerprint, read_manifest
from poise.pipeline.recipe import Recipe

Action = Literal["run", "continue", "skip", "unsure"]


@dataclass(frozen=True)
class PlannedStage:
    """What is to be done about one stage.

    Args:
        name: the stage.
        folder: its finished folder, `<out>/<NN>-<stage>`.
        partial: its working folder, `<out>/.<NN>-<stage>.partial`.
        inputs: stage -> `outputs_sha256` of what it reads, "file <name>" -> SHA-256 of files outside the run, and
            "model <role>" -> fingerprint of a model that is a folder.
        fingerprint: of all that decides its outputs.
        action: "unsure" (in a plan only) means that an input runs again and may come out the same.
        why: one phrase for people.
        finished: manifest of the finished folder, when `action` is "skip".
    """

    name: str
    folder: Path
    partial: Path
    inputs: dict[str, str]
    fingerprint: str
    action: Action
    why: str
    finished: Manifest | None


def stages_until(recipe: Recipe, last: str | None) -> list[str]:
    """The recipe's stages in order, up to and with `last`.

    Raises:
        PoiseError: `last` is not in the recipe.
    """
    names = list(recipe.settings)
    if last is None:
        return names
    if last not in names:
        near = get_close_matches(last, names, n=1, cutoff=0.5) or names
        raise PoiseError(f"no stage {last!r} in this recipe", where="--until", do=f"try {', '.join(near)}")
    return names[: names.index(last) + 1]


def plan(
    recipe: Recipe, stages: Mapping[str, Stage], out: Path, *, verify: bool = False, only_until: str | None = None
) -> list[PlannedStage]:
    """What `run` would do with this run folder, without touching it.

    Args:
        recipe, stages, out, verify, only_until: as for `poise.pipeline.runner.run`.
    """
    planned: list[PlannedStage] = []
    digests: dict[str, str] = {}
    pending: set[str] = set()
    for name in stages_until(recipe, only_until):
        needed = needs(recipe, stages[name])
        one = decide(recipe, stages[name], out, {need: digests[need] for need in needed}, verify=verify)
        waits_for = [need for need in needed if need in pending]
        if one.action == "skip" and waits_for:
            why = f"runs again if {' or '.join(waits_for)} comes out different"
            one = replace(one, action="unsure", why=why, finished=None)
        if one.action != "skip":
            pending.add(name)
        old = read_manifest(one.folder)
        digests[name] = old.outputs_sha256 if old else ""
        planned.append(one)
    return planned


def needs(recipe: Recipe, stage: Stage) -> list[str]:
    """The stages that `stage` reads and the recipe has."""
    return [need for need in stage.needs if need in recipe.settings]


def decide(recipe: Recipe, stage: Stage, out: Path, inputs: dict[str, str], *, verify: bool) -> PlannedStage:
    """Run, continue or skip one stage whose inputs are known.

    Args:
        recipe, stage, out: as for `run`.
        inputs: stage -> `outputs_sha256` of everything it reads.
        verify: compare the SHA-256 of finished outputs, not just their sizes.
    """
    settings = recipe.settings[stage.name].model_dump(mode="json")
    outside = stage.reads(recipe.settings[stage.name], recipe.path.parent)
    inputs = inputs | {f"file {name}": sha256_file(path) for name, path in outside.items()}
    inputs |= _model_folders(recipe.models)
    print_ = fingerprint(stage=stage.name, settings=settings, seed=recipe.seed, models=recipe.models, inputs=inputs)
    folder, partial = folders(recipe, out, stage.name)
    manifest = read_manifest(folder)
    action: Action = "run"
    if manifest is None:
        why = f"{MANIFEST} is damaged" if (folder / MANIFEST).exists() else "not run yet"
    elif manifest.fingerprint != print_:
        why = _difference(manifest, settings, recipe, inputs)
    elif (fault := damage(folder, manifest, verify=verify)) is not None:
        why = fault
    else:
        action, why = "skip", f"finished {manifest.finished}, {manifest.seconds:.0f} s"
    if action == "run" and read_fingerprint(partial) == print_:
        action, why = "continue", "interrupted earlier"
    return PlannedStage(
        name=stage.name,
        folder=folder,
        partial=partial,
        inputs=inputs,
        fingerprint=print_,
        action=action,
        why=why,
        finished=manifest if action == "skip" else None,
    )


def folders(recipe: Recipe, out: Path, stage: str) -> tuple[Path, Path]:
    """Finished and working folder of a stage; a folder that carries an older number is found as well."""
    number = list(recipe.settings).index(stage) + 1
    target = out / f"{number:02d}-{stage}"
    partial = out / f".{target.name}.partial"
    return _existing(target, f"[0-9][0-9]-{stage}"), _existing(partial, f".[0-9][0-9]-{stage}.partial")


def read_fingerprint(partial: Path) -> str | None:
    """The fingerprint that a working folder was begun with, or None."""
    try:
        return (partial / FINGERPRINT).read_text(encoding="ascii").strip()
    except (FileNotFoundError, NotADirectoryError, UnicodeDecodeError):
        return None


def _model_folders(models: Mapping[str, str]) -> dict[str, str]:
    """ "model <role>" -> fingerprint of each model that is a folder."""
    found = {}
    for role, name in models.items():
        if (folder := weights.local_folder(name)) is not None:
            files = ((path.name, path.stat()) for path in sorted(folder.iterdir()))
            found[f"model {role}"] = _weights(folder, tuple((n, s.st_size, s.st_mtime_ns) for n, s in files))
    return found


@lru_cache(maxsize=8)
def _weights(folder: Path, files: tuple[tuple[str, int, int], ...]) -> str:
    """Read once in a process as long as names, sizes and times of the `files` stay the same."""
    return weights.fingerprint(folder, None)


def _existing(target: Path, pattern: str) -> Path:
    if target.exists() or not target.parent.is_dir():
        return target
    return next(iter(sorted(target.parent.glob(pattern))), target)


def _difference(old: Manifest, settings: Mapping[str, Any], recipe: Recipe, inputs: Mapping[str, str]) -> str:
    """The first reason why a finished stage no longer counts, as a phrase."""
    for key in sorted(settings.keys() | old.settings.keys()):
        if key not in old.settings:
            return f"{key} is a new setting"
        before, after = old.settings.get(key), settings.get(key)
        if before != after:
            return f"{key} changed from {_short(before)} to {_short(after)}"
    if old.seed != recipe.seed:
        return f"seed changed from {old.seed} to {recipe.seed}"
    for role in sorted(recipe.models.keys() | old.models.keys()):
        if old.models.get(role) != recipe.models.get(role):
            return f"model {role} changed from {old.models.get(role)} to {recipe.models.get(role)}"
    for need in sorted(inputs.keys() | old.inputs.keys()):
        if old.inputs.get(need) != inputs.get(need):
            return f"input {need} changed"
    before, after = old.versions.get("poise"), poise.__version__
    return f"Poise changed from {before} to {after}" if before != after else f"{MANIFEST} was altered"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."
