"""The picture of a run.

Offline: loss, and the share of pairs that the policy orders as the labels do. Online: what Safe RLHF's figures show,
reward, cost, the multiplier and the divergence from the reference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from poise.data.figures import GRID, MUTED, STYLE

_TRAINED, _HELD_OUT = "#9a5b13", "#1f5f8b"
_LABELS = {"loss": "loss", "accuracy": "accuracy"}


def draw_curves(path: Path, history: Sequence[dict[str, Any]], evaluations: Sequence[dict[str, Any]]) -> None:
    """Write an SVG with a panel for each measure; phases stand one after another. The same run, the same bytes."""
    import matplotlib
    from matplotlib.figure import Figure

    phases = list(dict.fromkeys(entry["phase"] for entry in history))
    starts, at = {}, 0
    for phase in phases:
        starts[phase] = at
        at += sum(entry["phase"] == phase for entry in history)
    panels = [name for name in _LABELS if name in history[0]]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(3.6 * len(panels) + 0.6, 3.0), layout="constrained")
        for axes, name in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
            axes.plot(
                [starts[entry["phase"]] + entry["step"] for entry in history],
                [entry[name] for entry in history],
                color=_TRAINED,
                linewidth=1,
                label="each step",
            )
            if evaluations:
                axes.plot(
                    [starts[entry["phase"]] + entry["step"] for entry in evaluations],
                    [entry[name] for entry in evaluations],
                    color=_HELD_OUT,
                    marker="o",
                    markersize=4,
                    linestyle="" if len(phases) > 1 else "-",
                    label=f"held out ({evaluations[0]['items']:,})",
                )
            for phase in phases:
                if starts[phase]:
                    axes.axvline(starts[phase], color=MUTED, linewidth=0.8, linestyle=":")
            axes.grid(True, color=GRID)
            axes.set_xlabel("step" if len(phases) == 1 else f"step ({', then '.join(phases)})")
            axes.set_ylabel(_LABELS[name])
            axes.legend()
        figure.savefig(path, format="svg", metadata={"Date": None})


def draw_online(
    path: Path, history: Sequence[dict[str, Any]], threshold: float | None, limits: Mapping[str, float] | None = None
) -> None:
    """Write an SVG with four panels over the steps; a dotted line where the cost shall stay below.

    Args:
        limits: threshold of each of several constraints, whose costs and multipliers are drawn by name then.
    """
    import matplotlib
    from matplotlib.figure import Figure

    panels = {"reward": "reward", "cost": "cost", "multiplier": "multiplier", "kl": "KL to the reference (nats)"}
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.6, 4.6), layout="constrained")
        for axes, (name, label) in zip(figure.subplots(2, 2).flat, panels.items(), strict=True):
            if limits and name in ("cost", "multiplier"):
                _several(axes, history, name, limits)
            else:
                steps = [row["step"] + 1 for row in history]
                axes.plot(steps, [row[name] for row in history], color=_TRAINED, linewidth=1)
            if name == "cost" and threshold is not None:
                axes.axhline(threshold, color=MUTED, linewidth=0.8, linestyle=":")
            axes.grid(True, color=GRID)
            axes.set_xlabel("step")
            axes.set_ylabel(label)
        figure.savefig(path, format="svg", metadata={"Date": None})


def _several(axes: Any, history: Sequence[dict[str, Any]], name: str, limits: Mapping[str, float]) -> None:
    """A line for each constraint, with gaps where a step had none of its prompts, and its limit in the same colour."""
    for at, (constraint, limit) in enumerate(limits.items()):
        values = [row.get(f"{name}_{constraint}", float("nan")) for row in history]
        look = {"color": f"C{at}", "linewidth": 1}
        axes.plot([row["step"] + 1 for row in history], values, marker=".", markersize=3, label=constraint, **look)
        if name == "cost":
            axes.axhline(limit, color=f"C{at}", linewidth=0.8, linestyle=":")
    axes.legend()
