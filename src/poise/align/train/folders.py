"""The folder of a run: whether it is there already, what is written into it, and what goes wrong on the way."""

from __future__ import annotations

import json
import platform
import resource
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from poise import __version__
from poise.align.sft.runs import refuse_other
from poise.align.train.adapters import REPORT, save_adapter
from poise.align.train.recipe import Recipe
from poise.data.corpus import write_jsonl
from poise.data.folders import partial_folder, write_json
from poise.errors import PoiseError
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


def finished(out: Path, identity: dict[str, Any] | None, watch: Watch) -> dict[str, Any] | None:
    """The report of the run that `out` holds, None where there is no such folder.

    Args:
        identity: of the run that is asked for; None looks only whether `out` may be used at all.

    Raises:
        PoiseError: it holds something else, or another run.
    """
    if not out.exists():
        return None
    if not (out / REPORT).is_file():
        raise PoiseError("exists and is no run of `poise align train`", where=str(out), do="give another --out")
    if identity is None:
        return None
    report: dict[str, Any] = json.loads((out / REPORT).read_text(encoding="utf-8"))
    refuse_other(identity, report["identity"], out, "give another --out")
    watch.note(f"{out} is complete; nothing to do")
    return report


def write_run(
    out: Path,
    recipe: Recipe,
    trunk: Trunk,
    tensors: Mapping[str, Tensor],
    history: Sequence[dict[str, Any]],
    left_out: Sequence[tuple[str, str]],
    report: dict[str, Any],
    more: Callable[[Path], object],
) -> dict[str, Any]:
    """Write a run, which appears when it is complete; returns its report.

    Args:
        tensors: of the actor's adapter, see `adapters.adapter_tensors`.
        history: a row a step.
        left_out: rows that were not used, (rule, place) each.
        report: to which the shape of the adapter is added.
        more: writes what else belongs into the folder.

    Raises:
        OSError: the disk is full.
    """
    rank = next(tensor.shape[0] for name, tensor in tensors.items() if ".lora_A." in name)
    weights = sum(tensor.numel() for tensor in tensors.values())
    report = report | {"adapter": {"rank": rank, "shared_layers": trunk.shared_layers, "weights": weights}}
    partial = partial_folder(out)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        save_adapter(partial, tensors, str(trunk.model.config._name_or_path))
        trunk.tokenizer.save_pretrained(partial)
        write_jsonl(partial / "history.jsonl", history)
        write_jsonl(partial / "left-out.jsonl", ({"rule": rule, "where": where} for rule, where in left_out))
        write_json(partial / "recipe.json", recipe.sections())
        more(partial)
        write_json(partial / REPORT, report)
        partial.replace(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return report


def cant_be_written(error: OSError, work: Path) -> PoiseError:
    """What to tell about a fault of the file system in the midst of a run; exit code 3."""
    return PoiseError(
        f"can't be written ({error.strerror or error})",
        where=str(work),
        do="free some space and run it again; it goes on from the last checkpoint",
        exit_code=3,
    )


def peak_memory_mb() -> int:
    """Largest resident memory of this process so far, in MiB."""
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // unit


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
