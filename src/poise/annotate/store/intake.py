"""Texts and items into the store, a batch at a time; what is there already is found by its content and left alone."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from poise.annotate.store import schema
from poise.annotate.store.chain import canonical, item_key
from poise.data.corpus import canonical_json
from poise.data.records import QARecord, Record, SingleRecord

_CHUNK = 500
_CARRIED = ("split", "language", "dataset", "licence", "source_id", "image")


@dataclass(frozen=True)
class Source:
    """One item as it is to be stored: kind, prompt, responses, their public hashes and sources, and what is carried."""

    kind: str
    record: Record
    prompt: str
    responses: tuple[str, ...]
    hashes: tuple[str, ...]
    sources: tuple[str | None, ...]
    prompt_source: str | None

    @property
    def turns(self) -> list[dict[str, str]]:
        """The conversation before the prompt."""
        return [{"role": turn.role, "content": turn.content} for turn in self.record.turns]

    def side(self, i: int) -> Source:
        """The QA item of response `i`."""
        one = (self.responses[i],), (self.hashes[i],), (self.sources[i],)
        return Source("qa", self.record, self.prompt, *one, self.prompt_source)

    def carried(self) -> str:
        """JSON of what is not text."""
        told: dict[str, Any] = {name: getattr(self.record, name) for name in _CARRIED}
        told |= {"turns": self.turns or None, "prompt_source": self.prompt_source, "response_sources": self.sources}
        provenance = None if self.kind == "qa" and not isinstance(self.record, QARecord) else self.record.provenance
        return canonical(told | {"provenance": provenance})


def qa_source(record: QARecord) -> Source:
    """A QA row as an item."""
    sources = (record.response_source,)
    return Source("qa", record, record.prompt, (record.response,), (record.item,), sources, record.prompt_source)


def pair_source(record: SingleRecord, kind: str) -> Source:
    """A pair of responses as an item of kind "pair" or "single"."""
    return Source(
        kind, record, record.prompt, record.responses, record.items, record.response_sources, record.prompt_source
    )


@dataclass(frozen=True)
class Stored:
    """Where an item is: key in the store, content hash; is it new, and do its responses stand the other way round."""

    id: int
    key: str
    new: bool
    swapped: bool = False


class Intake:
    """Adds texts and items inside one writing transaction.

    Args:
        claim: a gold item that was no data becomes data when it comes as such, and is new; else it stays what it is.
    """

    def __init__(self, connection: sa.Connection, *, claim: bool = True) -> None:
        self._db = connection
        query = sa.text("select item from gold where not data")
        self._hidden = set(connection.execute(query).scalars()) if claim else set[int]()
        self._next = {
            table.name: (connection.execute(sa.select(sa.func.max(table.c.id))).scalar() or 0) + 1
            for table in (schema.text, schema.item)
        }

    def add(self, sources: Sequence[Source], sides: Sequence[tuple[int, int] | None] | None = None) -> list[Stored]:
        """Add items of one kind; returns where each is, in order.

        Args:
            sides: for pairs, the keys of their two QA items.
        """
        if not sources:
            return []
        bodies = {text: canonical_json(text) for one in sources for text in (one.prompt, *one.responses)}
        texts = self._texts(bodies)
        keys = [item_key(one.turns, one.record.image, *_bodies(one, bodies)) for one in sources]
        other = [item_key(one.turns, one.record.image, *_bodies(one, bodies, swap=True)) for one in sources]
        known = self._known(sources[0].kind, {*keys, *other})
        stored, rows = [], []
        for n, (one, key, reverse) in enumerate(zip(sources, keys, other, strict=True)):
            found = known.get(key, known.get(reverse))
            if found is not None:
                swapped = key not in known
                new = self._claim(found, one, swapped=swapped)
                stored.append(Stored(found, reverse if swapped else key, new=new, swapped=swapped))
                continue
            known[key] = identity = self._number("item")
            stored.append(Stored(identity, key, new=True))
            qa = (sides[n] if sides else None) or (None, None)
            rows.append(_row(identity, key, one, bodies, texts, qa))
        if rows:
            self._db.execute(sa.insert(schema.item), rows)
        return stored

    def _claim(self, item: int, one: Source, *, swapped: bool) -> bool:
        """Make a gold item data, with what its row carries; returns whether it was none."""
        if item not in self._hidden:
            return False
        self._hidden.remove(item)
        record = json.loads(one.carried())
        if swapped:
            record["response_sources"].reverse()
        table, gold = schema.item, schema.gold
        self._db.execute(sa.update(table).where(table.c.id == item).values(record=canonical(record)))
        self._db.execute(sa.update(gold).where(gold.c.item == item).values(data=True))
        return True

    def _number(self, table: str) -> int:
        self._next[table] += 1
        return self._next[table] - 1

    def _texts(self, bodies: Mapping[str, str]) -> dict[str, int]:
        """The keys of texts, added where they are new."""
        digests = {text: hashlib.sha256(body.encode()).hexdigest() for text, body in bodies.items()}
        table, found = schema.text, dict[str, int]()
        for chunk in _chunks(list(digests.values())):
            rows = self._db.execute(sa.select(table.c.sha256, table.c.id).where(table.c.sha256.in_(chunk)))
            found.update((row.sha256, row.id) for row in rows)
        fresh = [text for text, digest in digests.items() if digest not in found]
        found |= {digests[text]: self._number("text") for text in fresh}
        if fresh:
            rows_ = [{"id": found[digests[t]], "sha256": digests[t], "body": bodies[t]} for t in fresh]
            self._db.execute(sa.insert(table), rows_)
        return {text: found[digest] for text, digest in digests.items()}

    def _known(self, kind: str, keys: Iterable[str]) -> dict[str, int]:
        table, found = schema.item, dict[str, int]()
        for chunk in _chunks(sorted(keys)):
            query = sa.select(table.c.key, table.c.id).where(table.c.kind == kind, table.c.key.in_(chunk))
            found.update((row.key, row.id) for row in self._db.execute(query))
        return found


def _bodies(one: Source, bodies: Mapping[str, str], *, swap: bool = False) -> list[str]:
    responses = [bodies[text] for text in one.responses]
    return [bodies[one.prompt], *(reversed(responses) if swap else responses)]


def _row(
    identity: int, key: str, one: Source, bodies: Mapping[str, str], texts: Mapping[str, int], qa: tuple[Any, Any]
) -> dict[str, Any]:
    responses = [texts[text] for text in one.responses]
    return {
        "id": identity,
        "kind": one.kind,
        "key": key,
        "prompt": texts[one.prompt],
        "response_0": responses[0],
        "response_1": responses[1] if len(responses) > 1 else None,
        "qa_0": qa[0],
        "qa_1": qa[1],
        "hash_0": one.hashes[0],
        "hash_1": one.hashes[1] if len(one.hashes) > 1 else None,
        "thread": thread_key(one.turns, one.record.image, bodies[one.prompt]),
        "record": one.carried(),
    }


def thread_key(turns: Sequence[Mapping[str, str]], image: str | None, prompt: str) -> str:
    """Names the conversation that several answers share; `prompt` is a JSON string."""
    return item_key(list(turns), image, prompt)


def _chunks(values: Sequence[str]) -> Iterable[Sequence[str]]:
    return (values[at : at + _CHUNK] for at in range(0, len(values), _CHUNK))
