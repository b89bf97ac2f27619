"""A share as an audit tells it: with its numerator, its denominator and a 95% Wilson interval."""

from __future__ import annotations

from typing import Any

from poise.data.audit.labels import Bools, Ints
from poise.metrics import wilson_interval

Json = dict[str, Any]


def share(part: int, whole: int) -> Json | None:
    """{"share", "count", "of", "low", "high"}; None of nothing, so that it never reads as 0."""
    if not whole:
        return None
    interval = wilson_interval(part, whole)
    return {"share": part / whole, "count": part, "of": whole, "low": interval.low, "high": interval.high}


def share_of(hit: Bools, among: Bools, n: Ints) -> Json | None:
    """The share of `hit` among `among`, where each of M entries stands for `n` rows; all of shape (M,)."""
    return share(int(n[hit & among].sum()), int(n[among].sum()))
