"""How helpful an answer is beside others to the same prompt: a small head on the frozen MiniLM encoder.

It reads three embeddings (prompt, response, both together) through one hidden layer. `poise guard train-helpfulness`
trains it on pairs whose licence permits commercial use and on our own; its weights ship with the package (see
`helpfulness_head/README.md`, its model card). It ranks for demonstrations: weak on purpose of size.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from poise.errors import PoiseError
from poise.models.bundled import resolve
from poise.models.encoder import Encoder, ignore

SHIPPED = Path(__file__).parent / "helpfulness_head"
ENCODER = "all-minilm-l6-v2"


class HelpfulnessHead(nn.Sequential):
    """Pair features float[B, 4 H] -> helpfulness float[B, 1], higher is better within a prompt.

    Args:
        width: H, size of the encoder's embedding.
        hidden: units of the hidden layer.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__(nn.Linear(4 * width, hidden), nn.GELU(), nn.Dropout(0.2), nn.Linear(hidden, 1))


def features(
    encoder: Encoder, prompts: Sequence[str], responses: Sequence[str], on_rows: Callable[[int], object] = ignore
) -> Tensor:
    """Pair features float32[N, 4 H]: prompt, response, their product, and both encoded together."""
    unique = sorted(set(prompts))
    where = {text: i for i, text in enumerate(unique)}
    prompt = encoder.embed(unique)[[where[text] for text in prompts]]
    response = encoder.embed(responses, on_rows=on_rows)
    return torch.cat([prompt, response, prompt * response * 8, encoder.embed(prompts, responses)], 1)


class Helpfulness:
    """The trained head and its encoder.

    Args:
        folder: what `poise guard train-helpfulness` wrote; the shipped one by default.

    Attributes:
        version: of its weights.

    Raises:
        PoiseError: the folder holds no such head.
    """

    def __init__(self, folder: Path = SHIPPED) -> None:
        from safetensors.torch import load_file

        try:
            settings = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
            self.encoder = Encoder(resolve(settings["encoder"]), max_length=settings["max_length"])
            self.head = HelpfulnessHead(settings["width"], settings["hidden"])
            self.head.load_state_dict(load_file(folder / "head.safetensors"))
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise PoiseError(
                f"holds no helpfulness head ({type(error).__name__})",
                where=str(folder),
                do="train one: poise guard train-helpfulness",
            ) from error
        self.head.eval()
        self.version = hashlib.sha256((folder / "head.safetensors").read_bytes()).hexdigest()[:12]

    @torch.inference_mode()
    def score(
        self, prompts: Sequence[str], responses: Sequence[str], on_rows: Callable[[int], object] = ignore
    ) -> list[float]:
        """Helpfulness of each response, in order, comparable within a prompt only."""
        if not prompts:
            return []
        scores: list[float] = self.head(features(self.encoder, prompts, responses, on_rows))[:, 0].tolist()
        return scores
