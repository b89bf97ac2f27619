"""The local engine: rollouts, scores and gradients on one shared trunk in this process.

`train_online` runs any method of `ONLINE`; `local` is the loop, `methods` what a method does with a rollout,
`constraints` what is kept below a threshold, `evaluation` and `ptx` what stands beside.
"""

from poise.align.engine.constraints import Constraint
from poise.align.engine.evaluation import EvalPrompt, Evaluation
from poise.align.engine.local import LocalLoop
from poise.align.engine.methods import ONLINE, Algorithm, online_roles
from poise.align.engine.online import OnlineResult, train_online
from poise.align.engine.ptx import PTX
from poise.align.engine.rollout import ScoreScale
from poise.align.engine.settings import LoopSettings

__all__ = [
    "Algorithm",
    "Constraint",
    "EvalPrompt",
    "Evaluation",
    "LocalLoop",
    "LoopSettings",
    "ONLINE",
    "OnlineResult",
    "PTX",
    "ScoreScale",
    "online_roles",
    "train_online",
]
