"""The guard of a run: an encoder whose every layer learns, with category and severity heads on the QA pair."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from poise.annotate import QAScore
from poise.data import QARow
from poise.errors import PoiseError
from poise.models.encoder import Encoder, ignore
from poise.models.heads import ModerationHeads, ModerationLogits, severity_probabilities


class Moderator(nn.Module):
    """Judges prompt-response pairs: P(severity >= 1, 2, 3) and P(category) for each of the 19.

    Args:
        encoder_source: folder or hub id of the encoder.
        max_length: tokens kept of prompt and response together; the longer text is cut first.
    """

    def __init__(self, encoder_source: str | Path, *, max_length: int = 128) -> None:
        super().__init__()
        self.encoder = Encoder(encoder_source, max_length=max_length)
        self.heads = ModerationHeads(self.encoder.width).to(self.encoder.device)
        nn.init.zeros_(self.heads.severity.weight)

    def forward(self, prompts: Sequence[str], responses: Sequence[str]) -> ModerationLogits:
        """Logits of B pairs."""
        logits: ModerationLogits = self.heads(self.encoder(prompts, responses))
        return logits

    @torch.inference_mode()
    def logits(
        self, rows: Sequence[QARow], *, batch_size: int = 64, on_rows: Callable[[int], object] = ignore
    ) -> ModerationLogits:
        """Logits of all rows in their order, computed in batches sorted by length."""
        self.eval()
        order = sorted(range(len(rows)), key=lambda i: len(rows[i].prompt) + len(rows[i].response))
        parts = []
        for start in range(0, len(order), batch_size):
            chosen = [rows[i] for i in order[start : start + batch_size]]
            parts.append(self([r.prompt for r in chosen], [r.response for r in chosen]))
            on_rows(len(chosen))
        back = torch.tensor(order).argsort()
        return ModerationLogits(*(torch.cat(list(part)).cpu()[back] for part in zip(*parts, strict=True)))

    def score(self, rows: Sequence[QARow], on_rows: Callable[[int], object] = ignore) -> list[QAScore | None]:
        """Scores for the `ScoringRater` seam; the guard knows nothing of helpfulness, so `helpful` is 0.

        A row whose score is not a number is None (unjudged).
        """
        if not rows:
            return []
        logits = self.logits(rows, on_rows=on_rows)
        severity, categories = severity_probabilities(logits.at_least), torch.sigmoid(logits.categories)
        return [
            QAScore((s[0], s[1], s[2], s[3]), tuple(c), 0.0) if all(map(math.isfinite, (*s, *c))) else None
            for s, c in zip(severity.tolist(), categories.tolist(), strict=True)
        ]

    def save(self, folder: Path) -> None:
        """Write encoder, tokenizer, heads and settings as an ordinary model folder plus `heads.safetensors`."""
        from safetensors.torch import save_file

        self.encoder.model.save_pretrained(folder)
        self.encoder.tokenizer.save_pretrained(folder)
        heads: dict[str, Tensor] = {k: v.contiguous() for k, v in self.heads.state_dict().items()}
        save_file(heads, folder / "heads.safetensors")
        (folder / "guard.json").write_text(json.dumps({"max_length": self.encoder.max_length}) + "\n")

    @classmethod
    def load(cls, folder: Path) -> Moderator:
        """Read what `save` wrote.

        Raises:
            PoiseError: the folder is no guard.
        """
        from safetensors.torch import load_file

        try:
            settings = json.loads((folder / "guard.json").read_text())
            weights = load_file(folder / "heads.safetensors")
        except (OSError, ValueError) as error:
            raise PoiseError(f"holds no guard: {error}", where=str(folder), do="train one with a recipe") from error
        guard = cls(folder, max_length=settings["max_length"])
        guard.heads.load_state_dict(weights)
        return guard.eval()
