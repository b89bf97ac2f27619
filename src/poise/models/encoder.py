"""A sentence encoder: tokenise texts or text pairs, run the transformer, pool the kept tokens by their mean."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from poise.errors import PoiseError
from poise.models.precision import default_device, frozen_dtype


def ignore(_: int) -> None:
    """The progress callback of callers that show none."""


class Encoder(nn.Module):
    """A Hugging Face encoder with mean pooling.

    Args:
        source: model folder or hub id.
        max_length: tokens kept of a text or pair; the longer of the two texts is cut first.

    Raises:
        PoiseError: the model can't be loaded as an encoder.
    """

    def __init__(self, source: str | Path, *, max_length: int = 160, device: torch.device | None = None) -> None:
        super().__init__()
        from safetensors import SafetensorError
        from transformers import AutoModel, AutoTokenizer
        from transformers.utils import logging

        logging.disable_progress_bar()
        self.device = device or default_device()
        self.max_length = max_length
        try:
            self.tokenizer: Any = AutoTokenizer.from_pretrained(source)
            self.model: Any = AutoModel.from_pretrained(source, dtype=torch.float32).to(self.device).eval()
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            raise PoiseError(
                f"can't be loaded as an encoder: {str(error).splitlines()[0]}",
                where=str(source),
                do="give a Transformers encoder folder, a hub id or a bundled name",
            ) from error

    @property
    def width(self) -> int:
        """H, the size of an embedding."""
        return int(self.model.config.hidden_size)

    def forward(self, first: Sequence[str], second: Sequence[str] | None = None) -> Tensor:
        """Embeddings float32[B, H] of texts or of (first, second) pairs; gradients flow unless a caller stops them."""
        batch = self.tokenizer(
            list(first),
            None if second is None else list(second),
            padding=True,
            truncation=True,
            max_length=self.max_length,
            return_tensors="pt",
        ).to(self.device)
        fast = frozen_dtype(self.device) == torch.bfloat16
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=fast):
            hidden = self.model(**batch).last_hidden_state
        kept = batch["attention_mask"].unsqueeze(-1).float()
        pooled: Tensor = (hidden.float() * kept).sum(1) / kept.sum(1)
        return pooled

    @torch.no_grad()
    def embed(
        self,
        first: Sequence[str],
        second: Sequence[str] | None = None,
        *,
        batch_size: int = 64,
        on_rows: Callable[[int], object] = ignore,
    ) -> Tensor:
        """Unit-length embeddings float32[N, H] in the order given, computed in batches sorted by length."""
        pairs = list(zip(first, second if second is not None else [None] * len(first), strict=True))
        order = sorted(range(len(pairs)), key=lambda i: len(pairs[i][0]) + len(pairs[i][1] or ""))
        out = torch.empty(len(pairs), self.width)
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            others = None if second is None else [second[i] for i in chosen]
            out[chosen] = nn.functional.normalize(self([first[i] for i in chosen], others), dim=-1).cpu()
            on_rows(len(chosen))
        return out
