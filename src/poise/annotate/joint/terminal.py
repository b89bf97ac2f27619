"""The joint report as text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

RATERS_SHOWN = 20
"""Lines of the table of raters; all of them are in the JSON."""
_EFFECTS = {
    "gain": "accuracy: joint - alone",
    "gain_over_model": "accuracy: joint - model",
    "override_wrong": "overrides a wrong suggestion",
    "override_right": "overrides a right suggestion",
    "automation_bias": "automation bias",
    "pull": "pull of a wrong suggestion",
    "shift": "shift towards suggestions",
    "planted_accepted": "planted: accepted",
    "planted_reliance": "reliance on planted ones",
    "ai_reliance": "reveal: wrong made right",
    "self_reliance": "reveal: right kept",
}
"""Estimand -> how it is called."""


def render(report: Mapping[str, Any]) -> str:
    """The report as text; what rests on nothing is left out."""
    return "\n".join(_lines(report))


def _lines(report: Mapping[str, Any]) -> Iterator[str]:
    joint, drawn = report["joint"], report["drawn"]
    by = f" by {joint['suggester']}" if joint["suggester"] else ""
    yield f"{report['store']}: {joint['mode']}{by}; truth: {report['reference']} items"
    if report["reference"] == "adjudicated":
        yield "items that were adjudicated because raters disagreed are no fair sample; audit items to have one"
    if drawn["drawn"]:
        yield (
            f"drawn {drawn['drawn']:,}: control {_part(drawn['control'], drawn['drawn'])}, planted "
            f"{_part(drawn['planted'], drawn['suggested'])} of suggestions and "
            f"{_part(drawn['planted'], drawn['suggested_clear'])} of those on clear items"
        )
    for question in report["questions"]:
        yield ""
        yield (
            f"{question['question']}: {question['reference_items']:,} reference items, {question['answers']:,} answers "
            f"of people; unjudged {question['unjudged']:,}, without an arm {question['no_arm']:,}"
        )
        for variable in question["variables"]:
            yield from _variable(variable)
        yield from _raters(question["variables"][0])


def _variable(variable: Mapping[str, Any]) -> Iterator[str]:
    yield f"  {variable['name'] + ', accuracy':32s} {'value':>6s}  {'95 %':14s} {'answers':>8s} {'items':>7s}"
    for name, found in variable["accuracy"].items():
        more = f"  undecided {found['undecided']:,}" if found.get("undecided") else ""
        yield from _line(name, found, more)
    effects = [(told, variable[name]) for name, told in _EFFECTS.items() if name in variable]
    if any(found["answers"] for _, found in effects):
        yield f"  {variable['name'] + ', effect of suggestions'}"
    for told, found in effects:
        yield from _line(told, found)


def _line(name: str, found: Mapping[str, Any], more: str = "") -> Iterator[str]:
    if found["value"] is not None:
        yield (
            f"    {name[:30]:30s} {_number(found['value'])}  {_interval(found):14s} {found['answers']:8,d} "
            f"{found['items']:7,d}{more}"
        )


def _raters(variable: Mapping[str, Any]) -> Iterator[str]:
    raters = sorted(variable["raters"], key=lambda rater: -rater["answers"])
    if not raters:
        return
    names = ("alone", "joint", "override_wrong", "shift", "planted_accepted")
    told = "".join(f" {name:>22s}" for name in ("alone", "joint", "overrides wrong", "shift", "planted accepted"))
    yield f"  {'rater, on ' + variable['name']:24s} {'answers':>8s}{told}"
    for rater in raters[:RATERS_SHOWN]:
        cells = "".join(f" {_cell(rater[name]):>22s}" for name in names)
        yield f"    {rater['rater'][:22]:22s} {rater['answers']:8,d}{cells}"
    if len(raters) > RATERS_SHOWN:
        yield f"    and {len(raters) - RATERS_SHOWN:,} more"


def _cell(found: Mapping[str, Any]) -> str:
    return "none" if found["value"] is None else f"{_number(found['value']).strip()} {_interval(found)}"


def _number(value: float) -> str:
    return f"{value:6.3f}"


def _interval(found: Mapping[str, Any]) -> str:
    if found["low"] is None or found["high"] is None:
        return "[none]"
    return f"[{found['low']:.3f}, {found['high']:.3f}]"


def _part(count: int, of: int) -> str:
    return f"{count:,} ({count / of:.1%})" if of else f"{count:,}"
