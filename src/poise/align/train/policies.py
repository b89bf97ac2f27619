"""The policy that a run leaves, an adapter or a whole model: written, opened again, exported as a plain model.

It is what the trunk is: adapters on one model, or `SeparateModels`, whose weights are all trained. The report of a run
has the section `adapter` or `whole_model`.
"""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from poise.align.algorithms.sacpo import merged
from poise.align.train.adapters import (
    adapter_shape,
    adapter_tensors,
    load_adapter,
    merge_adapter,
    merged_adapters,
    save_adapter,
)
from poise.data.folders import disk_error, partial_folder, refuse_used
from poise.data.resumable import refuse_other
from poise.errors import PoiseError
from poise.models.bundled import resolve
from poise.models.checkpoint import faults_of_the_disk
from poise.models.fingerprint import fingerprint
from poise.models.separate import SeparateModels
from poise.models.trunk import Trunk

REPORT = "report.json"


class Policy(NamedTuple):
    """A trained actor. Args: save, writes it into a folder; told, of it in the report."""

    save: Callable[[Path], None]
    told: dict[str, Any]


def policy_of(trunk: Trunk, merge: float | None = None) -> Policy:
    """The actor of a trained trunk.

    Args:
        merge: its share beside the role "helpful" (P-SACPO); None is the actor alone.
    """
    if isinstance(trunk, SeparateModels):
        return _whole(trunk, merge)
    tensors, base = adapter_tensors(trunk, "actor"), str(trunk.model.config._name_or_path)
    if merge is not None:
        tensors = merged_adapters(adapter_tensors(trunk, "helpful"), tensors, merge)
    return Policy(lambda folder: save_adapter(folder, tensors, base), {"adapter": adapter_shape(trunk, tensors)})


def _whole(trunk: SeparateModels, merge: float | None) -> Policy:
    """All weights of the actor, in the number format of the model that it began as."""
    actor: Any = trunk.models["actor"]
    form = _format_of(actor.config._name_or_path)

    def save(folder: Path) -> None:
        model = copy.deepcopy(actor)
        if merge is not None:
            state = merged(trunk.state_of("helpful"), trunk.state_of("actor"), merge)
            with torch.no_grad():
                for name, parameter in model.named_parameters():
                    parameter.copy_(state[name])
        model.to(form).save_pretrained(folder)

    count = sum(parameter.numel() for parameter in actor.parameters())
    return Policy(save, {"whole_model": {"weights": count, "format": str(form).removeprefix("torch.")}})


def _format_of(source: str) -> torch.dtype:
    """The number format in which a model came."""
    from transformers import AutoConfig, AutoModelForCausalLM

    form: torch.dtype | None = AutoConfig.from_pretrained(source).dtype
    return form or AutoModelForCausalLM.from_pretrained(source, dtype="auto").dtype


def read_report(folder: Path) -> dict[str, Any]:
    """The report of a finished run.

    Raises:
        PoiseError: the folder is no finished run.
    """
    try:
        report: dict[str, Any] = json.loads((folder / REPORT).read_text(encoding="utf-8"))
        report["base_model"], report["identity"]["model"]
        report["whole_model"] if "whole_model" in report else report["adapter"]["rank"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PoiseError(
            "is no run of `poise align train`", where=str(folder), do="give the folder that was its --out"
        ) from error
    return report


def open_policy(folder: Path) -> Trunk:
    """A trunk whose role "actor" is the run's policy; its reference is the model that the run began with.

    Raises:
        PoiseError: no finished run, damaged weights, or its base model has changed or can't be loaded.
    """
    report = read_report(folder)
    source, shape = resolve(report["base_model"]), report.get("adapter")
    if shape is None:
        trunk: Trunk = SeparateModels({"actor": source})
    else:
        trunk = Trunk(source, roles=("actor",), shared_layers=shape["shared_layers"], rank=shape["rank"])
    _same_base(folder, report, source, trunk.model.config)
    trunk.load_role("actor", load_adapter(folder) if shape is not None else _all_weights(folder))
    return trunk


def export_merged(folder: Path, out: Path, *, replace: bool = False) -> None:
    """Write the policy of a run as a plain Hugging Face folder: an adapter merged into its base model in float32, or
    all weights as they are.

    The weights have the number format in which the base model came. The report of the run stands beside them as
    `poise-alignment.json`.

    Raises:
        PoiseError: as `open_policy`; `out` is in use; the disk is full (exit code 3).
    """
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    report = read_report(folder)
    refuse_used(out, replace)
    logging.disable_progress_bar()
    source = resolve(report["base_model"])
    if "adapter" in report:
        base: Any = AutoModelForCausalLM.from_pretrained(source, dtype="auto")
        _same_base(folder, report, source, base.config)
        form, model = base.dtype, merge_adapter(base, folder)
    else:
        _same_base(folder, report, source, AutoConfig.from_pretrained(source))
        model = _load_whole(folder, "auto")
        form = model.dtype
    partial = partial_folder(out)
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        with faults_of_the_disk():
            model.to(form).save_pretrained(partial)
        AutoTokenizer.from_pretrained(folder).save_pretrained(partial)
        shutil.copyfile(folder / REPORT, partial / "poise-alignment.json")
        if out.exists():
            shutil.rmtree(out)
        partial.replace(out)
    except OSError as error:
        raise disk_error(error, out) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _all_weights(folder: Path) -> dict[str, Tensor]:
    """Of the whole model in a folder, as `SeparateModels.load_role` takes them."""
    return {name: tensor.detach() for name, tensor in _load_whole(folder, torch.float32).named_parameters()}


def _load_whole(folder: Path, form: torch.dtype | str) -> Any:
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        model, loading = AutoModelForCausalLM.from_pretrained(folder, dtype=form, output_loading_info=True)
        if loading["missing_keys"]:
            raise ValueError(f"{sorted(loading['missing_keys'])[0]} is missing")
    except (OSError, ValueError, SafetensorError) as error:
        raise PoiseError("its weights can't be read", where=str(folder), do="train it again") from error
    return model


def _same_base(folder: Path, report: dict[str, Any], source: Path | str, config: Any) -> None:
    now = fingerprint(source, getattr(config, "_commit_hash", None))
    refuse_other({"model": now}, {"model": report["identity"]["model"]}, folder, "give back the model it began with")
