"""One run for each folder: a lock that the operating system releases when the process ends, however it ends."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from poise.errors import PoiseError


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold `<folder>/.lock` for the length of the `with` block.

    Raises:
        PoiseError: another process holds it; the message names that process.
    """
    with (folder / ".lock").open("a+", encoding="ascii") as file:
        if not _take(file):
            file.seek(0)
            owner = file.read().strip()
            raise PoiseError(
                f"another run (process {owner or 'unknown'}) is working in this folder",
                where=str(folder),
                do="wait for it to end, or choose another folder with --out",
                exit_code=3,
            )
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


if sys.platform == "win32":
    import msvcrt

    def _take(file: IO[str]) -> bool:
        file.seek(
            1 << 30
        )  # Windows locks are mandatory: lock a byte nobody reads, so that the owner's id stays legible
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

else:
    import fcntl

    def _take(file: IO[str]) -> bool:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
