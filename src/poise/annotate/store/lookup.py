"""Items by the response hashes that judgements name them by, many at a time."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import sqlalchemy as sa

from poise.annotate.store import schema

_CHUNK = 500
Named = tuple[str, tuple[str, ...]]
"""Kind of item, and the hash of its response or both hashes in any order."""


class Found(NamedTuple):
    """Key in the store, content hash, and whether the responses stand the other way round there."""

    id: int
    key: str
    swapped: bool


def find_items(db: sa.Connection, named: Iterable[Named]) -> dict[Named, Found]:
    """Where the items are; gold that is no data, and what the store does not have, are left out. Of several equal ones
    the first counts."""
    wanted = set(named)
    hashes = sorted({sha256 for _, pair in wanted for sha256 in pair})
    table, rows = schema.item, dict[Named, tuple[int, str]]()
    hidden = sa.select(schema.gold.c.item).where(~schema.gold.c.data)
    for at in range(0, len(hashes), _CHUNK):
        query = sa.select(table.c.id, table.c.kind, table.c.key, table.c.hash_0, table.c.hash_1)
        query = query.where(table.c.hash_0.in_(hashes[at : at + _CHUNK]), table.c.id.not_in(hidden))
        query = query.order_by(table.c.id)
        for identity, kind, key, first, second in db.execute(query):
            rows.setdefault((kind, (first,) if second is None else (first, second)), (identity, key))
    found = {}
    for one in wanted:
        kind, pair = one
        straight, turned = rows.get(one), rows.get((kind, pair[::-1])) if len(pair) > 1 else None
        if straight is not None and (turned is None or straight[0] <= turned[0]):
            found[one] = Found(*straight, swapped=False)
        elif turned is not None:
            found[one] = Found(*turned, swapped=True)
    return found
