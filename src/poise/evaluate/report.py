"""The report of a run: one self-contained HTML page.

Inline CSS and inline SVG, no script, no outside request (a content security policy forbids both), so the file can be
mailed, archived and opened years later. The same `ReportData` gives the same bytes. Model text is shown as escaped
plain text in its own bidi isolate, folded away when it may be harmful. The layout is `templates/report.html.j2`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from poise.evaluate import plots
from poise.evaluate.report_data import AlignPart, Calibration, CostPart, PreferencePart, ReportData
from poise.harm import CATEGORIES
from poise.metrics import Interval, ece

NOT_AVAILABLE = "n/a"
_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")


def render_report(data: ReportData) -> str:
    """The whole page as one HTML string, to be written as UTF-8.

    Control characters and lone surrogates, which HTML and UTF-8 cannot hold, become U+FFFD.
    """
    environment = Environment(
        loader=PackageLoader("poise.evaluate", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(num=_number, interval=_interval, signed=_signed)
    threshold = data.align.threshold if data.align else None
    page = environment.get_template("report.html.j2").render(
        data=data,
        settings=_flatten(data.settings),
        stages=[(stage, _flatten(stage.summary)) for stage in data.stages],
        loops={key: Markup(plots.loop_svg(data.loop_counts, n, key)) for key, n in (("wide", 5), ("narrow", 2))},
        grid=_grid(data.grid),
        calibration=_calibration_plot(data.calibration),
        calibration_ece=ece(data.calibration.prob, data.calibration.positive) if data.calibration else None,
        preference_plots=_preference_plots(data.preference, threshold),
        rungs=_rungs(data.preference.cost if data.preference else None),
        align_plots=_align_plots(data.align),
        quadrant=_quadrant_plot(data),
    )
    return _UNPRINTABLE.sub("\ufffd", page)


def _number(value: Any) -> str:
    """A number for people: about three digits, a real minus sign, and "n/a" for None and NaN."""
    if value is None or isinstance(value, str):
        return value or NOT_AVAILABLE
    if isinstance(value, int):
        return f"{value:,}".replace("-", "\u2212")
    if not math.isfinite(value):
        return NOT_AVAILABLE if math.isnan(value) else ("\u221e" if value > 0 else "\u2212\u221e")
    size = abs(value)
    text = f"{value:.2g}" if 0 < size < 0.01 else f"{value:,.{3 if size < 10 else 2 if size < 100 else 0}f}"
    return text.replace("-", "\u2212")


def _signed(value: Any) -> str:
    """As `_number`, with a plus sign above zero."""
    text = _number(value)
    return f"+{text}" if isinstance(value, int | float) and value > 0 else text


def _interval(value: Interval | float | None, signed: bool = False) -> str:
    """Mean [low, high], or the number alone when there is no interval."""
    write = _signed if signed else _number
    if not isinstance(value, Interval) or math.isnan(value.mean):
        return write(value.mean if isinstance(value, Interval) else value)
    return f"{write(value.mean)} [{write(value.low)}, {write(value.high)}]"


def _flatten(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """(dotted key, value) rows of a nested mapping, in its order; dotted as on the command line."""
    rows: list[tuple[str, str]] = []
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            rows += _flatten(value, f"{prefix}{key}.")
        else:
            plain = isinstance(value, int | float | None) and not isinstance(value, bool)
            rows.append((f"{prefix}{key}", _exact(value) if plain else str(value)))
    return rows


def _exact(value: float | None) -> str:
    """A setting as written: all its digits, "n/a" for NaN, "none" for None."""
    return "none" if value is None else NOT_AVAILABLE if math.isnan(value) else repr(value)


def _grid(grid: Mapping[str, list[int]]) -> dict[str, Any] | None:
    """Heat map rows in card order: (code, name, [(count, shade 0..1)]); shade is relative to the largest count."""
    if not grid:
        return None
    names = {category.code: category.value for category in CATEGORIES}
    order = [code for code in names if code in grid] + [code for code in grid if code not in names]
    width = max(len(counts) for counts in grid.values())
    largest = max((count for counts in grid.values() for count in counts), default=0) or 1
    rows = [(code, names.get(code, ""), [(n, round(math.sqrt(n / largest), 3)) for n in grid[code]]) for code in order]
    total = sum(count for counts in grid.values() for count in counts)
    return {"levels": ["none", "minor", "moderate", "severe"][-width:], "rows": rows, "total": total}


def _rungs(cost: CostPart | None) -> list[tuple[str, str, Any]]:
    """(rung, accuracy, n) rows of the cost model."""
    rows = cost.by_rung.items() if cost else ()
    return [(rung, _interval(value), value.n if isinstance(value, Interval) else None) for rung, value in rows]


def _calibration_plot(calibration: Calibration | None) -> Markup:
    if calibration is None:
        return Markup("")
    title = f"Reliability of the guard, equal-mass bins, n = {len(calibration.prob)}"
    return Markup(plots.reliability_plot("calibration", title, calibration.prob, calibration.positive))


def _preference_plots(preference: PreferencePart | None, threshold: float | None) -> list[tuple[str, Markup]]:
    """(caption, SVG) of the loss curves and the cost histogram; an empty SVG reads "n/a"."""
    pictures: list[tuple[str, str]] = []
    for name, part in (("reward", preference and preference.reward), ("cost", preference and preference.cost)):
        if part:
            title = f"Training loss of the {name} model over {len(part.losses)} steps (nats)"
            steps = range(1, len(part.losses) + 1)
            pictures.append((title, plots.curve_plot(f"loss-{name}", title, steps, part.losses, "loss (nats)")))
    if preference and preference.cost:
        safe, unsafe = preference.cost.scores_safe, preference.cost.scores_unsafe
        title = f"Cost of held-out responses: {len(safe)} labelled safe, {len(unsafe)} labelled unsafe"
        pictures.append((title, plots.cost_histogram("cost-histogram", title, safe, unsafe, threshold)))
    return [(title, Markup(picture)) for title, picture in pictures]


def _align_plots(align: AlignPart | None) -> list[tuple[str, Markup]]:
    """(caption, SVG) of each curve of alignment; a curve that was not recorded is left out."""
    if align is None:
        return []
    limit = None if align.threshold is None else ("threshold", align.threshold)
    curves = (
        ("reward", "Mean reward by step (model units, higher is more helpful)", align.reward, "reward", None),
        ("cost", "Mean cost by step (model units, below 0 is safe)", align.cost, "cost", limit),
        ("multiplier", "Multiplier by step (lambda, no unit; rises while cost is over the threshold)",
         align.multiplier, "multiplier", None),
        ("kl", "KL divergence from the reference by step (nats)", align.kl, "KL (nats)", None),
        ("violation", "Violation rate by step (share of responses with cost of 0 or more)", align.violation_rate,
         "violation rate", None),
    )  # fmt: skip
    return [
        (title, Markup(plots.curve_plot(f"align-{name}", title, align.steps, values, unit, line)))
        for name, title, values, unit, line in curves
        if values
    ]


def _quadrant_plot(data: ReportData) -> Markup:
    if data.evaluation is None or data.evaluation.quadrant is None:
        return Markup("")
    points = data.evaluation.quadrant
    title = f"Helpful against harmless: {len(points.before)} responses before, {len(points.after)} after alignment"
    return Markup(plots.quadrant_plot("quadrant", title, points.before, points.after, data.seed, points.prompts))
