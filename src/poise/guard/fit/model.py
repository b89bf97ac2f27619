"""The guard's network: an encoder that learns, 19 categories, ordinal severity and refusal, for prompts and answers.

Disguises are undone first (`poise.guard.normalise`). A text longer than a window is read in several; the highest logit
of them counts, so nothing is silently cut. A prompt alone is a pair with an empty answer.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from poise.errors import PoiseError
from poise.guard.normalise import normalise
from poise.models.bundled import resolve
from poise.models.encoder import Encoder, ignore
from poise.models.heads import ModerationHeads
from poise.models.precision import frozen_dtype

Text = tuple[str, str | None]
"""(prompt, answer); the answer is None where only the prompt is judged."""
Window = tuple[list[int], list[int]]
"""Token ids of (a part of) the prompt and of the answer."""
_STRIDE = 0.75  # share of a window after which the next one begins


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
        for part in self.encoder.modules():  # inside the trunk it costs half of a step on a CPU
            if isinstance(part, nn.Dropout):
                part.p = 0.0
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

    def windows(self, text: Text) -> list[Window]:
        """Token ids (prompt part, answer part) of each window; every token is in at least one of them.

        An answer is read with the end of a long prompt, where the request stands.
        """
        prompt, response = (self._ids(part or "") for part in text)
        room = self.encoder.max_length - 3  # [CLS] prompt [SEP] answer [SEP]
        if len(prompt) + len(response) <= room:
            return [(prompt, response)]
        most = room if not response else max(room // 3, room - len(response))
        heads = _slices(prompt, most)
        tails = _slices(response, room - len(heads[-1]))
        return [(heads[-1], tail) for tail in tails] + [(head, tails[0]) for head in heads[:-1]]

    def _ids(self, text: str) -> list[int]:
        plain = normalise(text, self._vocabulary.__contains__)
        ids: list[int] = self.encoder.tokenizer(plain, add_special_tokens=False, verbose=False)["input_ids"]
        return ids

    def forward(self, windows: Sequence[Window]) -> GuardLogits:
        """Logits of B windows."""
        tokenizer, device = self.encoder.tokenizer, self.device
        rows = [
            [tokenizer.cls_token_id, *head, tokenizer.sep_token_id, *tail, tokenizer.sep_token_id]
            for head, tail in windows
        ]
        width = max(map(len, rows))
        ids = torch.full((len(rows), width), tokenizer.pad_token_id)
        kinds, mask = torch.zeros_like(ids), torch.zeros_like(ids)
        for i, (row, (head, _)) in enumerate(zip(rows, windows, strict=True)):
            ids[i, : len(row)] = torch.tensor(row)
            kinds[i, len(head) + 2 : len(row)] = 1
            mask[i, : len(row)] = 1
        fast = frozen_dtype(device) == torch.bfloat16
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=fast):
            hidden: Tensor = self.encoder.model(
                input_ids=ids.to(device), token_type_ids=kinds.to(device), attention_mask=mask.to(device)
            ).last_hidden_state
        kept = mask.to(device)[:, :, None].float()
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
        pieces = [(i, window) for i, text in enumerate(texts) for window in self.windows(text)]
        order = sorted(range(len(pieces)), key=lambda at: len(pieces[at][1][0]) + len(pieces[at][1][1]))
        out = GuardLogits(
            torch.full((len(texts), 19), -torch.inf),
            torch.full((len(texts), 3), -torch.inf),
            torch.full((len(texts),), -torch.inf),
        )
        for start in range(0, len(order), batch_size):
            chosen = [pieces[at] for at in order[start : start + batch_size]]
            found = self([window for _, window in chosen])
            for row, (i, _) in enumerate(chosen):
                for whole, part in zip(out, found, strict=True):
                    whole[i] = torch.maximum(whole[i], part[row].float().cpu())
            on_rows(len(chosen))
        return out

    def save(self, folder: Path, more: dict[str, Any]) -> None:
        """Write trunk (or its adapters), tokenizer, heads and settings; `more["encoder"]` names the trunk."""
        from safetensors.torch import save_file

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
        from safetensors.torch import load_file

        try:
            settings = json.loads((folder / "guard.json").read_text(encoding="utf-8"))
            weights = load_file(folder / "heads.safetensors")
            source = resolve(settings["encoder"]) if settings["lora_rank"] else folder
            guard = cls(source, max_length=settings["max_length"], dropout=settings["dropout"])
            if settings["lora_rank"]:
                from peft import PeftModel

                guard.encoder.model = PeftModel.from_pretrained(guard.encoder.model, folder)
                guard.settings["lora_rank"] = settings["lora_rank"]
        except (OSError, ValueError, KeyError) as error:
            raise PoiseError(
                f"holds no guard ({type(error).__name__})", where=str(folder), do="train one: poise guard train"
            ) from error
        for name, part in (("heads", guard.heads), ("refusal", guard.refusal)):
            part.load_state_dict({k.removeprefix(f"{name}."): v for k, v in weights.items() if k.startswith(name)})
        return guard.eval(), settings


def _slices(ids: list[int], size: int) -> list[list[int]]:
    """Overlapping pieces of `size` tokens that cover all; a short text is one piece."""
    if len(ids) <= size:
        return [ids]
    last, step = len(ids) - size, max(1, int(size * _STRIDE))
    return [ids[start : start + size] for start in (*range(0, last, step), last)]


def _adapted(model: Any, rank: int) -> Any:
    from peft import LoraConfig, get_peft_model

    adapted = get_peft_model(model, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear"))
    return adapted
