"""Quality of a batch of labels: acceptance sampling, screening by a model, answers too fast, raters against themselves.

Pure functions on counts, arrays and judgement records; nothing here changes a label or leaves one out. Hidden checks
among the tasks of a store are drawn in `poise.annotate.store.probes`; `golds` (adding and reviewing gold items) and
`report` read and write stores and are imported by name, since the store itself needs `gold` and `policy`.
"""

from poise.annotate.quality.acceptance import Bounds, Decision, batch_bounds, clopper_pearson, decide, sample_size
from poise.annotate.quality.consistency import left_share, repeats, swaps
from poise.annotate.quality.screening import Chosen, Screened, choose, estimate
from poise.annotate.quality.timing import Timing, too_fast

__all__ = [
    "Bounds",
    "Chosen",
    "Decision",
    "Screened",
    "Timing",
    "batch_bounds",
    "choose",
    "clopper_pearson",
    "decide",
    "estimate",
    "left_share",
    "repeats",
    "sample_size",
    "swaps",
    "too_fast",
]
