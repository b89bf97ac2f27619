r"""Prediction with expert advice: weights that learn online which expert to follow, with a bound on regret.

Each round the experts' losses l_t in [0, 1]^N become known, or become known later, or only one of them does. The
weights are p_{t,i} proportional to exp(-eta L_{t-1,i}) with cumulative losses L (Freund & Schapire 1997; in this form
Cesa-Bianchi & Lugosi 2006, "PLG", section 2.2). AEGIS (arXiv 2404.05993) combines safety experts this way; its text
states no algorithm, so this is the textbook instance. For every sequence of losses, with regret
R_T = sum_t p_t . l_t - min_i L_{T,i}:

* fixed rate: R_T <= ln N / eta + eta T / 8 (PLG theorem 2.2); eta = sqrt(8 ln N / T) gives sqrt(T ln N / 2).
* anytime, eta_t = sqrt(8 ln N / t): R_T <= 2 sqrt(T ln N / 2) + sqrt(ln N / 8) (PLG theorem 2.3).
* AdaHedge, eta_t = ln N / Delta_{t-1}, Delta the sum of mixability gaps: R_T <= sqrt(T ln N) + 4/3 ln N + 2 (de Rooij
  et al. 2014, theorem 6 with V_T <= T/4).
* fixed share alpha (Herbster & Warmuth 1998, in the form of PLG section 5.2), against any sequence of experts that
  switches m times: R <= ((m+1) ln N + m ln(1/alpha) + (T-m-1) ln(1/(1-alpha))) / eta + eta T / 8.
* sleeping experts: one that abstains keeps its share, the others share out what is theirs (Freund et al. 1997). For
  each i, over the T_i rounds in which it was awake: sum_{awake} (p_t . l_t - l_{t,i}) <= ln N / eta + eta T_i / 8.
* delays: when round t is decided without the losses of d_t earlier rounds, each one missing moves p_t . l_t by at most
  eta / 4 (its derivative is a covariance of two variables in [0, 1]), so with D = sum_t d_t
  R_T <= ln N / eta + eta (T + 2 D) / 8. The order is that of Joulani et al. 2016.
* bandit feedback (EXP3, Auer et al. 2002): one expert is drawn from q = (1 - gamma) p + gamma / N and only its loss is
  known; l_i / q_i stands for it and 0 for the others. As p_i / q_i <= 1 / (1 - gamma), in expectation
  R_T <= gamma T + ln N / eta + eta N T / (2 (1 - gamma)).

A sleeper and a share depend on the order in which feedback arrives; with delays only the last bound holds, for neither.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from poise.errors import PoiseError

Floats = npt.NDArray[np.float64]
Rate = float | Literal["anytime", "adahedge"]


def horizon_rate(experts: int, rounds: int, delay: float = 0.0) -> float:
    """The best fixed rate for `rounds` rounds: sqrt(8 ln N / (T + 2 D)).

    Args:
        delay: sum over all rounds of earlier rounds whose losses were missing, D.
    """
    return math.sqrt(8.0 * math.log(max(2, experts)) / (rounds + 2.0 * delay))


def bandit_rate(experts: int, rounds: int, exploration: float = 0.0) -> float:
    """The best fixed rate where only the served expert's loss is known: sqrt(2 (1 - gamma) ln N / (N T))."""
    return math.sqrt(2.0 * (1.0 - exploration) * math.log(max(2, experts)) / (experts * rounds))


