"""Adjudication in three steps: a blind vote, the reveal of who said what, the outcome with a reason.

The blind vote is kept in a table of its own, where the first vote stands, and goes into `shown` of the adjudication
event. It is no judgement: as one it would be one more vote on the item, could settle it before the adjudicator has seen
anything, and would take the item out of the adjudicator's hands, since nobody decides what they have judged. In the
event it stays in the chained log beside the outcome, so that anybody can count how often the reveal changed a mind.

Raters are shown by kind and a letter ("person A", "model B"). The letter is drawn by hash for each item, so that it
names nobody across items.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Any

import sqlalchemy as sa

from poise.annotate.store import AnnotationStore, schema
from poise.annotate.store.answers import checked_value
from poise.annotate.store.chain import canonical
from poise.annotate.store.log import parsed
from poise.annotate.store.overlap import TIE, Value
from poise.data.rows import uniform_seed
from poise.errors import PoiseError
from poise.harm import CATEGORIES, Category, Severity

REASONS = {
    "slip": "a rater slipped or misread the text",
    "guideline": "the guideline was misread",
    "gap": "the guideline is unclear or has a gap",
    "ambiguous": "the text itself can be read in more than one way",
}
"""Why raters differed, as an adjudicator sees it: code -> words."""

_SAID = """
select j.seq, j.question, j.value, j.reason, j.pins, j.rater, r.kind, i.key, f.pins as now_pins
from current_judgement j join rater r on r.id = j.rater join item i on i.id = j.item
left join final f on f.item = j.item and f.question = j.question
where j.item = :item and r.kind <> 'rule'
union all
select c.seq, c.question, c.value, null, null, c.rater, 'inspector', i.key, null
from current_check c join batch_item t on t.item = c.item and t.rater = c.rater join item i on i.id = c.item
where c.item = :item order by seq
"""
_BLIND = "select question, value from blind_vote where item = :item and rater = :rater"


@dataclass(frozen=True)
class Voice:
    """What one rater says about an item.

    Args:
        kind: "person", "model", "import", or "inspector", who saw the text alone (see `store.batches`).
        letter: of this rater on this item.
        answers: question -> value; None is not judged.
        reasons: question -> reason, where one was given.
        outdated: questions answered under labels that do not stand any more.
    """

    kind: str
    letter: str
    answers: dict[str, Value | None]
    reasons: dict[str, str]
    outdated: frozenset[str]

    @property
    def name(self) -> str:
        """How it is headed."""
        return f"{self.kind} {self.letter}"


@dataclass(frozen=True)
class Line:
    """One line of the comparison: the same part of every answer, and whether they differ in it.

    Args:
        what: "severity", a category or a question.
        own: of the blind vote.
        cells: of the voices, in their order.
    """

    what: str
    own: str
    cells: tuple[str, ...]
    differs: bool


class Adjudication:
    """The steps of one adjudicator on one leased item; every step checks the lease.

    Args:
        rater: the adjudicator's key.
        lease: its token.
    """

    def __init__(self, store: AnnotationStore, rater: int, lease: str) -> None:
        self._store, self._rater, self._lease = store, rater, lease

    def asks(self) -> tuple[str, ...]:
        """The questions to decide.

        Raises:
            PoiseError: as `blind`.
        """
        with self._store.database.read() as db:
            return tuple(parsed(self._held(db)["asks"]))

    def blind(self) -> dict[str, Value] | None:
        """The blind vote; None while a question that is asked has none.

        Raises:
            PoiseError: the lease is over or is none of an adjudicator.
        """
        with self._store.database.read() as db:
            return self._blind(db, self._held(db))

    def vote(self, values: Mapping[str, Any]) -> dict[str, Value]:
        """Give the blind vote; what was voted before stands.

        Raises:
            PoiseError: as `blind`; an answer is missing, malformed or was not asked.
        """
        with self._store.database.write() as db:
            held = self._held(db)
            asked = parsed(held["asks"])
            if set(values) != set(asked):
                raise PoiseError("the blind vote is not whole", where="vote", do=f"answer {', '.join(asked)}")
            known = self._votes(db, held)
            for question in asked:
                value = checked_value(question, values[question], f"vote on {question}")
                if value is None:
                    raise PoiseError(f"no vote on {question}", where="vote", do="vote, or give the item back")
                if question not in known:
                    row = {"item": held["item"], "rater": self._rater, "question": question}
                    told = {"value": canonical(value), "at_ms": self._store.now_ms()}
                    db.execute(sa.insert(schema.blind_vote).values(**row, **told))
            voted = self._blind(db, held)
        assert voted is not None
        return voted

    def reveal(self) -> tuple[Voice, ...]:
        """Who said what.

        Raises:
            PoiseError: as `blind`, or the blind vote was not given.
        """
        with self._store.database.read() as db:
            held = self._held(db)
            if self._blind(db, held) is None:
                raise PoiseError("the blind vote comes first", where="reveal", do="vote without seeing the others")
            return voices(db, held["item"])

    def decide(
        self,
        values: Mapping[str, Any],
        *,
        code: str,
        note: str,
        token: str,
        left: int | None = None,
        client_ms: int | None = None,
    ) -> dict[str, int]:
        """Decide, with a reason; returns question -> number of the event. Sent twice it is stored once.

        Args:
            code: one of `REASONS`.
            note: in the adjudicator's own words, or empty.
            token: chosen by the page.
            left: the response of a pair that was shown on the left.
            client_ms: how long it took.

        Raises:
            PoiseError: no reason, no blind vote, or as `AnnotationStore.submit`.
        """
        if code not in REASONS:
            raise PoiseError(f"{code!r} is no reason", where="outcome", do=f"choose one of {', '.join(REASONS)}")
        reason = f"{code}: {note.strip()}" if note.strip() else code
        with self._store.database.read() as db:
            query = sa.text("select 1 from event where token = :token and rater = :rater")
            known = db.execute(query, {"token": token, "rater": self._rater}).first()
            blind = None if known else self._blind(db, self._held(db))
        if not known and blind is None:
            raise PoiseError("the blind vote comes first", where="outcome", do="vote without seeing the others")
        shown = {"blind": blind} if left is None else {"blind": blind, "left": left}
        return self._store.submit(
            self._rater, self._lease, values, token=token, reason=reason, shown=shown, client_ms=client_ms
        )

    def _held(self, db: sa.Connection) -> sa.RowMapping:
        query = sa.text("select * from lease where token = :token and rater = :rater and expires_ms > :now")
        told = {"token": self._lease, "rater": self._rater, "now": self._store.now_ms()}
        row = db.execute(query, told).mappings().first()
        if row is None or not row["adjudicate"]:
            raise PoiseError(
                "this adjudication is over: its lease expired, or it was decided",
                where="adjudication",
                do="take the next one; your blind vote is kept",
            )
        return row

    def _votes(self, db: sa.Connection, held: sa.RowMapping) -> dict[str, Value]:
        rows = db.execute(sa.text(_BLIND), {"item": held["item"], "rater": self._rater})
        return {row.question: parsed(row.value) for row in rows}

    def _blind(self, db: sa.Connection, held: sa.RowMapping) -> dict[str, Value] | None:
        votes, asked = self._votes(db, held), parsed(held["asks"])
        return {question: votes[question] for question in asked} if set(asked) <= set(votes) else None


def voices(db: sa.Connection, item: int) -> tuple[Voice, ...]:
    """What every rater but the rules, and every inspector, says about an item now, in the order of their letters."""
    said: dict[int, list[sa.RowMapping]] = {}
    for row in db.execute(sa.text(_SAID), {"item": item}).mappings():
        said.setdefault(row["rater"], []).append(row)
    order = sorted(said, key=lambda rater: uniform_seed(rater, said[rater][0]["key"], "letter"))
    return tuple(
        Voice(
            kind=said[rater][0]["kind"],
            letter=_letter(place),
            answers={row["question"]: parsed(row["value"]) for row in said[rater]},
            reasons={row["question"]: row["reason"] for row in said[rater] if row["reason"]},
            outdated=frozenset(
                row["question"] for row in said[rater] if row["pins"] is not None and row["pins"] != row["now_pins"]
            ),
        )
        for place, rater in enumerate(order)
    )


def hinted(store: AnnotationStore, item: int) -> tuple[Category, ...]:
    """The categories that anybody has named for an item or its responses."""
    query = sa.text("select h.category from item i join hint h on h.item in (i.id, i.qa_0, i.qa_1) where i.id = :item")
    with store.database.read() as db:
        named = set(db.execute(query, {"item": item}).scalars())
    return tuple(category for category in CATEGORIES if category.code in named)


def comparison(
    asks: Sequence[str], own: Mapping[str, Value], said: Sequence[Voice], sides: Sequence[str]
) -> list[Line]:
    """The answers side by side: for a label the severity and each category that anybody names, else each question.

    Args:
        asks: the questions to decide.
        own: the blind vote.
        sides: what responses 0 and 1 are called on the page.
    """
    lines = []
    for question in asks:
        values = [voice.answers.get(question) for voice in said]
        if question != "label":
            lines.append(_line(question, [choice_words(value, sides) for value in (own[question], *values)]))
            continue
        labels = [own[question], *values]
        levels = ["not judged" if one is None else Severity(one["severity"]).label for one in labels]
        lines.append(_line("severity", levels))
        for category in CATEGORIES:
            named = ["–" if one is None else "yes" if category.code in one["categories"] else "no" for one in labels]
            if "yes" in named:
                lines.append(_line(f"{category.code} {category.value}", named))
    return lines


def choice_words(value: Value | None, sides: Sequence[str]) -> str:
    """A choice in words: "left, much", "right, slightly", "equal", "not judged"; without strength the side alone."""
    if value is None:
        return "not judged"
    if value["choice"] == TIE:
        return "equal"
    strength = {1: ", slightly", 2: ", much"}.get(value.get("strength") or 0, "")
    return f"{sides[value['choice']]}{strength}"


def _line(what: str, cells: Sequence[str]) -> Line:
    told = [cell for cell in cells if cell not in ("–", "not judged")]
    return Line(what, cells[0], tuple(cells[1:]), len(set(told)) > 1)


def _letter(place: int) -> str:
    return ascii_uppercase[place] if place < len(ascii_uppercase) else str(place + 1)
