"""How every figure of the project looks: one style, and the same bytes for the same numbers."""

from __future__ import annotations

from typing import Any

INK, MUTED, GRID = "#2b3138", "#6b7280", "#e4e4df"
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "poise",
    "text.parse_math": False,
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "text.color": INK,
    "axes.labelcolor": INK,
    "legend.frameon": False,
}
"""Settings for `matplotlib.rc_context`; text stays text, and ids in an SVG do not change from run to run."""
