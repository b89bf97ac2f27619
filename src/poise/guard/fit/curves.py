"""Reliability curves of a guard's heads: what share had the harm where the guard said p, before and after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import ArrayLike

from poise import metrics
from poise.harm import Category

BINS = 10
_COLUMNS = 5


def curve(p: ArrayLike, positive: ArrayLike) -> list[dict[str, Any]]:
    """Bins of equal mass, each with its mean probability, share of positives with a 95 % Wilson interval, and size."""
    bins = metrics.reliability(p, positive, BINS)
    found = []
    for prob, share, size in zip(bins.prob.tolist(), bins.positive.tolist(), bins.size.tolist(), strict=True):
        interval = metrics.wilson_interval(round(share * size), size)
        found.append({"p": prob, "share": share, "low": interval.low, "high": interval.high, "n": size})
    return found


def draw(path: Path, heads: Sequence[Mapping[str, Any]]) -> None:
    """One panel a head as PNG.

    Args:
        heads: each with head, method, n, positive, and before and after with ece and curve.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"font.size": 8, "axes.grid": True, "grid.color": "#e4e4df"}):
        rows = -(-len(heads) // _COLUMNS)
        figure = Figure(figsize=(2.5 * min(_COLUMNS, len(heads)), 2.7 * rows + 0.5), layout="constrained")
        panels = figure.subplots(rows, min(_COLUMNS, len(heads)), squeeze=False).ravel()
        for panel in panels[len(heads) :]:
            panel.set_axis_off()
        for panel, head in zip(panels, heads, strict=False):
            panel.plot([0, 1], [0, 1], color="#8b9198", linewidth=0.8)
            before, after = head["before"], head["after"]
            panel.plot(*_points(before["curve"]), "o--", markersize=2.5, linewidth=0.9, color="#9a5b13")
            x, share = _points(after["curve"])
            low = [max(0.0, entry["share"] - entry["low"]) for entry in after["curve"]]
            high = [max(0.0, entry["high"] - entry["share"]) for entry in after["curve"]]
            panel.errorbar(x, share, [low, high], fmt="o-", markersize=3, linewidth=1.1, color="#1f5f8b")
            panel.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
            panel.set_title(_title(head), fontsize=7.5)
            panel.text(
                0.03,
                0.97,
                f"ECE {before['ece']:.3f} to {after['ece']:.3f}\n{head['positive']} of {head['n']}",
                transform=panel.transAxes,
                va="top",
                fontsize=7,
            )
        figure.supxlabel("probability told (dashed: before; line: after, on rows that the map did not see)", fontsize=8)
        figure.supylabel("share with the harm", fontsize=8)
        figure.savefig(path, dpi=110, metadata={"Software": None})


def _points(curve: Sequence[Mapping[str, Any]]) -> tuple[list[float], list[float]]:
    return [entry["p"] for entry in curve], [entry["share"] for entry in curve]


def _title(head: Mapping[str, Any]) -> str:
    name = {"unsafe": "severity >= minor", "moderate": "severity >= moderate", "severe": "severity >= severe"}.get(
        head["head"], head["head"]
    )
    if name.startswith("S") and name[1:].isdecimal():
        title = Category.parse(name).value
        name = f"{name} {title if len(title) <= 26 else title[:24] + '...'}"
    return f"{name}\n{head['method']}"
