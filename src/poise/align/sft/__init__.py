"""Supervised fine-tuning: a base model and an instruction file become a model that answers, as the paper's responders.

`instructions` reads the file, `templates` turns conversations into tokens and says which are learnt, `batches` puts
them together, `loss` weighs them, `training` is the loop, `weights` the model, `runs` the whole with its folders.
"""

from poise.align.sft.instructions import Instructions, read_instructions
from poise.align.sft.runs import Watch, fine_tune
from poise.align.sft.training import Settings

__all__ = ["Instructions", "Settings", "Watch", "fine_tune", "read_instructions"]
