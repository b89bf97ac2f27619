"""The joint report: how good people, models and both together are, and how far suggestions move people.

What is drawn and shown is the store's matter (`poise.annotate.store.joint`, `showing`); here it is read and estimated.
"""

from poise.annotate.joint.report import report

__all__ = ["report"]
