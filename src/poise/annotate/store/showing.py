"""What each person is shown of a model's judgement: fixed when a task is first given, and written with the answer.

The suggestion is the latest current judgement of the model that the joint policy names, about the question and, for
"safer", under the labels that stand. Only the value is shown, never the model's reason: a planted value has none, and
would be known by that. A person without a suggestion because the model has not judged the item is in no arm; such
answers are not drawn at random and the report leaves them out.

An answer that was given after a planted suggestion was shown stays in the log and in the report but is no vote: the
item wants one more person. In `blind_then_reveal` the blind answer is the vote, since it came before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from poise.annotate.store import schema
from poise.annotate.store.chain import canonical
from poise.annotate.store.joint import JointPolicy
from poise.annotate.store.log import parsed
from poise.annotate.store.overlap import Value, Vote, is_clear

PLANTED = "planted"
"""Arm of an answer after a planted suggestion, which is no vote."""

_SUGGESTED = """
select j.seq, j.value, j.pins from current_judgement j join rater r on r.id = j.rater
where j.item = :item and j.question = :question and r.kind = 'model' and r.name = :name order by j.seq desc limit 1
"""
_VOTES = """
select r.kind, j.value, j.pins from counted_judgement j join rater r on r.id = j.rater
where j.item = :item and j.question = :question and j.value is not null order by j.seq
"""
_ROWS = "select * from showing where item = :item and rater = :rater order by question"
_BEFORE = """
select question, value from event where item = :item and rater = :rater and kind = 'judge'
and shown like '{"arm":"blind",%' order by seq
"""


@dataclass(frozen=True)
class View:
    """What a task shows of the joint protocol.

    Args:
        arm: "control", "assist", "blind", or None where there is no suggestion to show or to withhold.
        suggestion: question -> value that is shown now, None where nothing is.
        before: question -> the rater's own blind answer, None until the suggestion is shown.
    """

    arm: str | None = None
    suggestion: dict[str, Value] | None = None
    before: dict[str, Value | None] | None = None


def shown_plant(shown: Any) -> bool:
    """Whether an answer was given after a planted suggestion was shown.

    Args:
        shown: that of an event, parsed; in SQL it is `counted_judgement` that leaves such answers out.
    """
    return isinstance(shown, dict) and shown.get("arm") == PLANTED


class Showing:
    """What people are shown, inside one transaction."""

    def __init__(self, connection: sa.Connection, joint: JointPolicy) -> None:
        self._db, self._joint = connection, joint

    def assign(self, item: int, rater: int, asks: Sequence[str], pins: str | None) -> None:
        """Fix what a person is shown about these questions, unless it is fixed already.

        Args:
            pins: JSON of the label versions that "safer" rests on; when they have changed, it is fixed anew.
        """
        if not self._joint.suggests:
            return
        query = sa.text(
            "select i.kind, i.key, r.name, r.kind as who from item i, rater r where i.id = :i and r.id = :r"
        )
        named = self._db.execute(query, {"i": item, "r": rater}).mappings().one()
        if named["who"] != "person":
            return
        known = {row["question"]: row["pins"] for row in self._rows(item, rater)}
        for question in asks:
            rests_on = pins if question == "safer" else None
            if question in known and known[question] == rests_on:
                continue
            fixed = self._fix(item, named, question, rests_on)
            table, at = schema.showing, {"item": item, "rater": rater, "question": question}
            if question in known:
                self._db.execute(sa.delete(table).filter_by(**at))
            if fixed is not None:
                self._db.execute(sa.insert(table).values(**at, **fixed, pins=rests_on))

    def view(self, lease: sa.RowMapping) -> View:
        """What belongs on the page of a lease."""
        if lease["adjudicate"] or lease["probe"]:
            return View()
        rows = [row for row in self._rows(lease["item"], lease["rater"]) if row["question"] in parsed(lease["asks"])]
        if not rows:
            return View()
        arm, revealed = rows[0]["arm"], bool(lease["revealed"])
        visible = arm == "assist" or (arm == "blind" and revealed)
        suggestion = {row["question"]: parsed(row["value"]) for row in rows} if visible else None
        return View(arm, suggestion, self._before(lease) if revealed else None)

    def is_blind(self, lease: sa.RowMapping) -> bool:
        """Whether a lease waits for the answer before the reveal."""
        return not lease["revealed"] and self.view(lease).arm == "blind"

    def recorded(self, lease: sa.RowMapping, *, before: bool, page: Any = None) -> dict[str, Any]:
        """Question -> what the log keeps beside an answer to a lease.

        `arm`: "control"; "assist"; "blind" and "revealed", before and after; "planted" where a wrong one was shown on
        purpose. `suggestion` where one was shown, `withheld` where it was not; `event`, the model's judgement it comes
        from; `planted` where the value, shown or withheld, is not that judgement's.

        Args:
            before: the answer comes before the reveal.
            page: how the page showed the item, kept as `page`.
        """
        told: dict[str, Any] = {question: {} for question in parsed(lease["asks"])}
        if not lease["adjudicate"] and not lease["probe"]:
            told |= self._told(lease["item"], lease["rater"], before=before)
        return {question: one | ({} if page is None else {"page": page}) or None for question, one in told.items()}

    def corrected(self, item: int, rater: int) -> dict[str, Any]:
        """As `recorded`, for an answer without a lease: a blind one has been followed by the reveal."""
        return self._told(item, rater, before=False)

    def _told(self, item: int, rater: int, *, before: bool) -> dict[str, Any]:
        told = {}
        for row in self._rows(item, rater):
            hidden = row["arm"] == "control" or (row["arm"] == "blind" and before)
            arm = row["arm"] if hidden or row["arm"] == "assist" else "revealed"
            one = {"arm": PLANTED if row["planted"] and not hidden else arm, "event": row["source"]}
            one["withheld" if hidden else "suggestion"] = parsed(row["value"])
            told[row["question"]] = one | ({"planted": True} if row["planted"] else {})
        return told

    def _rows(self, item: int, rater: int) -> Sequence[sa.RowMapping]:
        if not self._joint.suggests:
            return []
        return self._db.execute(sa.text(_ROWS), {"item": item, "rater": rater}).mappings().all()

    def _before(self, lease: sa.RowMapping) -> dict[str, Value | None]:
        rows = self._db.execute(sa.text(_BEFORE), {"item": lease["item"], "rater": lease["rater"]}).mappings()
        asks = parsed(lease["asks"])
        return {row["question"]: parsed(row["value"]) for row in rows if row["question"] in asks}

    def _fix(self, item: int, named: sa.RowMapping, question: str, pins: str | None) -> dict[str, Any] | None:
        """Arm, value and source, None where the model has said nothing."""
        at = {"item": item, "question": question}
        said = self._db.execute(sa.text(_SUGGESTED), at | {"name": self._joint.suggester}).mappings().first()
        if said is None or said["value"] is None or said["pins"] != pins:
            return None
        kind, key, rater = named["kind"], named["key"], named["name"]
        rows, value = self._db.execute(sa.text(_VOTES), at).mappings(), parsed(said["value"])
        clear = is_clear([Vote(row["kind"], parsed(row["value"])) for row in rows if row["pins"] == pins])
        planted = clear and self._joint.plants(kind, key, rater, question)
        if planted:
            value = self._joint.wrong(kind, key, question, value)
        arm = self._joint.arm(kind, key, rater)
        fixed = {"arm": arm, "value": canonical(value), "clear": clear, "planted": planted}
        return fixed | {"source": said["seq"]}
