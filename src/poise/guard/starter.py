"""The starter rater: small heads on the frozen MiniLM encoder that label and rank responses from the first minute.

It judges a QA pair from three embeddings (prompt, response, both together), through one hidden layer: 19 categories,
ordinal severity, and a helpfulness score for ranking within a prompt. It is trained by `poise guard train-starter` on
rows whose licence permits commercial use plus our own labelled seeds, and its weights ship with the package (see
`starter/README.md`, its model card). It is a first annotator for demonstrations, weak on purpose of size: the guard
that a run trains from its own release replaces it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from poise.annotate import QAScore
from poise.data import QARow, Rater
from poise.errors import PoiseError
from poise.models.encoder import Encoder, ignore
from poise.models.heads import ModerationHeads, ModerationLogits, severity_probabilities

STARTER_FOLDER = Path(__file__).parent / "starter"
STARTER_ENCODER = "all-minilm-l6-v2"


class StarterHeads(nn.Module):
    """One hidden layer and three outputs on pair features.

    Args:
        width: size of the encoder's embedding H; features are 4 H.
        hidden: units of the hidden layer.
    """

    def __init__(self, width: int, hidden: int = 64) -> None:
        super().__init__()
        self.hidden = nn.Sequential(nn.Linear(4 * width, hidden), nn.GELU(), nn.Dropout(0.2))
        self.moderation = ModerationHeads(hidden)
        self.helpful = nn.Linear(hidden, 1)

    def forward(self, features: Tensor) -> tuple[ModerationLogits, Tensor]:
        """Features float[B, 4 H] -> moderation logits and helpfulness float[B] (higher is better within a prompt)."""
        hidden = self.hidden(features)
        return self.moderation(hidden), self.helpful(hidden)[:, 0]


def features(
    encoder: Encoder, prompts: Sequence[str], responses: Sequence[str], on_rows: Callable[[int], object] = ignore
) -> Tensor:
    """Pair features float32[N, 4 H]: prompt, response, their product, and both encoded together."""
    unique = sorted(set(prompts))
    where = {text: i for i, text in enumerate(unique)}
    prompt = encoder.embed(unique)[[where[text] for text in prompts]]
    response = encoder.embed(responses, on_rows=on_rows)
    return torch.cat([prompt, response, prompt * response * 8, encoder.embed(prompts, responses)], 1)


class StarterRater:
    """The shipped starter rater behind the `ScoringRater` seam.

    Args:
        encoder_source: folder of all-MiniLM-L6-v2; the heads fit no other encoder.
        folder: weights and settings; the shipped ones by default.

    Raises:
        PoiseError: the folder holds no starter rater or the encoder has another width.
    """

    def __init__(self, encoder_source: str | Path, folder: Path = STARTER_FOLDER) -> None:
        from safetensors.torch import load_file

        try:
            settings = json.loads((folder / "settings.json").read_text())
            weights = load_file(folder / "heads.safetensors")
        except (OSError, ValueError) as error:
            raise PoiseError(
                f"holds no starter rater: {error}", where=str(folder), do="train one: poise guard train-starter"
            ) from error
        self.encoder = Encoder(encoder_source, max_length=settings["max_length"])
        if self.encoder.width != settings["width"]:
            raise PoiseError(
                f"the starter rater needs an encoder of width {settings['width']}, this one has {self.encoder.width}",
                where=str(encoder_source),
                do=f"set models.encoder to {STARTER_ENCODER}",
            )
        self.heads = StarterHeads(settings["width"], settings["hidden"]).eval()
        self.heads.load_state_dict(weights)
        self.rater = Rater(id="starter-rater", kind="model", version=settings["version"])

    def score(self, rows: Sequence[QARow], on_rows: Callable[[int], object] = ignore) -> list[QAScore | None]:
        """Scores in the order of the rows; a row whose score is not a number is None (unjudged)."""
        if not rows:
            return []
        x = features(self.encoder, [r.prompt for r in rows], [r.response for r in rows], on_rows)
        with torch.inference_mode():
            logits, helpful = self.heads(x)
        severity = severity_probabilities(logits.at_least)
        categories = torch.sigmoid(logits.categories)
        scores: list[QAScore | None] = []
        for s, c, h in zip(severity.tolist(), categories.tolist(), helpful.tolist(), strict=True):
            finite = all(map(math.isfinite, (*s, *c, h)))
            scores.append(QAScore((s[0], s[1], s[2], s[3]), tuple(c), h) if finite else None)
        return scores
