"""The picture of a run: loss of each step, and of the held-out answers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from poise.align.sft.training import Evaluation

_COLOURS = ("#9a5b13", "#1f5f8b")


def draw_losses(path: Path, steps: Sequence[dict[str, float]], evaluations: Sequence[Evaluation]) -> None:
    """Write an SVG: steps on the x axis, nats per learnt token on the y axis. The same run gives the same picture."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.hashsalt": "poise", "font.size": 9, "axes.grid": True, "grid.color": "#e4e4df"}):
        figure = Figure(figsize=(6.0, 3.4), layout="constrained")
        axes = figure.subplots()
        axes.plot(
            [entry["step"] for entry in steps],
            [entry["loss"] for entry in steps],
            color=_COLOURS[0],
            linewidth=1,
            alpha=0.8,
            label="training, each step",
        )
        if evaluations:
            axes.plot(
                [entry.step for entry in evaluations],
                [entry.loss for entry in evaluations],
                color=_COLOURS[1],
                marker="o",
                markersize=4,
                label=f"held out ({evaluations[0].targets:,} tokens)",
            )
        axes.set_xlabel("step")
        axes.set_ylabel("loss (nats per answer token)")
        axes.legend(frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
        figure.savefig(path, format="svg", metadata={"Date": None})
