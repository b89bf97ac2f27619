"""Names of people for the outside: a keyed hash, or a plain number where there is no key.

    pseudonym = "p-" + first 16 hex digits of HMAC-SHA256(key, name)

Without the key nobody can compute it from a list of names, and with the same key one person has one pseudonym in every
export. The key is a file of its own that only its owner may read; a release has its own key, so that two releases
cannot be joined. A name that is a pseudonym already stays. Without a key people are numbered in the order in which they
first appear in the log: the same in every export of one store, and a stranger learns nothing from it. Models, rules and
imports keep their names. Left out: what people write as reasons is not looked through.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Callable
from pathlib import Path

import sqlalchemy as sa

from poise.errors import PoiseError

PSEUDONYM = re.compile(r"p-[0-9a-f]{16}")
LEAST_BYTES = 32
Naming = Callable[[str], str]
"""The name of a person -> what the outside sees."""


def make_key(path: Path) -> None:
    """Write a fresh random key that only its owner may read.

    Raises:
        PoiseError: the file is there, or cannot be written.
    """
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        raise PoiseError("a file is there already", where=str(path), do="keep it; a lost key is lost") from error
    except OSError as error:
        raise PoiseError(f"cannot be written ({error.strerror})", where=str(path), do="check the path") from error
    with os.fdopen(handle, "w", encoding="ascii") as file:
        file.write(secrets.token_hex(LEAST_BYTES) + "\n")


def read_key(path: Path, out: Path | None = None) -> bytes:
    """The key of a file.

    Args:
        out: what is written with it; the key may not lie in there.

    Raises:
        PoiseError: no such file, others may read it, it is too short, or it would be given away with the export.
    """
    try:
        told, mode = path.read_bytes().strip(), path.stat().st_mode
    except OSError as error:
        raise PoiseError(
            f"no key ({error.strerror})", where=str(path), do="make one with `poise annotate pseudonym-key`"
        ) from error
    if os.name == "posix" and mode & 0o077:
        raise PoiseError(f"others may read it (mode {mode & 0o777:o})", where=str(path), do=f"chmod 600 {path}")
    if len(told) < LEAST_BYTES:
        raise PoiseError(
            f"a key of {len(told)} bytes", where=str(path), do="make one with `poise annotate pseudonym-key`"
        )
    if out is not None and path.resolve().is_relative_to(out.resolve()):
        raise PoiseError("the key lies in what is written", where=str(path), do="keep it somewhere else")
    return told


def keyed(key: bytes) -> Naming:
    """Pseudonyms by keyed hash."""

    def name(person: str) -> str:
        if PSEUDONYM.fullmatch(person):
            return person
        return f"p-{hmac.new(key, person.encode(), hashlib.sha256).hexdigest()[:16]}"

    return name


_FIRST = """
select r.name, min(e.seq) as first from event e join rater r on r.id = e.rater where r.kind = 'person'
and e.seq not in (select seq from event where kind = 'check')
and e.seq not in (select seq from event where target is not null) group by r.name order by first
"""


def numbered(connection: sa.Connection) -> Naming:
    """ "person-1", "person-2", ... by first answer in the log; pseudonyms stay as they are."""
    people = [row.name for row in connection.execute(sa.text(_FIRST)) if not PSEUDONYM.fullmatch(row.name)]
    numbers = {person: f"person-{number}" for number, person in enumerate(people, 1)}
    return lambda person: numbers.get(person, person)
