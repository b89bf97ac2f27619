"""Preference models: the reward model (what helps) and the cost model (what harms), two adapters on one trunk."""

from poise.preference.losses import PreferenceLoss, cost_loss, reward_loss

__all__ = ["PreferenceLoss", "cost_loss", "reward_loss"]
