"""From several raters' judgements to one: majority, Dawid-Skene, one coin, MACE; Bradley-Terry for preferences."""

from poise.annotate.aggregation.bradley_terry import Strengths, bradley_terry
from poise.annotate.aggregation.dawid_skene import dawid_skene
from poise.annotate.aggregation.em import Consensus
from poise.annotate.aggregation.mace import mace
from poise.annotate.aggregation.majority import majority
from poise.annotate.aggregation.one_coin import one_coin
from poise.annotate.aggregation.tables import METHODS, aggregate_tables

__all__ = [
    "METHODS",
    "Consensus",
    "Strengths",
    "aggregate_tables",
    "bradley_terry",
    "dawid_skene",
    "mace",
    "majority",
    "one_coin",
]
