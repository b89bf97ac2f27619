"""Models behind endpoints as raters: versioned rubrics, both orders, probabilities where there are any."""

from poise.annotate.ai.judging import LabelTask, RankTask, judge_tables
from poise.annotate.ai.rater import EndpointRater
from poise.annotate.ai.rubrics import AXES, Rubric, label_rubric, pair_rubric

__all__ = ["AXES", "EndpointRater", "LabelTask", "RankTask", "Rubric", "judge_tables", "label_rubric", "pair_rubric"]
