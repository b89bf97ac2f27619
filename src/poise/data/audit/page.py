"""An audit as one HTML file that opens without a network, runs nothing and quotes no text of the data.

Names of sources and of foreign categories do come from the data: they are escaped, cut and freed of control characters.
"""

from __future__ import annotations

from importlib.resources import files

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from poise.data.audit import plots, words
from poise.data.audit.shares import Json

_MOST = 20
"""Entries of a list that the page shows."""


def render_page(found: Json, title: str) -> str:
    """The page.

    Args:
        found: what `audit` gives.
        title: of the page; escaped, as all names are.
    """
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    for name in ("number", "percent", "counted", "broken", "decimal", "plain"):
        environment.filters[name] = getattr(words, name)
    folder = files("poise.data.audit")
    template = environment.from_string(folder.joinpath("page.html.j2").read_text(encoding="utf-8"))
    return template.render(
        title=words.plain(title, 120),
        style=Markup(folder.joinpath("page.css").read_text(encoding="utf-8")),
        found=found,
        words=words,
        most=_MOST,
        pictures={name: Markup(svg) for name, svg in _pictures(found).items()},
        together=words.together(found, 12),
    )


def _pictures(found: Json) -> dict[str, str]:
    """Name -> SVG, "" where the data has nothing for it."""
    pairs, single, ladder = found["pairs"], found["dual_and_single"], found["ladder"]
    states = [(name, pairs["states"][key]) for key, name in words.STATES.items()] if pairs else []
    states += [("better is not safer", pairs["better_is_not_safer"])] if pairs else []
    rungs = [(rung["rung"], rung if "share" in rung else None) for rung in ladder or []]
    flows = [
        ("better and safer differ", "follows better", "follows safer", "follows_better"),
        ("they differ, one is safe", "picks the safe one", "the unsafe one", "picks_safe_at_boundary"),
        ("better and safer agree", "contradicts both", "follows both", "contradicts_both"),
    ]
    probes = [(name, found["probes"][key]) for key, name in words.PROBES.items()]
    named = sorted(found["foreign_categories"], key=lambda entry: -entry["count"])[:_MOST]
    population = [row for row in found["lengths"] if row["unit"] == (found["population"] or row["unit"])]
    return {
        "severity": plots.severity_by_category(found["categories"] or []),
        "foreign": plots.shares(
            "foreign",
            "Categories of other taxonomies",
            [(words.plain(entry["category"], 42), entry) for entry in named],
        ),
        "phi": plots.phi(found["co_occurrence"]),
        "states": plots.shares("states", "Pairs by the safety of their responses", states),
        "ladder": plots.shares("ladder", "What separates the two responses of a pair", rungs),
        "single": plots.halves(
            "single",
            "The overall choice beside better and safer",
            [(whole, first, second, single[key]) for whole, first, second, key in flows] if single else [],
        ),
        "probes": plots.shares("probes", "Bias probes", probes, even=True),
        "lengths": plots.lengths(population),
    }
