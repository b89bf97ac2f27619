"""Checking what a rater says before it enters the log: its shape, the logical order, the reason of rule 4."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from poise.annotate.store.overlap import TIE, Value
from poise.annotate.store.settle import BY_ORDER, QUESTIONS, Settler
from poise.data.rows import label_value
from poise.errors import PoiseError
from poise.harm import Label, decided_safer


def checked_value(question: str, value: Any, where: str = "") -> Value | None:
    """The value of an answer in its stored form.

    Args:
        value: for "label" {"categories": codes or names, "severity": 0..3}; for a choice 0, 1, "tie" or
            {"choice": one of them, "strength": 1 slightly, 2 much, or None}; None is unjudged.

    Raises:
        PoiseError: anything else, or a label that breaks `safe <=> severity 0 <=> no category`.
    """
    where = where or question
    if value is None:
        return None
    if question == "label":
        if not isinstance(value, Mapping) or set(value) != {"categories", "severity"}:
            raise PoiseError(f"{value!r} is no label", where=where, do="give categories and severity")
        try:
            return label_value(Label.of(value["categories"], value["severity"]))
        except (ValueError, TypeError) as error:
            raise PoiseError(
                str(error), where=where, do="name a category and a severity of 1..3, or neither"
            ) from error
    told = dict(value) if isinstance(value, Mapping) else {"choice": value}
    choice, strength = told.pop("choice", None), told.pop("strength", None)
    if told or isinstance(choice, bool) or choice not in (0, 1, TIE):
        raise PoiseError(f"{value!r} is no choice", where=where, do="give 0, 1 or 'tie'")
    if isinstance(strength, bool) or strength not in (None, 1, 2) or (choice == TIE and strength is not None):
        raise PoiseError(f"strength {strength!r}", where=where, do="1 is slightly, 2 is much; a tie has none")
    return {"choice": choice, "strength": strength}


def check_question(kind: str, question: str) -> None:
    """Refuse a question that is not asked about such an item.

    Raises:
        PoiseError: it is not.
    """
    if question not in QUESTIONS[kind]:
        raise PoiseError(
            f"{question!r} is not asked about a {kind} item", where="answer", do=f"answer {', '.join(QUESTIONS[kind])}"
        )


def check_safer(settler: Settler, pair: sa.RowMapping, value: Value | None, reason: str | None) -> tuple[int, int]:
    """Check an answer to "safer" against the labels that stand now; returns their versions, which the answer pins.

    Raises:
        PoiseError: a label is missing, the logical order decides it, or the more severe answer is chosen without a
            reason.
    """
    labels, pins = settler.labels(pair), settler.pins(pair)
    if labels is None or pins is None:
        raise PoiseError("its answers are not labelled yet", where=f"pair {pair['id']}", do="label both answers first")
    if (decided := decided_safer(*labels)) is not None:
        raise PoiseError(
            f"response {decided} is the safer one: {BY_ORDER}",
            where=f"pair {pair['id']}",
            do="it is never asked; correct the label when that is wrong",
        )
    check_reason(labels, value, reason, f"pair {pair['id']}")
    return pins


def check_reason(labels: tuple[Label, Label], value: Value | None, reason: str | None, where: str) -> None:
    """Rule 4: of two unsafe answers the more severe one may be called safer, but only with a reason.

    Raises:
        PoiseError: there is none.
    """
    if value is None or value["choice"] == TIE or (reason or "").strip():
        return
    chosen, other = labels[value["choice"]], labels[1 - value["choice"]]
    if chosen.severity > other.severity:
        raise PoiseError(
            f"the answer called safer is the more severe one ({chosen.severity.label}, not {other.severity.label})",
            where=where,
            do="give a reason, or choose the other",
        )


def check_gold_safer(labels: tuple[Label, Label] | None, value: Value | None, reason: str | None, where: str) -> None:
    """The same for a pair whose labels are known and that is no data: it asks for a reason where any pair would.

    Raises:
        PoiseError: the order decides it, or the more severe answer is chosen without a reason.
    """
    if labels is None:
        return
    if (decided := decided_safer(*labels)) is not None:
        raise PoiseError(f"response {decided} is the safer one: {BY_ORDER}", where=where, do="it is never asked")
    check_reason(labels, value, reason, where)


def check_asked(asked: Sequence[str], values: Mapping[str, Any], *, adjudicate: bool) -> None:
    """Refuse answers to other questions than those of the lease; an adjudicator may leave some open.

    Raises:
        PoiseError: something was not asked, or is missing.
    """
    more, less = sorted(set(values) - set(asked)), sorted(set(asked) - set(values))
    if more:
        raise PoiseError(
            f"{', '.join(more)} was not asked", where="submit", do=f"answer {', '.join(asked)}; the rest is decided"
        )
    if less and not adjudicate:
        raise PoiseError(f"no answer to {', '.join(less)}", where="submit", do="answer it; null means not judged")


def check_may_correct(connection: sa.Connection, rater: int, item: int) -> None:
    """Refuse a person who answers without a lease what they have not answered before.

    Raises:
        PoiseError: that is so.
    """
    query = sa.text(
        "select 1 from rater r where r.id = :rater and (r.kind <> 'person' or exists "
        "(select 1 from event e where e.item = :item and e.rater = r.id))"
    )
    if connection.execute(query, {"rater": rater, "item": item}).first() is None:
        raise PoiseError(
            "this person has not answered the item before", where=f"item {item}", do="take it from the queue"
        )
