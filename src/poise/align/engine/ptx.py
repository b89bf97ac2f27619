"""The PTX term: supervised fine-tuning beside the constrained objective, so that the actor keeps what it could.

    L = L_actor + gamma L_SFT     (Ouyang et al., arXiv 2203.02155, eq. 2; Safe RLHF, arXiv 2310.12773, appendix B.3)

L_SFT is the mean over the response tokens of the step's rows. Its gradient is added to the actor's before the one
optimizer step. Which rows a step sees is a hash of seed and step, so a resumed run sees the same.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from poise.data.rows import uniform_seed
from poise.errors import PoiseError
from poise.models.trunk import Tokens, Trunk, collate


class PTX(NamedTuple):
    """Args: rows (prompt ids, response ids with the end token); coefficient, gamma > 0; rows of each gradient step."""

    rows: Sequence[tuple[Sequence[int], Sequence[int]]]
    coefficient: float
    rows_per_step: int = 8

    def checked(self) -> PTX:
        """Itself.

        Raises:
            PoiseError: no row, a row without prompt or response, a coefficient or number of rows that isn't positive.
        """
        if not self.rows or not all(prompt and response for prompt, response in self.rows):
            raise PoiseError(f"{len(self.rows)} rows, some without prompt or response", where="ptx", do="mend the rows")
        if not self.coefficient > 0 or self.rows_per_step < 1:
            what = f"coefficient is {self.coefficient}, rows per step {self.rows_per_step}"
            raise PoiseError(what, where="ptx", do="give positive numbers, or leave the PTX term out")
        return self

    def identity(self) -> str:
        """What must be the same in a run that continues; the rows by a digest of their ids, in order."""
        digest = hashlib.sha256()
        for row in self.rows:
            digest.update(json.dumps([[int(token) for token in part] for part in row]).encode())
        return f"{len(self.rows)} rows ({digest.hexdigest()[:16]}), {self[1:]}"

    def chosen(self, seed: int, step: int) -> list[int]:
        """Places of the rows of one gradient step, shortest first."""
        count = len(self.rows)
        places = [uniform_seed(seed, "ptx", str(step), str(i)) % count for i in range(self.rows_per_step)]
        return sorted(places, key=lambda i: len(self.rows[i][0]) + len(self.rows[i][1]))

    def losses(self, trunk: Trunk, seed: int, step: int, rows: int) -> Iterator[Tensor]:
        """gamma times the mean loss of response tokens, in parts of at most `rows` rows that add up to it."""
        chosen = self.chosen(seed, step)
        tokens = sum(len(self.rows[i][1]) for i in chosen)
        for at in range(0, len(chosen), rows):
            part = [self.rows[i] for i in chosen[at : at + rows]]
            batch = collate([prompt for prompt, _ in part], [response for _, response in part], trunk.device)
            yield self.coefficient / tokens * _negative_log_likelihood(trunk, batch)


def _negative_log_likelihood(trunk: Trunk, batch: Tokens) -> Tensor:
    """Scalar sum over the response tokens, in nats."""
    hidden = trunk.upper(trunk.lower(batch.ids), "actor")
    log_prob = trunk.response_log_probs(hidden, batch)
    return -torch.where(batch.response, log_prob, 0.0).sum()
