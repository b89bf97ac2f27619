"""The loss of the learnt tokens: -sum log p(token | what stands before it in its own conversation).

It is returned as a sum with a count, so that a caller can weigh every token of an optimizer step alike, however the
step is cut into micro-batches. (The mean of the means of micro-batches, which many trainers take, gives a token of a
short answer more weight.)

The vocabulary head, the most costly layer of a small model, runs at learnt positions only and without ever keeping its
logits (`models.log_probs`), where that gives the model's own logits; a model that does more to its logits (a cap, a
scale) is run whole. Whether packed rows work is tried out too, on the model itself.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from poise.align.sft.batches import IGNORED, Batch, attention_mask, collate
from poise.align.sft.templates import Example
from poise.errors import PoiseError
from poise.models.log_probs import split_decoder, token_log_probs


class TokenLoss:
    """Computes the loss of batches with one model.

    Args:
        model: a Transformers causal LM, on its device; adapters inside it are used.
        autocast: multiply in bfloat16.
    """

    def __init__(self, model: Any, autocast: bool) -> None:
        self.model, self.device = model, next(model.parameters()).device
        self._autocast = autocast
        self._bool_mask = getattr(model.config, "_attn_implementation", "") == "sdpa"
        with self._format():
            self._decoder: Any = split_decoder(model)

    def __call__(self, batch: Batch) -> tuple[Tensor, int]:
        """The summed loss, float32 scalar in nats, and the number of learnt tokens."""
        batch = batch.to(self.device)
        with self._format():
            chosen = batch.labels[:, 1:] != IGNORED
            targets = batch.labels[:, 1:][chosen]
            if self._decoder is None:
                logits = self.model(**self._inputs(batch)).logits[:, :-1][chosen]
                return cross_entropy(logits.float(), targets, reduction="sum"), len(targets)
            states = self._decoder(**self._inputs(batch)).last_hidden_state[:, :-1][chosen]
            return -token_log_probs(states, self.model.get_output_embeddings().weight, targets).sum(), len(targets)

    def check_packing(self, max_length: int, where: str) -> None:
        """Make sure that an example costs the same beside another one, beside a third, and alone.

        Raises:
            PoiseError: it does not, or its attention window is shorter than a row.
        """
        window = getattr(self.model.config, "sliding_window", None)
        if window and window < max_length:
            raise PoiseError(
                f"its attention window of {window} tokens is shorter than a packed row of {max_length}",
                where=where,
                do="use --padded, or a smaller --max-length",
            )
        size = self.model.config.vocab_size
        learnt, one, other = (
            Example([(7 * at + start) % size for at in range(9)], [start == 3] * 9, False) for start in (3, 5, 11)
        )
        was_training = self.model.training
        self.model.eval()
        try:
            with torch.no_grad():
                rows = [([one, learnt], [0, 1]), ([other, learnt], [0, 1]), ([learnt], [0])]
                first, second, alone = (float(self(collate(examples, [row], 0))[0]) for examples, row in rows)
        except (TypeError, ValueError, RuntimeError) as error:
            raise _unpackable(where) from error
        finally:
            self.model.train(was_training)
        if abs(first - second) > 1e-3 * abs(alone) or abs(first - alone) > 2e-2 * abs(alone):
            raise _unpackable(where)

    def _inputs(self, batch: Batch) -> dict[str, Any]:
        """Right padding and causal attention need no mask; packed rows need one and their positions."""
        inputs: dict[str, Any] = {"input_ids": batch.ids, "use_cache": False}
        if batch.segments is not None:
            seen = attention_mask(batch.segments)
            if not self._bool_mask:
                dtype = torch.bfloat16 if self._autocast else self.model.dtype
                seen = torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill(
                    ~seen, torch.finfo(dtype).min
                )
            inputs |= {"attention_mask": seen, "position_ids": batch.positions}
        return inputs

    def _format(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self._autocast)


def _unpackable(where: str) -> PoiseError:
    return PoiseError("the model can't keep packed examples apart", where=where, do="use --padded")
