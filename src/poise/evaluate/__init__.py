"""The evidence: metrics with intervals, agreement between raters, and the report page of a run.

`metrics` and `agreement` are pure; `report` turns plain values into one self-contained HTML page, with `plots`
drawing its SVGs. Judges and benchmarks call models and live with the stages that run them. `report` is not imported
here, because it brings the plotting library: `from poise.evaluate.report import render_report`.
"""

from poise.evaluate.agreement import RaterAgreement, cohen_kappa, krippendorff_alpha, rater_table
from poise.metrics import (
    BinaryReport,
    Interval,
    Reliability,
    auroc,
    average_precision,
    binary_report,
    bootstrap_mean,
    confusion,
    ece,
    macro_f1,
    mae,
    paired_difference,
    quadratic_weighted_kappa,
    reliability,
    violation_rate,
    wilson_interval,
)

__all__ = [
    "BinaryReport",
    "Interval",
    "RaterAgreement",
    "Reliability",
    "auroc",
    "average_precision",
    "binary_report",
    "bootstrap_mean",
    "cohen_kappa",
    "confusion",
    "ece",
    "krippendorff_alpha",
    "macro_f1",
    "mae",
    "paired_difference",
    "quadratic_weighted_kappa",
    "rater_table",
    "reliability",
    "violation_rate",
    "wilson_interval",
]
