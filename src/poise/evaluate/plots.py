"""The pictures of the report, each as one inline SVG string.

Curves, histogram, reliability and quadrant are drawn by matplotlib without a display, with fixed ids and no date, so
the same values give the same bytes. The picture of the loop is written by hand. Every SVG carries a `<title>`.
A picture without one finite value is the empty string, and the page then says "n/a".
"""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Callable, Sequence
from itertools import pairwise

import matplotlib
import numpy as np
from markupsafe import escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from poise.data import figures
from poise.data.figures import INK
from poise.metrics import NAN, Floats, Interval, bootstrap_clusters, reliability

Values = Sequence[float | None]
Points = Sequence[tuple[float | None, float | None]]

BEFORE, AFTER, LIMIT = "#9a5b13", "#1f5f8b", "#b3261e"
STYLE = figures.STYLE | {
    "axes.grid": True,
    "axes.edgecolor": "#8b9198",
    "xtick.color": INK,
    "ytick.color": INK,
    "figure.constrained_layout.use": True,
}
_NO_METADATA = {"Date": None, "Creator": None, "Format": None, "Type": None}

BOX_WIDTH, BOX_HEIGHT, GAP, MARGIN = 164, 76, 44, 26


def loop_svg(counts: Sequence[tuple[str, str]], columns: int, name: str) -> str:
    """The run as boxes in a serpentine with arrows, and a dashed way back from the last stage to the first.

    Args:
        counts: (stage, headline) in order. columns: boxes in a row. name: prefix of the ids inside the SVG.
    """
    if not counts:
        return ""
    rows = -(-len(counts) // columns)
    width = 2 * MARGIN + columns * BOX_WIDTH + (columns - 1) * GAP
    height = 2 * MARGIN + rows * BOX_HEIGHT + (rows - 1) * GAP
    places = [_place(i, columns) for i in range(len(counts))]
    arrow = f'marker-end="url(#{name}-tip)"'
    parts = [
        f'<svg class="loop" viewBox="0 0 {width} {height}" role="img" aria-labelledby="{name}-title">'
        f'<title id="{name}-title">The loop of this run: '
        + "; ".join(f"{escape(stage)}: {escape(headline)}" for stage, headline in counts)
        + f'</title><defs><marker id="{name}-tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" '
        'orient="auto-start-reverse"><path d="M0 0L8 4L0 8z" class="tip"/></marker></defs>'
    ]
    parts += [f'<path class="arrow" d="{_arrow(a, b)}" {arrow}/>' for a, b in pairwise(places)]
    if len(counts) > 1:
        (x, y), (first_x, first_y) = places[-1], places[0]
        back = f"M{x + BOX_WIDTH / 2:g} {y + BOX_HEIGHT}V{height - 8}H10V{first_y + BOX_HEIGHT / 2:g}H{first_x - 3}"
        parts.append(f'<path class="arrow back" d="{back}" {arrow}/>')
    parts += [_box(x, y, i + 1, *counts[i]) for i, (x, y) in enumerate(places)]
    return "".join(parts) + "</svg>"


def curve_plot(
    name: str, title: str, steps: Sequence[int], values: Values, unit: str, limit: tuple[str, float] | None = None
) -> str:
    """One quantity `values[N]` over `steps[N]`, with a named horizontal `limit` if given. NaN leaves a gap."""
    x, y = np.asarray(steps), _array(values)
    if not np.isfinite(y).any():
        return ""

    def draw(axes: Axes) -> None:
        axes.plot(x, y, color=AFTER, linewidth=1.5, marker="o" if len(y) <= 20 else None, markersize=3)
        if limit is not None:
            axes.axhline(limit[1], color=LIMIT, linestyle="--", linewidth=1.2, label=_limit(*limit))
            axes.legend(loc="best")
        axes.set_xlabel("step")
        axes.set_ylabel(unit)

    return _svg(name, title, draw)


def cost_histogram(name: str, title: str, safe: Values, unsafe: Values, threshold: float | None) -> str:
    """Costs of responses labelled safe `[N]` and unsafe `[M]` in shared bins, with the zero line and the threshold."""
    groups = [_finite(safe), _finite(unsafe)]
    both = np.concatenate(groups)
    if not len(both):
        return ""
    edges = np.histogram_bin_edges(both, bins=min(30, max(8, int(np.sqrt(len(both))) * 2)))

    def draw(axes: Axes) -> None:
        for scores, colour, word in zip(groups, (AFTER, BEFORE), ("safe", "unsafe"), strict=True):
            label = f"labelled {word} (n = {len(scores)})"
            axes.hist(scores, bins=edges.tolist(), color=colour, alpha=0.55, label=label)
        axes.axvline(0.0, color=INK, linewidth=1.2, label="zero (boundary)")
        if threshold is not None:
            axes.axvline(threshold, color=LIMIT, linestyle="--", linewidth=1.2, label=_limit("threshold", threshold))
        axes.set_xlabel("cost (model units, below 0 is safe)")
        axes.set_ylabel("responses")
        axes.legend(loc="best", fontsize=8)

    return _svg(name, title, draw)


def reliability_plot(name: str, title: str, prob: Sequence[float], positive: Sequence[bool]) -> str:
    """Share of unsafe items against predicted probability in equal-mass bins; the diagonal is perfect calibration."""
    bins = reliability(prob, positive)
    if not len(bins.size):
        return ""

    def draw(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], color="#8b9198", linestyle="--", linewidth=1, label="perfect")
        axes.plot(bins.prob, bins.positive, color=AFTER, marker="o", markersize=4, linewidth=1.2, label="this guard")
        axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
        axes.set_xlabel("predicted probability of unsafe")
        axes.set_ylabel("share labelled unsafe")
        axes.legend(loc="upper left")

    return _svg(name, title, draw)


