"""The vocabulary: 19 harm categories, four severity levels, the label, the logical order, the written policy.

Imports nothing but the standard library, so that every other room can stand on it.
"""

from poise.harm.category import CATEGORIES, Category
from poise.harm.guidelines import Guideline, guidelines, policy_version
from poise.harm.label import SAFE, Label
from poise.harm.order import decided_safer, violates_order
from poise.harm.severity import Severity

__all__ = [
    "CATEGORIES",
    "SAFE",
    "Category",
    "Guideline",
    "Label",
    "Severity",
    "decided_safer",
    "guidelines",
    "policy_version",
    "violates_order",
]
