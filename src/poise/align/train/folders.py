"""The folder of a run: what is written into it, and what goes wrong on the way."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch

from poise import __version__
from poise.align.engine.processes import by_first
from poise.align.engine.sinks import LINES, sinks
from poise.align.train.policies import REPORT, Policy
from poise.align.train.recipe import Recipe
from poise.data.corpus import write_jsonl
from poise.data.folders import partial_folder, write_json
from poise.data.resumable import work_folder
from poise.errors import PoiseError
from poise.models.checkpoint import faults_of_the_disk
from poise.models.memory import peak_mb
from poise.models.trunk import Trunk


class Watch(NamedTuple):
    """What is told while a run goes on; each does nothing by default.

    Args:
        rows: (what is done, how many rows more).
        step: phase, its steps done, all its steps, loss.
        note: a line of text.
    """

    rows: Callable[[str, int], object] = lambda what, rows: None
    step: Callable[[str, int, int, float], object] = lambda phase, done, total, loss: None
    note: Callable[[str], object] = lambda text: None


def write_run(
    out: Path,
    recipe: Recipe,
    trunk: Trunk,
    policy: Policy,
    history: Sequence[dict[str, Any]],
    left_out: Sequence[tuple[str, str]],
    report: dict[str, Any],
    more: Callable[[Path], object],
) -> None:
    """Write a run, which appears when it is complete, and remove its work folder; the first process does it for all.

    Args:
        policy: the actor.
        history: a row a step.
        left_out: rows that were not used, (rule, place) each.
        report: of the run.
        more: writes what else belongs into the folder.

    Raises:
        OSError: the disk is full.
    """
    work, partial = work_folder(out), partial_folder(out)

    def write() -> None:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        try:
            with faults_of_the_disk():
                policy.save(partial)
            trunk.tokenizer.save_pretrained(partial)
            write_jsonl(partial / "history.jsonl", history)
            write_jsonl(partial / "left-out.jsonl", ({"rule": rule, "where": where} for rule, where in left_out))
            write_json(partial / "recipe.json", recipe.sections())
            more(partial)
            _keep_shown(work, partial)
            write_json(partial / REPORT, report)
            partial.replace(out)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(work, ignore_errors=True)

    by_first(write)


def about(recipe: Recipe, identity: Mapping[str, Any]) -> dict[str, Any]:
    """What every report tells first."""
    gpu = {"peak_gpu_memory_mb": torch.cuda.max_memory_allocated() // 2**20} if torch.cuda.is_available() else {}
    return {
        "name": recipe.head.name,
        "method": recipe.method.name,
        "base_model": recipe.head.model,
        "identity": dict(identity),
        "peak_memory_mb": round(peak_mb()),
        **gpu,
        "versions": versions(),
    }


@contextmanager
def shown(recipe: Recipe, work: Path, watch: Watch) -> Iterator[Callable[[Mapping[str, float]], None]]:
    """What takes each row of a run's measurements to the recipe's sinks, which write below the work folder.

    Raises:
        PoiseError: the package of a sink is absent.
    """
    names = recipe.head.sinks
    if {"tensorboard", "wandb"} & set(names):
        watch.note(f"follow it in {work} until it is complete, then in the run")
    with sinks(names, work, name=recipe.head.name, settings=recipe.settings()) as show:
        yield show


def _keep_shown(work: Path, folder: Path) -> None:
    """Copy what the sinks wrote into the run."""
    if (work / LINES).is_file():
        shutil.copyfile(work / LINES, folder / LINES)
    for name in ("tensorboard", "wandb"):
        if (work / name).is_dir():
            shutil.copytree(work / name, folder / name, symlinks=True)


def cant_be_written(error: OSError, work: Path) -> PoiseError:
    """What to tell about a fault of the file system in the midst of a run; exit code 3."""
    return PoiseError(
        f"can't be written ({error.strerror or error})",
        where=str(work),
        do="free some space and run it again; it goes on from the last checkpoint",
        exit_code=3,
    )


def versions() -> dict[str, str]:
    """Of what a result depends on."""
    import peft
    import transformers

    return {
        "poise": __version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "peft": peft.__version__,
        "python": platform.python_version(),
    }
