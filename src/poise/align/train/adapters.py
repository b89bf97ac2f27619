"""An adapter on disk as PEFT has it (`adapter_config.json`, `adapter_model.safetensors`).

So `peft.PeftModel.from_pretrained(base, folder)` opens it. P-SACPO's merge of two adapters is exact: the factors of
both stand side by side, at twice the rank.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from poise.errors import PoiseError
from poise.models.trunk import Trunk

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


def adapter_shape(trunk: Trunk, tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """What a report tells of the adapter. Args: tensors, see `adapter_tensors`."""
    rank = next(tensor.shape[0] for name, tensor in tensors.items() if ".lora_A." in name)
    return {
        "rank": rank,
        "shared_layers": trunk.shared_layers,
        "weights": sum(tensor.numel() for tensor in tensors.values()),
    }


def load_adapter(folder: Path) -> dict[str, Tensor]:
    """The tensors of the adapter in a folder, as `Trunk.load_role` takes them for the role "actor".

    Raises:
        PoiseError: the file is absent or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(folder / _WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise PoiseError("its adapter can't be read", where=str(folder / _WEIGHTS), do="train it again") from error
    names = {name: name.replace(".lora_A.", ".lora_A.actor.").replace(".lora_B.", ".lora_B.actor.") for name in tensors}
    return {new.removeprefix(_PREFIX): tensors[old] for old, new in names.items()}


def merge_adapter(model: Any, folder: Path) -> Any:
    """A Transformers model in float32 with the adapter in a folder merged into its weights."""
    from peft import PeftModel

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning)  # PEFT asks Transformers by an older name
        return PeftModel.from_pretrained(model.float(), folder).merge_and_unload()
