"""The vocabulary: 19 harm categories, four severity levels, the label, the logical order, the written policy, and the
crosswalks to the category sets and severity scales of others.

Imports nothing but the standard library, so that every other room can stand on it.
"""

from poise.harm.category import CATEGORIES, Category
from poise.harm.crosswalk import (
    SETTING,
    Cell,
    Crosswalk,
    MappedScore,
    Relation,
    Translation,
    load_crosswalk,
    translate,
    translate_scores,
)
from poise.harm.guidelines import Guideline, guidelines, policy_version
from poise.harm.label import SAFE, Label
from poise.harm.order import decided_safer, violates_order
from poise.harm.severity import Severity
from poise.harm.taxonomy import (
    PKU,
    Taxonomy,
    TaxonomyCategory,
    load_taxonomy,
    map_severity,
    native_severity,
    severity_levels,
    severity_schemes,
    taxonomy_names,
)

__all__ = [
    "CATEGORIES",
    "PKU",
    "SAFE",
    "SETTING",
    "Category",
    "Cell",
    "Crosswalk",
    "Guideline",
    "Label",
    "MappedScore",
    "Relation",
    "Severity",
    "Taxonomy",
    "TaxonomyCategory",
    "Translation",
    "decided_safer",
    "guidelines",
    "load_crosswalk",
    "load_taxonomy",
    "map_severity",
    "native_severity",
    "policy_version",
    "severity_levels",
    "severity_schemes",
    "taxonomy_names",
    "translate",
    "translate_scores",
    "violates_order",
]
