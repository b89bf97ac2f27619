"""Expert ensembles (AEGIS): weights over guards that learn online, with bounds on regret."""

from poise.guard.ensemble.combiner import Combiner, Decision
from poise.guard.ensemble.guard import EnsembleGuard
from poise.guard.ensemble.hedge import Hedge, bandit_rate, horizon_rate

__all__ = ["Combiner", "Decision", "EnsembleGuard", "Hedge", "bandit_rate", "horizon_rate"]
