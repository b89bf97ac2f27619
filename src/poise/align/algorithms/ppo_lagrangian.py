"""PPO-Lagrangian, the algorithm of Safe RLHF (Dai et al., arXiv 2310.12773, section 3.3 and appendix B.3).

    max over theta, min over lambda >= 0 of   E[R] - lambda (E[C] - d)

One step, in the paper's order:

1. roll out responses y ~ pi_theta(. | x);
2. score them with the reward model R and the cost model C, at the end of the response;
3. token signals r_t = -beta kl_t + R at the end, c_t = +beta kl_t + C at the end   (`core.token_signals`);
4. advantages A_r, A_c by GAE with the reward critic and the cost critic            (`core.gae`);
5. ln lambda <- ln lambda + eta lambda (J_C - d)                                    (`multiplier.LogMultiplier`);
6. A = (A_r - lambda A_c) / (1 + lambda)                                            (`core.combine`);
7. clipped PPO step on the actor, clipped value steps on both critics               (`core.surrogate`).

With several constraints there is a cost, a critic and a lambda for each, and 6 sums over them.
This file holds 3, 4 and 6; the engine rolls out, scores and applies gradients. What is left out: the PTX term.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from poise.align.core import Advantage, combine, gae, token_signal, token_signals


class Experience(NamedTuple):
    """What the engine measured on one rollout of B responses.

    Args:
        reward, cost: sequence scores float[B]; reward higher is better, cost higher is worse, cost < 0 is safe.
        log_prob, reference_log_prob: of the sampled tokens under actor and reference, float[B, T].
        value_reward, value_cost: critics before each response token, float[B, T]; float[B, 0] where a method has none.
        mask: bool[B, T], true at response tokens.
    """

    reward: Tensor
    cost: Tensor
    log_prob: Tensor
    reference_log_prob: Tensor
    value_reward: Tensor
    value_cost: Tensor
    mask: Tensor


class Targets(NamedTuple):
    """What the actor and the two critics learn from, float[B, T] each."""

    advantage: Tensor
    returns_reward: Tensor
    returns_cost: Tensor


class PPOLagrangian(NamedTuple):
    """Constants of the algorithm. Args: kl is beta; gamma and lam are those of GAE; clips as published."""

    kl: float = 0.02
    gamma: float = 1.0
    lam: float = 0.95
    score_clip: float = 50.0

    def targets(self, experience: Experience, multiplier: float | Tensor) -> Targets:
        """Advantage of the actor and returns of both critics at the multiplier lambda >= 0, or float[B, 1] of them."""
        return self.several(experience, (), [multiplier])[0]

    def several(
        self,
        experience: Experience,
        further: Sequence[tuple[Tensor, Tensor]],
        multipliers: Sequence[float | Tensor],
    ) -> tuple[Targets, list[Tensor]]:
        """As `targets` under 1 + K constraints, each with a cost model and a critic of its own.

        Args:
            experience: with the first constraint's cost and values.
            further: (sequence scores float[B], values float[B, T]) of the K others.
            multipliers: lambda >= 0, or float[B, 1], of the first and of the K others.

        Returns:
            The targets, and the returns float[B, T] of the K other cost critics.
        """
        e = experience
        signals = token_signals(e.reward, e.cost, e.log_prob, e.reference_log_prob, e.mask, self.kl, self.score_clip)
        reward: Advantage = gae(signals.reward, e.value_reward, e.mask, self.gamma, self.lam)
        costs: list[Advantage] = [gae(signals.cost, e.value_cost, e.mask, self.gamma, self.lam)]
        for cost, value in further:
            penalty = self.kl * (e.log_prob - e.reference_log_prob)
            signal = token_signal(cost, penalty, e.mask, self.score_clip)
            costs.append(gae(signal, value, e.mask, self.gamma, self.lam))
        advantage = combine(reward.advantage, [each.advantage for each in costs], list(multipliers))
        return Targets(advantage, reward.returns, costs[0].returns), [each.returns for each in costs[1:]]
