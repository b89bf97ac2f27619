"""The guard's network: an encoder that learns, 19 categories, ordinal severity and refusal, for prompts and answers.

Disguises are undone first (`poise.guard.normalise`). A text longer than a window is read in several; the highest logit
of them counts, so nothing is silently cut. A prompt alone is a pair with an empty answer.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from poise.errors import PoiseError
from poise.guard.normalise import normalise
from poise.guard.windows import Logits, Marks, Text, Window, highest, padded, windows
from poise.models.attention import attend_in_float32
from poise.models.bundled import resolve
from poise.models.encoder import Encoder, ignore
from poise.models.folded import fold_adapters
from poise.models.heads import ModerationHeads
from poise.models.precision import frozen_dtype

ADAPTERS = "adapters.safetensors"


class GuardLogits(NamedTuple):
    """Args: categories float[B, 19]; at_least float[B, 3], of severity >= 1, 2, 3, non-increasing; refusal float[B]."""

    categories: Tensor
    at_least: Tensor
    refusal: Tensor


class GuardModel(nn.Module):
    """The network.

    Args:
        source: folder or hub id of the encoder.
        max_length: tokens of a window.
        lora_rank: of adapters on all linear layers of the trunk; 0 lets all its weights learn.
        dropout: before the heads.
        seed: of heads and adapters.

    Raises:
        PoiseError: the encoder can't be loaded, lacks a mark that frames a window, or reads fewer tokens than a window.
    """

    def __init__(
        self,
        source: str | Path,
        *,
        max_length: int = 192,
        lora_rank: int = 0,
        dropout: float = 0.1,
        seed: int = 0,
    ) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.encoder = Encoder(source, max_length=max_length)
        _check(self.encoder, source)
        self._has_kinds = getattr(self.encoder.model.config, "type_vocab_size", 0) > 1
        for part in self.encoder.modules():  # inside the trunk it costs half of a step on a CPU
            if isinstance(part, nn.Dropout):
                part.p = 0.0
        self.mixed = frozen_dtype(self.encoder.device) == torch.bfloat16
        if self.mixed:
            attend_in_float32(self.encoder.model)
        self._vocabulary = frozenset(self.encoder.tokenizer.get_vocab())
        self.settings = {"max_length": max_length, "lora_rank": lora_rank, "dropout": dropout}
        if lora_rank:
            self.encoder.model = _adapted(self.encoder.model, lora_rank)
        self.dropout = nn.Dropout(dropout)
        self.heads = ModerationHeads(self.encoder.width)
        self.refusal = nn.Linear(self.encoder.width, 1)
        nn.init.zeros_(self.heads.severity.weight)
        self.to(self.encoder.device)

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return self.encoder.device

    @property
    def marks(self) -> Marks:
        """Token ids that frame a window."""
        tokenizer = self.encoder.tokenizer
        return Marks(tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id)

    def windows(self, text: Text) -> list[Window]:
        """Token ids (prompt part, answer part) of each window; every token is in at least one of them."""
        prompt, response = (self._ids(part or "") for part in text)
        return windows(prompt, response, self.encoder.max_length)

    def _ids(self, text: str) -> list[int]:
        plain = normalise(text, self._vocabulary.__contains__)
        ids: list[int] = self.encoder.tokenizer(plain, add_special_tokens=False, verbose=False)["input_ids"]
        return ids

    def forward(self, chosen: Sequence[Window]) -> GuardLogits:
        """Logits of B windows."""
        ids, kinds, mask = (torch.from_numpy(part).to(self.device) for part in padded(chosen, self.marks))
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.mixed):
            return self.from_ids(ids, kinds, mask)

    def from_ids(self, ids: Tensor, kinds: Tensor, mask: Tensor) -> GuardLogits:
        """Logits of padded windows; what is exported.

        Args:
            ids, kinds, mask: int64[B, L], as `poise.guard.windows.Batch`; encoders that know no kinds get none.
        """
        more = {"token_type_ids": kinds} if self._has_kinds else {}
        hidden: Tensor = self.encoder.model(input_ids=ids, attention_mask=mask, **more).last_hidden_state
        with torch.autocast(self.device.type, enabled=False):
            kept = mask[:, :, None].float()
            pooled = (hidden.float() * kept).sum(1) / kept.sum(1)
            features = self.dropout(nn.functional.normalize(pooled, dim=-1) * self.encoder.width**0.5 / 4)
            logits = self.heads(features)
            return GuardLogits(logits.categories, logits.at_least, self.refusal(features)[:, 0])

    @torch.no_grad()
    def logits(
        self, texts: Sequence[Text], *, batch_size: int = 64, on_rows: Callable[[int], object] = ignore
    ) -> GuardLogits:
        """Logits of all texts in order, on the CPU: of several windows the highest one."""
        self.eval()

        def run(chosen: Sequence[Window]) -> Logits:
            return Logits(*(part.float().cpu().numpy() for part in self(chosen)))

        found = highest(texts, self.windows, run, batch_size=batch_size, on_rows=on_rows)
        return GuardLogits(*map(torch.from_numpy, found))

    def merge(self) -> None:
        """Fold the adapters into the trunk's weights; it says the same as before."""
        if self.settings["lora_rank"]:
            self.encoder.model = self.encoder.model.merge_and_unload()
            self.settings["lora_rank"] = 0

    def run_in(self, dtype: torch.dtype) -> None:
        """Hold and compute the trunk in float32 or bfloat16 from now on; heads stay float32."""
        self.encoder.model.to(dtype)
        self.mixed = False

    def save(self, folder: Path, more: dict[str, Any]) -> None:
        """Write trunk and tokenizer, or only the adapters (half precision), heads and settings.

        Args:
            more: settings to keep beside; `encoder` names the trunk that adapters belong to.
        """
        from safetensors.torch import save_file

        if self.settings["lora_rank"]:
            from peft import get_peft_model_state_dict

            adapters = get_peft_model_state_dict(self.encoder.model)
            save_file({name: tensor.half().contiguous() for name, tensor in adapters.items()}, folder / ADAPTERS)
        else:
            self.encoder.model.save_pretrained(folder)
            self.encoder.tokenizer.save_pretrained(folder)
        parts = {"heads": self.heads, "refusal": self.refusal}
        tensors = {f"{n}.{k}": v.contiguous() for n, part in parts.items() for k, v in part.state_dict().items()}
        save_file(tensors, folder / "heads.safetensors")
        (folder / "guard.json").write_text(json.dumps(self.settings | more, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> tuple[GuardModel, dict[str, Any]]:
        """The network that `save` wrote, and all settings.

        Raises:
            PoiseError: the folder holds none.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            settings = json.loads((folder / "guard.json").read_text(encoding="utf-8"))
            weights = load_file(folder / "heads.safetensors")
            source = resolve(settings["encoder"]) if settings["lora_rank"] else folder
            guard = cls(source, max_length=settings["max_length"], dropout=settings["dropout"])
            if settings["lora_rank"]:
                from peft import set_peft_model_state_dict

                guard.encoder.model = _adapted(guard.encoder.model, settings["lora_rank"])
                kept = {name: tensor.float() for name, tensor in load_file(folder / ADAPTERS).items()}
                set_peft_model_state_dict(guard.encoder.model, kept)
                guard.settings["lora_rank"] = settings["lora_rank"]
            if (engine := settings.get("engine")) is not None:
                guard.run_in(torch.bfloat16 if engine == "torch-bf16" else torch.float32)
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            raise PoiseError(
                f"holds no guard ({type(error).__name__})", where=str(folder), do="train one: poise guard train"
            ) from error
        for name, part in (("heads", guard.heads), ("refusal", guard.refusal)):
            part.load_state_dict({k.removeprefix(f"{name}."): v for k, v in weights.items() if k.startswith(name)})
        return guard.eval(), settings


def _check(encoder: Encoder, source: str | Path) -> None:
    for name in ("cls", "sep", "pad"):
        if getattr(encoder.tokenizer, f"{name}_token_id") is None:
            raise PoiseError(
                f"its tokenizer has no {name} token", where=str(source), do="use an encoder such as all-minilm-l6-v2"
            )
    most = getattr(encoder.model.config, "max_position_embeddings", None)
    for name, part in encoder.model.named_modules():
        if name.endswith("position_embeddings") and isinstance(part, nn.Embedding):  # RoBERTa's begin after its padding
            most = part.num_embeddings - (0 if part.padding_idx is None else part.padding_idx + 1)
    if most is not None and 0 < most < encoder.max_length:
        raise PoiseError(
            f"reads {most} tokens at most, and max_length is {encoder.max_length}",
            where=str(source),
            do=f"set model.max_length to {most} or less",
        )


def _adapted(model: Any, rank: int) -> Any:
    from peft import LoraConfig, get_peft_model

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning)  # PEFT asks Transformers by an older name
        adapted = get_peft_model(model, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear"))
    for part in adapted.modules():
        if hasattr(part, "cast_input_dtype_enabled"):  # autocast narrows again what PEFT would widen: a copy each
            part.cast_input_dtype_enabled = False
    fold_adapters(adapted)
    return adapted
