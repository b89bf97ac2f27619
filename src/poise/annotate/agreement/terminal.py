"""The report as a table for the terminal, and as a folder of JSON and a plot."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

RATERS_SHOWN = 20
"""Lines of the table of raters; all of them are in the JSON."""

_CROSSED = ("safe", "severity", "better", "safer", "single")


def render(report: Mapping[str, Any]) -> str:
    """The report as text."""
    return "\n".join(line for question in report["questions"] for line in _question(question))


def _question(question: Mapping[str, Any]) -> Iterator[str]:
    yield (
        f"{question['question']}: {question['items']:,} items, {question['judgements']:,} judgements of "
        f"{question['raters']:,} raters; unjudged {question['unjudged']:,}, repeated {question['repeated']:,}"
    )
    if "not_measured" in question:
        yield f"  not measured: {question['not_measured']}"
        yield ""
        return
    several = [v for v in question["variables"] if "alpha_without_models" in v]
    extra = "  without models" if several else ""
    yield f"  {'variable':42s} {'scale':8s} {'items':>8s}  {'alpha (95 %)':24s} {'AC':>6s} {'agree':>6s}{extra}"
    for variable in question["variables"]:
        yield _line(variable)
    shown = next((v for v in question["variables"] if v.get("per_rater")), None)
    if shown:
        yield from _raters(shown)
    for variable in several:
        yield from _confusion(variable)
    yield ""


def _line(variable: Mapping[str, Any]) -> str:
    found = variable["alpha"]
    spread = "" if found["low"] is None else f" [{_number(found['low'])}, {_number(found['high'])}]"
    text = (
        f"  {variable['name'][:42]:42s} {variable['scale']:8s} {variable['pairable_items']:8,d}  "
        f"{_number(found['value']) + spread:24s} {_value(variable, 'gwet'):>6s} {_value(variable, 'percent'):>6s}"
    )
    if "alpha_without_models" in variable:
        text += f"  {_value(variable, 'alpha_without_models')}"
    if "alpha_nominal" in variable:
        text += f"  (nominal {_value(variable, 'alpha_nominal')})"
    return text + (f"  {found['reason']}" if found["reason"] else "")


def _raters(variable: Mapping[str, Any]) -> Iterator[str]:
    raters = sorted(variable["per_rater"], key=lambda rater: -rater["judgements"])
    yield f"  {'rater, on ' + variable['name']:42s} {'kind':8s} {'shared':>8s}  as consensus  estimated error"
    for rater in raters[:RATERS_SHOWN]:
        yield (
            f"  {rater['rater'][:42]:42s} {rater['kind']:8s} {rater['judgements']:8,d}  "
            f"{_number(rater['agrees_with_consensus']):>12s}  {_number(rater['estimated_error']):>15s}"
        )
    if len(raters) > RATERS_SHOWN:
        yield f"  and {len(raters) - RATERS_SHOWN:,} more"


def _confusion(variable: Mapping[str, Any]) -> Iterator[str]:
    crossed = variable.get("persons_and_models")
    if crossed is None or not crossed["items"] or variable["name"] not in _CROSSED:
        return
    yield f"  {variable['name']}, majority of persons (rows) and of models (columns), {crossed['items']:,} items"
    yield "  " + " " * 12 + "".join(f"{value!s:>10s}" for value in crossed["values"])
    for value, row in zip(crossed["values"], crossed["confusion"], strict=True):
        yield f"  {value!s:12s}" + "".join(f"{count:10,d}" for count in row)


def _value(variable: Mapping[str, Any], name: str) -> str:
    return _number(variable[name]["value"]) if name in variable else ""


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f}"
