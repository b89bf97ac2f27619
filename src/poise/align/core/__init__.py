"""Pure maths of constrained RL: tensors and numbers in, tensors out; no device, no logging, no configuration."""

from poise.align.core.advantages import Advantage, TokenSignals, center, combine, gae, token_signals
from poise.align.core.masked import masked_mean
from poise.align.core.surrogate import actor_loss, critic_loss

__all__ = [
    "Advantage",
    "TokenSignals",
    "actor_loss",
    "center",
    "combine",
    "critic_loss",
    "gae",
    "masked_mean",
    "token_signals",
]
