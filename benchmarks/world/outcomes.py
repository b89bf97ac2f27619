"""What a model does on held-out requests, the table of all methods, and the frontier as a picture."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from world.grammar import ATTACKS, Split, World
from world.speaker import sample

COLOURS = {"online": "#1f5f8b", "offline": "#9a5b13", "supervised": "#4d7a3a", "start": "#6b7280"}
ATTACK_NAMES = {"mixed": "mixed text", "other_tasks": "unseen task", "other_texts": "unseen grammar"}


def outcome(model: Any, world: World, count: int, seed: int) -> dict[str, float]:
    """Shares over `count` sampled responses a split.

    `helpful` is the mean reward on safe requests, `over_refusal` the share of them that is refused; `harmless` is the
    share of unsafe requests that is not obeyed, and the same for each of the attacks.
    """
    chance = torch.Generator().manual_seed(seed)
    found: dict[str, float] = {}
    splits: tuple[Split, ...] = ("safe", "unsafe", *ATTACKS)
    for split in splits:
        requests = world.requests(split, count, chance)
        said = sample(model, world, requests.prompt, chance)
        scores = world.score(requests, said.ids)
        if split == "safe":
            found["helpful"] = float(scores.reward.mean())
            found["over_refusal"] = float(world.refused(said.ids).float().mean())
        else:
            found["harmless" if split == "unsafe" else split] = 1 - float(scores.cost.mean())
    return found


def summary(results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row a method and setting: means over seeds, and the standard deviation where there are several.

    A setting whose name holds a number that was found, such as lambda, is the same setting in every seed.
    """
    rows: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for result in results:
        for place, point in enumerate(result["points"]):
            rows.setdefault((result["method"], place), []).append(point | {"kind": result["kind"]})
    out = []
    for (method, _), points in rows.items():
        measures = points[0]["outcome"]
        values = {name: [point["outcome"][name] for point in points] for name in measures}
        spread = {name: statistics.stdev(each) for name, each in values.items() if len(each) > 1}
        mean = {name: statistics.fmean(each) for name, each in values.items()}
        row = {"method": method, "setting": points[0]["setting"], "kind": points[0]["kind"], "seeds": len(points)}
        out.append(row | {"mean": mean, "spread": spread})
    return out


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown, in the order of training."""
    heads = ["method", "setting", "helpful", "over-refusal", "harmless", *ATTACK_NAMES.values()]
    names = ["helpful", "over_refusal", "harmless", *ATTACK_NAMES]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for row in rows:
        cells = [_cell(row, name) for name in names]
        lines.append("| " + " | ".join([row["method"], row["setting"], *cells]) + " |")
    return "\n".join(lines) + "\n"


def _cell(row: dict[str, Any], name: str) -> str:
    spread = f" ± {row['spread'][name]:.2f}" if name in row["spread"] else ""
    return f"{row['mean'][name]:.2f}{spread}"


def draw(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write an SVG: helpful to the right, harmless upwards; the settings of one method are joined by a line."""
    import matplotlib
    from matplotlib.figure import Figure

    from poise.data.figures import STYLE

    with matplotlib.rc_context({**STYLE, "axes.grid": True}):
        figure = Figure(figsize=(7.6, 5.4), layout="constrained")
        axes = figure.subplots()
        markers = iter("osD^vP<>Xp*hdH8os")
        for method in dict.fromkeys(row["method"] for row in rows):
            own = [row for row in rows if row["method"] == method]
            x, y = ([row["mean"][name] for row in own] for name in ("helpful", "harmless"))
            look = {"color": COLOURS[own[0]["kind"]], "marker": next(markers), "markersize": 6, "linewidth": 0.8}
            axes.plot(x, y, label=f"{method} ({own[0]['kind']})", alpha=0.85, **look)
            for row, right, up in zip(own, x, y, strict=True):
                if up > 0.02 or right < 0.9:  # where all obey everything, names would cover each other
                    place = {"xytext": (5, -3), "textcoords": "offset points", "fontsize": 6}
                    axes.annotate(f"{method} {row['setting']}", (right, up), color=look["color"], **place)
        axes.set_xlabel("helpful: mean reward on safe requests")
        axes.set_ylabel("harmless: share of unsafe requests not obeyed")
        axes.set_xlim(-0.03, 1.16)
        axes.set_ylim(-0.03, 1.03)
        figure.legend(loc="outside right upper", fontsize=7)
        figure.savefig(path, format="svg", metadata={"Date": None})
