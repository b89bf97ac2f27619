"""How far raters agree: Krippendorff's alpha, Gwet's AC1 and AC2, kappas and percent, with intervals over items."""

from poise.annotate.agreement.alpha import alpha, alpha_sets
from poise.annotate.agreement.coefficients import cohen_kappa, confusion, fleiss_kappa, gwet_ac, percent
from poise.annotate.agreement.estimate import Estimate
from poise.annotate.agreement.ratings import RaterName, Ratings, ratings_of
from poise.annotate.agreement.reading import Question, read_questions
from poise.annotate.agreement.variables import Variable, variables

__all__ = [
    "Estimate",
    "Question",
    "RaterName",
    "Ratings",
    "Variable",
    "alpha",
    "alpha_sets",
    "cohen_kappa",
    "confusion",
    "fleiss_kappa",
    "gwet_ac",
    "percent",
    "ratings_of",
    "read_questions",
    "variables",
]
