"""Experts that are combined round by round, while the truth arrives late, out of order, or for the served expert alone.

    combiner = Combiner(["starter", "llama-guard-3"])
    decision = combiner.decide("item-1", [0.2, 0.9])
    combiner.learn("item-1", unsafe=True)           # an hour later

An expert's loss is |P(unsafe) - truth|, linear in the advice, so the loss of the weighted mean is the weighted mean of
the losses and the bounds of `poise.guard.ensemble.hedge` hold as they stand. An expert without a verdict sleeps: the
others share out its weight for that round. A round that nobody learns of teaches nothing; the oldest of more than
`most_pending` waiting rounds are forgotten. The state is JSON; a restarted combiner goes on as if it had never stopped.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from poise.data.folders import disk_error
from poise.data.rows import uniform_seed
from poise.errors import PoiseError
from poise.guard.ensemble.hedge import Floats, Hedge, Rate

_VERSION = 1
Advice = Sequence[float | None]
"""P(unsafe) of each expert; None for one that abstains."""


class Decision(NamedTuple):
    """What is served.

    Args:
        probability: P(unsafe); None when every expert abstains.
        weights: float[N] of the experts in this round.
        served: the expert whose advice is served, with bandit feedback.
    """

    probability: float | None
    weights: Floats
    served: str | None = None


class _Pending(NamedTuple):
    """A round that waits for its truth: its advice and, with bandit feedback, who was drawn with which chance."""

    advice: list[float | None]
    served: int | None = None
    chance: float = 1.0


class Combiner:
    """Named experts under one set of weights.

    Args:
        experts: their names, in the order of the advice.
        rate, share: as `Hedge`.
        exploration: gamma in [0, 1) turns bandit feedback on: one expert is drawn and served, and its loss alone
            counts; needs a fixed rate. None: all losses are known once the truth is.
        seed: of the draws, each a hash of it and the round's name.
        most_pending: rounds kept for a truth that may come.

    Raises:
        PoiseError: a name twice, settings that do not go together, or what `Hedge` raises.
    """

    def __init__(
        self,
        experts: Sequence[str],
        *,
        rate: Rate = "adahedge",
        share: float = 0.0,
        exploration: float | None = None,
        seed: int = 0,
        most_pending: int = 100_000,
    ) -> None:
        if len(set(experts)) < len(experts):
            raise PoiseError("an expert is named twice", where=", ".join(experts), do="name each once")
        if exploration is not None and (isinstance(rate, str) or not 0.0 <= exploration < 1.0):
            raise PoiseError(
                f"exploration {exploration} with rate {rate!r}",
                where="ensemble",
                do="give 0 <= it < 1 and a fixed rate",
            )
        self.experts, self.hedge = tuple(experts), Hedge(len(experts), rate, share)
        self.exploration, self.seed, self.most_pending = exploration, seed, most_pending
        self._pending: dict[str, _Pending] = {}

    @property
    def pending(self) -> int:
        """Rounds that wait for their truth."""
        return len(self._pending)

    def decide(self, round_id: str, advice: Advice) -> Decision:
        """Serve a round and remember it; one that waits already under this name is replaced.

        Raises:
            PoiseError: advice outside [0, 1], or another number of experts.
        """
        given = [None if p is None else float(p) for p in advice]
        if len(given) != len(self.experts) or not all(p is None or 0.0 <= p <= 1.0 for p in given):
            raise PoiseError(f"advice {given}", where="ensemble", do="give P(unsafe) or None for each expert")
        awake = np.array([p is not None for p in given])
        weights = self.hedge.weights(awake)
        self._pending.pop(round_id, None)
        if not awake.any():
            return Decision(None, weights)
        values = np.array([p or 0.0 for p in given])
        if self.exploration is None:
            self._remember(round_id, _Pending(given))
            return Decision(min(1.0, float(weights @ values)), weights)
        chances = (1.0 - self.exploration) * weights + self.exploration * awake / awake.sum()
        draw = np.random.default_rng(uniform_seed(self.seed, round_id, "expert"))
        served = int(draw.choice(len(values), p=chances / chances.sum()))
        self._remember(round_id, _Pending(given, served, float(chances[served])))
        return Decision(float(values[served]), chances, self.experts[served])

    def learn(self, round_id: str, *, unsafe: bool) -> bool:
        """Take in the truth of a round; false when no such round waits (never decided, learnt before, forgotten)."""
        waiting = self._pending.pop(round_id, None)
        if waiting is None:
            return False
        advice = np.array([math.nan if p is None else p for p in waiting.advice])
        losses = np.abs(advice - float(unsafe))
        if waiting.served is None:
            self.hedge.update(losses)
            return True
        estimates = np.where(np.isnan(losses), math.nan, 0.0)
        estimates[waiting.served] = losses[waiting.served] / waiting.chance
        self.hedge.update_estimate(estimates)
        return True

    def _remember(self, round_id: str, waiting: _Pending) -> None:
        self._pending[round_id] = waiting
        while len(self._pending) > self.most_pending:
            del self._pending[next(iter(self._pending))]

    def state_dict(self) -> dict[str, Any]:
        """Weights, waiting rounds and the settings that they belong to, as JSON values."""
        return {
            "version": _VERSION,
            "settings": self._settings(),
            "hedge": self.hedge.state_dict(),
            "pending": {name: list(waiting) for name, waiting in self._pending.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there.

        Raises:
            PoiseError: the state belongs to other experts or settings, or is none.
        """
        if state.get("version") != _VERSION or state.get("settings") != self._settings():
            raise PoiseError(
                f"a state of {state.get('settings')} for {self._settings()}",
                where="ensemble",
                do="name the same experts and settings, or start anew",
            )
        try:
            pending = {str(name): _Pending(*waiting) for name, waiting in state["pending"].items()}
            if any(len(waiting.advice) != len(self.experts) for waiting in pending.values()):
                raise ValueError("a waiting round of other experts")
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise PoiseError(f"no state of an ensemble ({error})", where="ensemble", do="start anew") from error
        self.hedge.load_state_dict(state.get("hedge", {}))
        self._pending = pending

    def save(self, path: Path) -> None:
        """Write the state; the file is whole at any moment.

        Raises:
            PoiseError: it can't be written.
        """
        partial = path.with_name(f".{path.name}.partial")
        try:
            with partial.open("w", encoding="utf-8") as file:
                json.dump(self.state_dict(), file)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        except OSError as error:
            raise disk_error(error, path) from error

    def load(self, path: Path) -> None:
        """Go on from what `save` wrote.

        Raises:
            PoiseError: there is no such file, or as `load_state_dict`.
        """
        try:
            state = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise PoiseError(f"no state ({error})", where=str(path), do="start anew without it") from error
        if not isinstance(state, dict):
            raise PoiseError("no state of an ensemble", where=str(path), do="start anew without it")
        self.load_state_dict(state)

    def _settings(self) -> dict[str, Any]:
        return {
            "experts": list(self.experts),
            "rate": self.hedge.rate,
            "share": self.hedge.share,
            "exploration": self.exploration,
            "seed": self.seed,
        }
