"""The actor on disk: a PEFT adapter that others can load, and a plain model folder with the adapter merged into it.

An adapter is written in PEFT's own format (`adapter_config.json`, `adapter_model.safetensors`), so that
`peft.PeftModel.from_pretrained(base, folder)` opens it. P-SACPO's merge of two adapters is exact: the factors of both
stand side by side, at twice the rank.
"""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from poise.data.folders import disk_error, partial_folder, refuse_used
from poise.data.resumable import refuse_other
from poise.errors import PoiseError
from poise.models.bundled import resolve
from poise.models.fingerprint import fingerprint
from poise.models.trunk import Trunk

REPORT = "report.json"
_PREFIX = "base_model.model."
_WEIGHTS = "adapter_model.safetensors"


def adapter_tensors(trunk: Trunk, role: str) -> dict[str, Tensor]:
    """The tensors of a role under PEFT's names for a whole model."""
    state = trunk.state_of(role).items()
    return {_PREFIX + name.replace(f".{role}.", "."): tensor.cpu() for name, tensor in state if ".lora_" in name}


def merged_adapters(helpful: Mapping[str, Tensor], safe: Mapping[str, Tensor], weight: float) -> dict[str, Tensor]:
    """(1 - weight) x helpful + weight x safe as one adapter of twice the rank, matrix by matrix exact.

    Args:
        helpful, safe: `adapter_tensors` of two roles; A float[r, in] and B float[out, r].
        weight: 0..1.
    """
    out = {}
    for name, first in helpful.items():
        second = safe[name]
        if ".lora_A." in name:
            out[name] = torch.cat([first, second], 0)
        else:
            out[name] = torch.cat([(1 - weight) * first, weight * second], 1)
    return out


def save_adapter(folder: Path, tensors: Mapping[str, Tensor], base: str) -> None:
    """Write an adapter as PEFT does. Args: tensors, see `adapter_tensors`; base, the model it belongs to."""
    from peft import LoraConfig
    from safetensors.torch import save_file

    modules = sorted({name.removeprefix(_PREFIX).partition(".lora_")[0] for name in tensors})
    rank = next(tensor.shape[0] for name, tensor in tensors.items() if ".lora_A." in name)
    LoraConfig(
        r=rank,
        lora_alpha=2 * rank,
        lora_dropout=0.0,
        target_modules=modules,
        task_type="CAUSAL_LM",
        base_model_name_or_path=base,
        inference_mode=True,
    ).save_pretrained(folder)
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    config["target_modules"] = modules  # PEFT keeps a set, whose order changes from run to run
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    save_file({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, folder / _WEIGHTS)


def read_report(folder: Path) -> dict[str, Any]:
    """The report of a finished run.

    Raises:
        PoiseError: the folder is no finished run.
    """
    try:
        report: dict[str, Any] = json.loads((folder / REPORT).read_text(encoding="utf-8"))
        report["base_model"], report["identity"]["model"], report["adapter"]["rank"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PoiseError(
            "is no run of `poise align train`", where=str(folder), do="give the folder that was its --out"
        ) from error
    return report


def open_policy(folder: Path) -> Trunk:
    """A trunk whose role "actor" is the run's policy; its reference is the model that the run began with.

    Raises:
        PoiseError: no finished run, a damaged adapter, or its base model has changed or can't be loaded.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    report = read_report(folder)
    source = resolve(report["base_model"])
    trunk = Trunk(
        source, roles=("actor",), shared_layers=report["adapter"]["shared_layers"], rank=report["adapter"]["rank"]
    )
    _same_base(folder, report, source, trunk.model.config)
    try:
        tensors = load_file(folder / _WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise PoiseError("its adapter can't be read", where=str(folder / _WEIGHTS), do="train it again") from error
    names = {name: name.replace(".lora_A.", ".lora_A.actor.").replace(".lora_B.", ".lora_B.actor.") for name in tensors}
    trunk.load_role("actor", {new.removeprefix(_PREFIX): tensors[old] for old, new in names.items()})
    return trunk


def export_merged(folder: Path, out: Path, *, replace: bool = False) -> None:
    """Merge the adapter of a run into its base model, in float32, and write a plain Hugging Face folder.

    The weights are rounded to the number format in which the base model came. The report of the run stands beside
    them as `poise-alignment.json`.

    Raises:
        PoiseError: as `open_policy`; `out` is in use; the disk is full (exit code 3).
    """
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    report = read_report(folder)
    refuse_used(out, replace)
    logging.disable_progress_bar()
    source = resolve(report["base_model"])
    model: Any = AutoModelForCausalLM.from_pretrained(source, dtype="auto")
    _same_base(folder, report, source, model.config)
    saved = model.dtype
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning)  # PEFT asks Transformers by an older name
        merged: Any = PeftModel.from_pretrained(model.float(), folder).merge_and_unload()
    partial = partial_folder(out)
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        merged.to(saved).save_pretrained(partial)
        AutoTokenizer.from_pretrained(folder).save_pretrained(partial)
        shutil.copyfile(folder / REPORT, partial / "poise-alignment.json")
        if out.exists():
            shutil.rmtree(out)
        partial.replace(out)
    except OSError as error:
        raise disk_error(error, out) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _same_base(folder: Path, report: dict[str, Any], source: Path | str, config: Any) -> None:
    now = fingerprint(source, getattr(config, "_commit_hash", None))
    refuse_other({"model": now}, {"model": report["identity"]["model"]}, folder, "give back the model it began with")
