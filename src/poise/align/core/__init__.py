"""Pure maths of constrained RL: tensors and numbers in, tensors out; no device, no logging, no configuration."""

from poise.align.core.advantages import Advantage, TokenSignals, center, combine, gae, token_signal, token_signals
from poise.align.core.groups import batch_scaled, group_mean, group_normalized, leave_one_out, spread
from poise.align.core.kl import KL_ESTIMATORS, kl_k1, kl_k2, kl_k3
from poise.align.core.log_probs import response_log_probs, token_log_probs
from poise.align.core.masked import masked_mean, sequence_log_probs, token_mean
from poise.align.core.surrogate import actor_loss, critic_loss, sequence_actor_loss

__all__ = [
    "Advantage",
    "KL_ESTIMATORS",
    "TokenSignals",
    "actor_loss",
    "batch_scaled",
    "center",
    "combine",
    "critic_loss",
    "gae",
    "group_mean",
    "group_normalized",
    "kl_k1",
    "kl_k2",
    "kl_k3",
    "leave_one_out",
    "masked_mean",
    "response_log_probs",
    "sequence_actor_loss",
    "sequence_log_probs",
    "spread",
    "token_log_probs",
    "token_mean",
    "token_signal",
    "token_signals",
]
