"""The controls of an answer as pages show them, and what a sent form says: the same for all that is judged.

A step of a pair line is "0:2", "0:1", "tie", "1:1" or "1:2": response and strength (2 much, 1 slightly), by the
response ids of the store, whichever side of the page a response is shown on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from poise.annotate.store.overlap import TIE, Value
from poise.annotate.workbench.guidelines import Page, pages
from poise.errors import PoiseError
from poise.harm import Severity

TITLES = {"better": "More helpful", "safer": "Less harmful", "single": "Better overall"}
"""Question about a pair -> its words."""
KEYS = {"better": "12345", "safer": "67890", "single": "12345"}
"""Question about a pair -> the keys of its five steps, as on the task pages."""
_SIDES = ("left", "right")


class SentForm(Protocol):
    """A form that was sent; a name may occur more than once."""

    def get(self, key: str) -> Any:
        """The last value, None where there is none."""
        ...

    def getlist(self, key: Any) -> Sequence[Any]:
        """All values."""
        ...


@dataclass(frozen=True)
class Level:
    """A severity."""

    value: int
    name: str


@dataclass(frozen=True)
class Step:
    """One of the five steps of a line."""

    value: str
    words: str


@dataclass(frozen=True)
class StepLine:
    """A question about a pair; `chosen` is the value of a step or "", `keys` has one for each step."""

    question: str
    title: str
    steps: tuple[Step, ...]
    chosen: str
    keys: str


@dataclass(frozen=True)
class LockedLine:
    """A question that is decided already."""

    title: str
    words: str
    reason: str


@dataclass(frozen=True)
class AnswerForm:
    """What is asked and what is chosen; `label` is None where no label is asked."""

    label: dict[str, Any] | None
    lines: tuple[StepLine, ...] = ()
    locked: tuple[LockedLine, ...] = ()
    says: str = ""
    levels: tuple[Level, ...] = tuple(Level(int(level), level.label) for level in Severity)
    pages: tuple[Page, ...] = field(default_factory=lambda: tuple(pages()))


def sides(swapped: bool) -> tuple[str, str]:
    """Where responses 0 and 1 are shown."""
    return (_SIDES[1], _SIDES[0]) if swapped else _SIDES


def answer_form(
    asks: Sequence[str],
    *,
    chosen: Mapping[str, Value] | None = None,
    locked: Mapping[str, Mapping[str, Any]] | None = None,
    swapped: bool = False,
) -> AnswerForm:
    """The controls for questions.

    Args:
        asks: questions, "label" or those about a pair.
        chosen: what is filled in.
        locked: question -> value and reason of what is decided.
        swapped: whether response 1 is shown on the left.
    """
    chosen = chosen or {}
    empty: dict[str, Any] = {"categories": [], "severity": None}
    steps = five_steps(int(swapped))
    return AnswerForm(
        label=dict(chosen.get("label") or empty) if "label" in asks else None,
        lines=tuple(
            StepLine(
                question,
                TITLES[question],
                steps,
                step_value(chosen[question]) if question in chosen else "",
                KEYS[question],
            )
            for question in asks
            if question != "label"
        ),
        locked=tuple(
            LockedLine(TITLES[question], sides(swapped)[told["choice"]], told["reason"])
            for question, told in (locked or {}).items()
        ),
    )


def five_steps(left: int) -> tuple[Step, ...]:
    """The steps of a line from left to right, where response `left` is shown on the left."""
    return (
        Step(f"{left}:2", "left, much"),
        Step(f"{left}:1", "left, slightly"),
        Step(TIE, "equal"),
        Step(f"{1 - left}:1", "right, slightly"),
        Step(f"{1 - left}:2", "right, much"),
    )


def step_value(value: Value) -> str:
    """The step of a choice; one without strength is the slight one."""
    return TIE if value["choice"] == TIE else f"{value['choice']}:{value.get('strength') or 1}"


def sent_values(form: SentForm, asks: Sequence[str]) -> dict[str, Any]:
    """The answers in a form, in the shape that the store takes; `checked_value` checks them.

    Raises:
        PoiseError: a question has no answer, or one that no control gives.
    """
    values: dict[str, Any] = {}
    for question in asks:
        if question == "label":
            severity = str(form.get("severity") or "")
            if severity not in ("0", "1", "2", "3"):
                raise PoiseError("no severity", where="label", do="choose 0 to 3")
            values[question] = {"categories": list(form.getlist("category")), "severity": int(severity)}
            continue
        step = str(form.get(question) or "")
        if step not in (TIE, "0:1", "0:2", "1:1", "1:2"):
            raise PoiseError(f"no step for {TITLES[question].lower()!r}", where=question, do="choose 1 to 5")
        choice, _, strength = step.partition(":")
        values[question] = (
            {"choice": TIE, "strength": None} if step == TIE else {"choice": int(choice), "strength": int(strength)}
        )
    return values


def adopted(answers: Mapping[str, Value | None], asks: Sequence[str]) -> dict[str, Any] | None:
    """What a page fills in when a rater's answer is taken: name of the control -> value or values; None for nothing."""
    told: dict[str, Any] = {}
    for question in asks:
        value = answers.get(question)
        if value is not None and question == "label":
            told |= {"severity": str(value["severity"]), "category": list(value["categories"])}
        elif value is not None:
            told[question] = step_value(value)
    return told or None