def quadrant_plot(name: str, title: str, before: Points, after: Points, seed: int, prompts: Sequence[str] = ()) -> str:
    """Each response as a faint point (helpful, harmless), and the two means with their 95% bootstrap intervals.

    Args:
        before, after: `[N, 2]`, columns reward (helpful) and -cost (harmless). seed: of the bootstrap.
        prompts: `[N]`, the prompt of each response; whole prompts are resampled. Empty: each response is one.
    """
    groups = [_points(before, prompts), _points(after, prompts)]
    if not all(len(points) for points, _ in groups):
        return ""

    def draw(axes: Axes) -> None:
        axes.axhline(0.0, color=INK, linewidth=1)
        axes.axvline(0.0, color=INK, linewidth=1)
        means = []
        for (points, clusters), colour, word in zip(groups, (BEFORE, AFTER), ("before", "after"), strict=True):
            axes.scatter(points[:, 0], points[:, 1], s=9, color=colour, alpha=0.25, linewidths=0)
            x, y = (_mean_interval(points[:, k], clusters, seed) for k in (0, 1))
            xerr, yerr = ([[mean.mean - mean.low], [mean.high - mean.mean]] for mean in (x, y))
            label = f"{word}, mean (n = {len(points)})"
            axes.errorbar(x.mean, y.mean, yerr, xerr, "o", color=colour, capsize=3, zorder=4, label=label)
            means.append((x.mean, y.mean))
        arrow = {"arrowstyle": "->", "color": INK, "lw": 1.3, "shrinkA": 6, "shrinkB": 6}
        axes.annotate("", xy=means[1], xytext=means[0], arrowprops=arrow, zorder=5)
        axes.set_xlabel("helpful: reward (model units)")
        axes.set_ylabel("harmless: minus cost (model units)")
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, fontsize=8)

    return _svg(name, title, draw, height=4.2)


def _svg(name: str, title: str, draw: Callable[[Axes], None], height: float = 3.1) -> str:
    """Draw on one pair of axes (inches) and return inline SVG whose ids start with `name`."""
    buffer = io.StringIO()
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5.0, height))
        draw(figure.subplots())
        figure.savefig(buffer, format="svg", transparent=True, metadata=_NO_METADATA)
    text = buffer.getvalue()
    text = re.sub(r'\s(?:xmlns(?::\w+)?|width|height|version)="[^"]*"', "", text[text.index("<svg") :], count=5)
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\1{name}-", text)
    head = f'<svg role="img" aria-labelledby="{name}-title"'
    return text.replace("<svg", head, 1).replace(">", f'><title id="{name}-title">{escape(title)}</title>', 1)


def _place(i: int, columns: int) -> tuple[int, int]:
    """Upper left corner of box `i`: rows run left to right, then right to left."""
    row, step = divmod(i, columns)
    column = step if row % 2 == 0 else columns - 1 - step
    return MARGIN + column * (BOX_WIDTH + GAP), MARGIN + row * (BOX_HEIGHT + GAP)


def _arrow(start: tuple[int, int], end: tuple[int, int]) -> str:
    """Path from one box to the next, sideways within a row and downwards between rows."""
    (x, y), (x2, y2) = start, end
    if y == y2:
        edge, target = (x + BOX_WIDTH, x2 - 3) if x2 > x else (x, x2 + BOX_WIDTH + 3)
        return f"M{edge} {y + BOX_HEIGHT // 2}H{target}"
    return f"M{x + BOX_WIDTH // 2} {y + BOX_HEIGHT}V{y2 - 3}"


def _box(x: int, y: int, number: int, stage: str, headline: str) -> str:
    lines = textwrap.wrap(headline, 20, max_lines=2, placeholder="…") or [""]
    top = y + (31 if len(lines) == 1 else 24)
    text = f'<text x="{x + BOX_WIDTH // 2}" y="{top}" class="stage">{number} {escape(stage)}</text>'
    for i, line in enumerate(lines):
        text += f'<text x="{x + BOX_WIDTH // 2}" y="{top + 20 + 16 * i}">{escape(line)}</text>'
    return f'<rect x="{x}" y="{y}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="12"/>{text}'


def _limit(name: str, value: float) -> str:
    return f"{name} {value:g}".replace("-", "\u2212")


def _array(values: Values) -> Floats:
    return np.array([NAN if value is None else value for value in values], dtype=np.float64)


def _finite(values: Values) -> Floats:
    array = _array(values)
    return array[np.isfinite(array)]


def _mean_interval(values: Floats, clusters: Sequence[Sequence[int]], seed: int) -> Interval:
    """Mean of `values[N]` with its 95% bootstrap interval over clusters, each the positions of one prompt's values."""
    return bootstrap_clusters(lambda at: float(values[at].mean()), clusters, seed)


def _points(values: Points, prompts: Sequence[str]) -> tuple[Floats, list[list[int]]]:
    """The points `[N, 2]` that have both coordinates, and the positions of each prompt's."""
    array = _array([value for point in values for value in point]).reshape(-1, 2)
    kept = np.flatnonzero(np.isfinite(array).all(axis=1))
    keys: Sequence[object] = prompts or range(len(array))
    clusters: dict[object, list[int]] = {}
    for at, row in enumerate(kept.tolist()):
        clusters.setdefault(keys[row], []).append(at)
    return array[kept], list(clusters.values())
