"""Labelling: raters, and how their scores become judgements that keep the logical order."""

from poise.annotate.derive import label_judgement, pair_judgements
from poise.annotate.rater import QAScore, ScoringRater

__all__ = ["QAScore", "ScoringRater", "label_judgement", "pair_judgements"]
