"""The model that is trained: loading it, its adapters, and the folder that it becomes.

Full training holds float32 weights and multiplies in bfloat16 where the machine does that natively. LoRA keeps the
model frozen in the machine's number format and the adapters in float32; merged weights are rounded to the format in
which the model came, and the last evaluation is of the rounded ones, which are those that are saved.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch

from poise.errors import PoiseError
from poise.models.folded import fold_adapters
from poise.models.precision import default_device, frozen_dtype


def load_tokenizer(source: Path | str) -> Any:
    """The tokenizer of a model folder or hub id.

    Raises:
        PoiseError: there is none.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError, KeyError) as error:
        raise _unloadable(source, error) from error


class Weights:
    """A causal LM that is trained whole or through adapters.

    Args:
        source: model folder or hub id.
        rank: of the adapters; 0 trains all weights.
        seed: of the adapters.

    Attributes:
        model: the Transformers model; adapters are inside it.
        autocast: whether to multiply in bfloat16.
        trained, parameters: numbers of weights.

    Raises:
        PoiseError: it can't be loaded as a causal language model.
    """

    def __init__(self, source: Path | str, rank: int, seed: int) -> None:
        from safetensors import SafetensorError
        from transformers import AutoModelForCausalLM
        from transformers.utils import logging

        logging.disable_progress_bar()
        self.source, device = source, default_device()
        fast = frozen_dtype(device)
        try:
            model: Any = AutoModelForCausalLM.from_pretrained(source, dtype="auto")
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            raise _unloadable(source, error) from error
        self.saved_dtype: torch.dtype = model.dtype
        model = model.to(device=device, dtype=fast if rank else torch.float32)
        self.autocast = fast == torch.bfloat16
        self.revision: str | None = getattr(model.config, "_commit_hash", None)
        self._adapted: Any = _adapted(model, rank, seed) if rank else None
        self.model: Any = model if self._adapted is None else self._adapted.get_base_model()
        self.parameters = sum(p.numel() for p in model.parameters())
        self.trained = sum(p.numel() for p in model.parameters() if p.requires_grad)

    @torch.no_grad()
    def finish(self, merge: bool) -> None:
        """Merge the adapters if asked, and round all weights that will be saved; the model can still be evaluated."""
        if self._adapted is not None and not merge:
            return
        if self._adapted is not None:
            self.model = self._adapted.to(torch.float32).merge_and_unload()
            self._adapted = None
        self.model.to(self.saved_dtype)

    def save(self, folder: Path, tokenizer: Any, end: int | None) -> None:
        """Write the model, or its adapters, and the tokenizer; samplers stop at token `end` too, if it is given."""
        generation = self.model.generation_config
        if generation is not None and end is not None:
            known = generation.eos_token_id
            ends = [] if known is None else known if isinstance(known, list) else [known]
            ends = ends if end in ends else [*ends, end]
            generation.eos_token_id = ends[0] if len(ends) == 1 else ends
            try:
                generation.validate(strict=True)
            except ValueError:  # some models come with a temperature but do not sample, which may not be saved
                generation.do_sample = True
        (self._adapted or self.model).save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def _adapted(model: Any, rank: int, seed: int) -> Any:
    from peft import LoraConfig, get_peft_model
    from peft.tuners.lora import LoraLayer

    torch.manual_seed(seed)
    settings = LoraConfig(
        r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning)  # PEFT asks Transformers by an older name
        try:
            adapted: Any = get_peft_model(model, settings)
        except ValueError as error:
            kind = model.config.model_type
            raise PoiseError(f"PEFT can't adapt a {kind!r} model", where="--lora", do="use --full") from error
    for module in adapted.modules():
        if isinstance(module, LoraLayer):
            module.cast_input_dtype_enabled = False  # autocast multiplies in the model's format
    for name, parameter in adapted.named_parameters():
        if ".lora_" in name:
            parameter.data = parameter.data.float()
    fold_adapters(adapted)
    return adapted


def _unloadable(source: Path | str, error: Exception) -> PoiseError:
    return PoiseError(
        f"can't be loaded as a causal language model: {str(error).splitlines()[0]}",
        where=str(source),
        do="give a Transformers model folder, a hub id or a bundled name",
    )
