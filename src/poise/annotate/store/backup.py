"""A copy of a store that is in use, checked before it gets its name.

SQLite only: its own backup copies one state while others go on writing. PostgreSQL has `pg_dump`.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from pathlib import Path

from poise.annotate.store.chain import Checked
from poise.annotate.store.store import AnnotationStore
from poise.errors import PoiseError

_PAGES, _PAUSE_S = 20_000, 0.0


def back_up(store: AnnotationStore, path: Path) -> Checked:
    """Copy a store into a file that appears when the copy has been verified; returns what `verify` found there.

    Raises:
        PoiseError: the store is in PostgreSQL, the file is there, the disk is full, or the copy does not verify (exit
            code 4); then nothing is left behind.
    """
    if not store.database.sqlite:
        raise PoiseError(
            "this store is in PostgreSQL", where=store.database.name, do=f"pg_dump --format=custom --file={path} URL"
        )
    if path.exists():
        raise PoiseError("a file is there already", where=str(path), do="choose another name")
    part = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _copy(Path(store.database.name), part)
        with AnnotationStore.open(part) as copy:
            checked = copy.verify()
        if checked.fault is not None:
            raise PoiseError(
                f"the copy does not verify: {checked.fault}",
                where=store.database.name,
                do="go back to a copy that verifies",
                exit_code=4,
            )
        part.rename(path)
    except (OSError, sqlite3.Error) as error:
        raise PoiseError(
            f"cannot be copied ({error})", where=str(path), do="check path and disk", exit_code=3
        ) from error
    finally:
        for leftover in (part, *(part.with_name(part.name + end) for end in ("-wal", "-shm", "-journal"))):
            with contextlib.suppress(FileNotFoundError):
                leftover.unlink()
    return checked


def _copy(source: Path, target: Path) -> None:
    with (
        contextlib.closing(sqlite3.connect(source)) as old,
        contextlib.closing(sqlite3.connect(target)) as new,
    ):
        old.backup(new, pages=_PAGES, sleep=_PAUSE_S)
    with target.open("rb") as file:
        os.fsync(file.fileno())
