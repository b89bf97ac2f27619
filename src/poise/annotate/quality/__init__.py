"""Quality of labels that people gave: acceptance of a batch after a random check of some of its items."""

from poise.annotate.quality.acceptance import Decision, decide, sample_size, upper_bound

__all__ = ["Decision", "decide", "sample_size", "upper_bound"]