class Hedge:
    """Weights over N experts.

    Args:
        experts: N >= 1.
        rate: eta, or how it follows from the rounds so far.
        share: alpha in [0, 1): what each round is shared out evenly, so that a fallen expert can come back.

    Raises:
        PoiseError: no expert, a rate that is not positive, a share outside [0, 1), or a share with a moving rate.
    """

    def __init__(self, experts: int, rate: Rate = "adahedge", share: float = 0.0) -> None:
        if experts < 1:
            raise PoiseError(f"{experts} experts", where="ensemble", do="name one at least")
        if rate not in ("anytime", "adahedge") and not (isinstance(rate, float | int) and 0 < rate < math.inf):
            raise PoiseError(f"rate {rate!r}", where="ensemble", do='give a positive number, "anytime" or "adahedge"')
        if not 0.0 <= share < 1.0:
            raise PoiseError(f"share {share}", where="ensemble", do="give 0 <= share < 1")
        if share and isinstance(rate, str):
            raise PoiseError(f"share with rate {rate!r}", where="ensemble", do="give a fixed rate, see horizon_rate")
        self.rate, self.share = rate, share
        self.losses: Floats = np.zeros(experts)
        """Cumulative losses float[N]; of a sleeper the loss of the mixture."""
        self.gap = 0.0
        """Sum of the mixability gaps, Delta."""
        self.rounds = 0

    @property
    def eta(self) -> float:
        """The rate of the coming round; infinite for AdaHedge until experts differ."""
        if not isinstance(self.rate, str):
            return float(self.rate)
        log_n = math.log(max(2, len(self.losses)))
        if self.rate == "anytime":
            return math.sqrt(8.0 * log_n / (self.rounds + 1))
        return log_n / self.gap if self.gap > 0 else math.inf

    def weights(self, awake: npt.NDArray[np.bool_] | None = None) -> Floats:
        """p float[N] of the coming round, summing to one over those awake, 0 for the others.

        Args:
            awake: bool[N]; None: all. All zeros come back when nobody is.
        """
        awake = np.ones(len(self.losses), bool) if awake is None else awake
        if not awake.any():
            return np.zeros(len(self.losses))
        shifted = np.where(awake, self.losses - self.losses[awake].min(), 0.0)
        if math.isinf(self.eta):
            raw = np.where(awake & (shifted == 0), 1.0, 0.0)
        else:
            raw = np.where(awake, np.exp(-self.eta * shifted), 0.0)
        weights: Floats = raw / raw.sum()
        return weights

    def update(self, losses: Floats) -> float:
        """Take in the losses of a round; returns the loss of the mixture, p . l.

        Args:
            losses: float[N] in [0, 1]; nan for an expert that abstained.

        Raises:
            PoiseError: a loss outside [0, 1] or another number of them.
        """
        awake = ~np.isnan(losses)
        if losses.shape != self.losses.shape or not ((losses[awake] >= 0) & (losses[awake] <= 1)).all():
            raise PoiseError(f"losses {losses.tolist()}", where="ensemble", do="give one in 0..1 for each expert")
        return self._move(np.where(awake, losses, 0.0), awake)

    def update_estimate(self, losses: Floats) -> float:
        """`update` by importance-weighted losses, which may exceed 1; for bandit feedback and a fixed rate."""
        awake = ~np.isnan(losses)
        return self._move(np.where(awake, losses, 0.0), awake)

    def _move(self, losses: Floats, awake: npt.NDArray[np.bool_]) -> float:
        if not awake.any():
            return math.nan
        weights, eta = self.weights(awake), self.eta
        self.rounds += 1
        mean = float(weights @ losses)
        mix = self._mix(weights, losses, eta)
        self.gap += max(0.0, mean - mix)
        self.losses = self.losses + np.where(awake, losses, mix)
        if self.share:
            kept = np.log1p(-self.share) - eta * (self.losses - self.losses.min())
            spread = math.log(self.share) + _log_mean(-eta * (self.losses - self.losses.min()))
            self.losses = -np.logaddexp(kept, spread) / eta
        self.losses -= self.losses.min()  # only differences matter; keeps them exact in a long life
        return mean

    @staticmethod
    def _mix(weights: Floats, losses: Floats, eta: float) -> float:
        """The mix loss -ln(sum_i p_i exp(-eta l_i)) / eta; the least loss in the limit."""
        alive = weights > 0
        least = float(losses[alive].min())
        if math.isinf(eta):
            return least
        return least - math.log(float(weights[alive] @ np.exp(-eta * (losses[alive] - least)))) / eta

    def state_dict(self) -> dict[str, Any]:
        """All that changes, as JSON values; floats come back bit by bit."""
        return {"losses": self.losses.tolist(), "gap": self.gap, "rounds": self.rounds}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there.

        Raises:
            PoiseError: another number of experts, or no state at all.
        """
        try:
            losses, gap, rounds = np.array(state["losses"], float), float(state["gap"]), int(state["rounds"])
        except (KeyError, TypeError, ValueError) as error:
            raise PoiseError(f"no state of weights ({error})", where="ensemble", do="start anew") from error
        if losses.shape != self.losses.shape or not np.isfinite(losses).all() or not math.isfinite(gap):
            raise PoiseError(
                f"state of {losses.size} experts for {self.losses.size}", where="ensemble", do="name the same experts"
            )
        self.losses, self.gap, self.rounds = losses, gap, rounds


def _log_mean(logs: Floats) -> float:
    """ln of the mean of exp(logs)."""
    top = float(logs.max())
    return top + math.log(float(np.exp(logs - top).mean()))
