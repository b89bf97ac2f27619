"""The picture of a pair of preference models: costs by label, calibration, accuracy by rung, and length."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from poise.data.figures import INK, MUTED, STYLE
from poise.metrics import Floats

_SAFE, _UNSAFE, _REWARD = "#1f5f8b", "#b3261e", "#9a5b13"


def draw(
    path: Path, measured: Mapping[str, Any], costs: Floats, unsafe: Floats, threshold: float, part: str = ""
) -> None:
    """Write an SVG of four panels; the same numbers give the same bytes.

    Args:
        measured: what `measures.measure` gives.
        costs: float[N] of labelled responses, in spreads.
        unsafe: bool[N].
        threshold: of the mean cost, in spreads.
        part: of the policy that the cost model speaks of, in words; empty for all of it.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE | {"axes.grid": True}):
        figure = Figure(figsize=(8.4, 6.2), layout="constrained")
        panels = figure.subplots(2, 2)
        _costs(panels[0, 0], costs, np.asarray(unsafe, dtype=bool), threshold, part)
        _calibration(panels[0, 1], measured["cost"])
        _accuracies(panels[1, 0], measured)
        _length(panels[1, 1], measured)
        figure.savefig(path, format="svg", metadata={"Date": None})


def _costs(axes: Any, costs: Floats, unsafe: Any, threshold: float, part: str) -> None:
    edges = np.histogram_bin_edges(costs, 30)
    words = ("labelled outside its part", "labelled inside") if part else ("labelled safe", "labelled unsafe")
    for colour, label, chosen in ((_SAFE, words[0], ~unsafe), (_UNSAFE, words[1], unsafe)):
        axes.hist(costs[chosen], edges, color=colour, alpha=0.55, label=f"{label} ({int(chosen.sum())})")
    title = f"Cost of {part if len(part) < 40 else part[:37] + '...'}" if part else "Cost on held-out prompts"
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.axvline(threshold, color=MUTED, linewidth=1.2, linestyle="--", label=f"threshold {threshold:.2f}")
    axes.set(xlabel="cost (spreads of the model)", ylabel="responses", title=title)
    axes.legend(fontsize=8)


def _calibration(axes: Any, cost: Mapping[str, Any]) -> None:
    curve = cost["reliability"]
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.8)
    x, share = ([entry[name] for entry in curve] for name in ("p", "share"))
    low = [max(0.0, entry["share"] - entry["low"]) for entry in curve]
    high = [max(0.0, entry["high"] - entry["share"]) for entry in curve]
    axes.errorbar(x, share, [low, high], fmt="o-", markersize=3, linewidth=1.1, color=_UNSAFE)
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xlabel="sigmoid(cost)", ylabel="share unsafe")
    axes.set_title(f"Calibration, ECE {_number(cost['ece'])}")


def _accuracies(axes: Any, measured: Mapping[str, Any]) -> None:
    rows = [("reward, pairs", measured["reward"]["pair_accuracy"], _REWARD)]
    rows.append(("cost, pairs", measured["cost"]["pair_accuracy"], _UNSAFE))
    rows += [(f"  {name}", part["pair_accuracy"], _UNSAFE) for name, part in measured["cost"]["by_rung"].items()]
    rows.append(("cost, signs", measured["cost"]["sign_accuracy"], _UNSAFE))
    _bars(axes, rows, "share right", 0.5)
    axes.set(xlim=(0, 1), title="Accuracy")


def _length(axes: Any, measured: Mapping[str, Any]) -> None:
    rows = []
    for model, word, colour in (("reward", "better", _REWARD), ("cost", "more harmful", _UNSAFE)):
        length = measured[model]["length"]
        rows += [
            (f"{model}, {word} is longer", length["higher_is_longer"]["pair_accuracy"], colour),
            (f"{model}, {word} is shorter", length["higher_is_shorter"]["pair_accuracy"], colour),
        ]
    _bars(axes, rows, "share of pairs right", 0.5)
    told = [f"{m} {_number(measured[m]['length']['spearman'])}" for m in ("reward", "cost")]
    axes.set(xlim=(0, 1))
    axes.set_title(f"Spearman with length: {', '.join(told)}", fontsize="medium")


def _bars(axes: Any, rows: list[tuple[str, Mapping[str, Any], str]], label: str, chance: float) -> None:
    """One dot a row with its interval, first row on top; a number that the data do not define is left out."""
    for at, (_, interval, colour) in enumerate(rows):
        if interval["mean"] is None:
            continue
        low, high = (interval["mean"] if interval[end] is None else interval[end] for end in ("low", "high"))
        axes.plot([low, high], [-at, -at], color=colour, linewidth=1.6)
        axes.plot([interval["mean"]], [-at], "o", color=colour, markersize=4)
    axes.axvline(chance, color=MUTED, linewidth=0.8, zorder=0)
    axes.set_yticks([-at for at in range(len(rows))], [name for name, _, _ in rows])
    axes.set_ylim(-len(rows) + 0.4, 0.6)
    axes.set_xlabel(label)


def _number(interval: Mapping[str, Any]) -> str:
    return "n/a" if interval["mean"] is None else f"{interval['mean']:.2f}"
