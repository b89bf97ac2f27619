"""The pictures of an audit, each as one inline SVG; the same numbers give the same bytes.

Colours differ in lightness as well as in hue, so that they survive a black-and-white print and colour-blind eyes, and
every picture stands beside a table with the same numbers. A picture of nothing is "".
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Sequence

import matplotlib
import numpy as np
from markupsafe import escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from poise.data.audit.shares import Json
from poise.data.audit.words import LEVELS, decimal, percent, plain
from poise.data.figures import INK, STYLE

BARS, PALE = "#1f5f8b", "#bcd3e4"
SHADES = {"1": "#f2cf8d", "2": "#d9822b", "3": "#7a2318"}
"""Severity -> colour, darker is worse."""
_STYLE = STYLE | {
    "axes.edgecolor": "#8b9198",
    "axes.titlesize": 9,
    "xtick.color": INK,
    "ytick.color": INK,
    "figure.constrained_layout.use": True,
}
_NO_METADATA = {"Date": None, "Creator": None, "Format": None, "Type": None}
_WIDTH = 7.6
_GROUPS = 14


def severity_by_category(categories: Sequence[Json]) -> str:
    """Answers of each category by severity, most first: counts on the left, shares of the category on the right."""
    shown = [entry for entry in categories if entry["answers"] and entry["severity"]]
    shown = sorted(shown, key=lambda entry: entry["answers"])
    if not shown:
        return ""

    def draw(left: Axes, right: Axes) -> None:
        names = [entry["category"] for entry in shown]
        counts = np.array([[entry["severity"][level] for level in SHADES] for entry in shown], dtype=np.float64)
        shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        for axes, values in ((left, counts), (right, 100 * shares)):
            start = np.cumsum(values, axis=1) - values
            for place, (level, colour) in enumerate(SHADES.items()):
                axes.barh(
                    names,
                    values[:, place],
                    left=start[:, place],
                    color=colour,
                    label=LEVELS[level],
                    edgecolor="white",
                    linewidth=0.4,
                )
            axes.grid(axis="x")
        left.set_xlabel("answers")
        left.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        left.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        left.legend(loc="lower right", title="severity", fontsize=8)
        right.set_xlim(0, 100)
        right.set_xlabel("% of the category's answers")
        right.tick_params(labelleft=False)

    title = "Answers of each harm category by severity, as counts and as shares"
    return _svg("severity", title, draw, height=0.27 * len(shown) + 1.0, columns=2)


def phi(together: Json | None) -> str:
    """Heat map of phi among unsafe answers; cells of at least 0.1 carry phi in hundredths."""
    if together is None:
        return ""
    values = np.array([[np.nan if v is None else v for v in row] for row in together["phi"]], dtype=np.float64)
    np.fill_diagonal(values, np.nan)
    used = np.isfinite(values).sum(axis=1) > 0
    if not used.any():
        return ""
    values = values[np.ix_(used, used)]
    names = [name for name, there in zip(together["categories"], used, strict=True) if there]
    codes = [f"S{place + 1}" for place in np.flatnonzero(used)]
    limit = max(float(np.nanmax(np.abs(values))), 0.1)

    def draw(axes: Axes) -> None:
        mesh = axes.pcolormesh(values, cmap="PuOr_r", vmin=-limit, vmax=limit, edgecolors="white", linewidth=0.5)
        axes.invert_yaxis()
        axes.set_xticks(np.arange(len(names)) + 0.5, codes, fontsize=7.5)
        axes.set_yticks(
            np.arange(len(names)) + 0.5,
            [f"{name}  {code}" for name, code in zip(names, codes, strict=True)],
            fontsize=8.5,
        )
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        for row, column in np.argwhere(np.abs(np.nan_to_num(values)) >= 0.1):
            value = values[row, column]
            colour = "white" if abs(value) > 0.6 * limit else INK
            text = f"{100 * value:.0f}".replace("-", "−")
            axes.text(column + 0.5, row + 0.5, text, ha="center", va="center", fontsize=7, color=colour)
        steps = np.linspace(-limit, limit, 21)  # few enough to be drawn as shapes, not as an embedded image
        axes.figure.colorbar(mesh, ax=axes, boundaries=steps, ticks=[-limit, 0, limit], format=lambda v, _: decimal(v))

    return _svg("phi", "Phi between harm categories among unsafe answers", draw, height=0.28 * len(names) + 0.6)


def shares(key: str, title: str, rows: Sequence[tuple[str, Json | None]], *, even: bool = False) -> str:
    """Bars of shares with their 95% intervals; `even` draws a line at one half."""
    told = [(name, found) for name, found in reversed(rows) if found is not None]
    if not told:
        return ""

    def draw(axes: Axes) -> None:
        values = np.array([found["share"] for _, found in told])
        low, high = (np.array([found[end] for _, found in told]) for end in ("low", "high"))
        spread = np.clip([values - low, high - values], 0, None)
        bars = {"xerr": spread, "error_kw": {"lw": 1, "ecolor": INK, "capsize": 2}}
        axes.barh([name for name, _ in told], values, color=BARS, height=0.6, **bars)
        if even:
            axes.axvline(0.5, color=INK, lw=1, ls="--")
        for place, (_, found) in enumerate(told):
            text = axes.text(high[place] + 0.015, place, percent(found), va="center", fontsize=8.5)
            text.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 0.8})
        _percent_axis(axes, 1.12)

    return _svg(key, title, draw, height=0.33 * len(told) + 0.6)


def halves(key: str, title: str, rows: Sequence[tuple[str, str, str, Json | None]]) -> str:
    """Bars that divide a whole in two.

    Args:
        rows: what the whole is, name of the first part, name of the second, share of the first.
    """
    told = [(f"{whole}:\n■ {first}   □ {second}", found) for whole, first, second, found in reversed(rows) if found]
    if not told:
        return ""

    def draw(axes: Axes) -> None:
        for place, (_, found) in enumerate(told):
            share = found["share"]
            axes.barh(place, share, color=BARS, height=0.62)
            axes.barh(place, 1 - share, left=share, color=PALE, height=0.62, edgecolor=BARS, linewidth=0.8)
            inside = share >= 0.12
            x, side = (share - 0.01, "right") if inside else (share + 0.01, "left")
            axes.text(x, place, percent(found), ha=side, va="center", color="white" if inside else INK)
        axes.set_yticks(range(len(told)), [name for name, _ in told])
        axes.axvline(0.5, color=INK, lw=1, ls="--")
        _percent_axis(axes, 1.0)

    return _svg(key, title, draw, height=0.55 * len(told) + 0.6)


def lengths(rows: Sequence[Json]) -> str:
    """Median, quartiles and 10 to 90% of characters, for the largest groups of source and state."""
    largest = sorted(rows, key=lambda row: -row["answers"])[:_GROUPS]
    shown = [row for row in reversed(rows) if row in largest]
    if not shown:
        return ""

    def draw(axes: Axes) -> None:
        for place, row in enumerate(shown):
            axes.plot([row["q10"], row["q90"]], [place, place], color="#8b9198", lw=1.4)
            axes.plot([row["q25"], row["q75"]], [place, place], color=BARS, lw=7, solid_capstyle="butt")
            axes.plot(row["median"], place, "o", color="white", markeredgecolor=INK, ms=5)
        axes.set_yticks(range(len(shown)), [f"{plain(row['source'], 34)}, {row['state']}" for row in shown])
        axes.set_ylim(-0.7, len(shown) - 0.3)
        axes.set_xlim(left=0)
        axes.set_xlabel("characters: median (dot), quartiles (bar), 10% to 90% (line)")
        axes.grid(axis="x")

    return _svg("length", "Length of responses by source and safe flag", draw, height=0.29 * len(shown) + 0.8)


def _percent_axis(axes: Axes, end: float) -> None:
    axes.set_xlim(0, end)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0%", "25%", "50%", "75%", "100%"])
    axes.grid(axis="x")


def _svg(key: str, title: str, draw: Callable[..., None], height: float, columns: int = 1) -> str:
    """Draw, and return inline SVG of any width whose ids start with `key`, so that two pictures never share one."""
    buffer = io.StringIO()
    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # the browser has other fonts
        figure = Figure(figsize=(_WIDTH, height))
        axes = figure.subplots(1, columns, sharey=columns > 1)
        draw(*np.atleast_1d(axes))
        figure.savefig(buffer, format="svg", transparent=True, metadata=_NO_METADATA)
    text = buffer.getvalue()
    text = re.sub(r'\s(?:xmlns(?::\w+)?|width|height|version)="[^"]*"', "", text[text.index("<svg") :], count=5)
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\1{key}-", text)
    head = f'<svg role="img" aria-labelledby="{key}-title"'
    return text.replace("<svg", head, 1).replace(">", f'><title id="{key}-title">{escape(title)}</title>', 1)
