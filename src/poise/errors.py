"""The one error that a user is meant to read.

Everything that a user can cause (a misspelt key, a missing file, a bad row) ends as a `PoiseError` with three
parts: what is wrong, where, and what to do. The command line prints it as one line and leaves with `exit_code`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


class PoiseError(Exception):
    """A problem the user can mend.

    Args:
        what: what is wrong, with the offending value.
        where: file, row, key or stage it came from.
        do: what the user can do about it.
        exit_code: process exit status. 2 = wrong input, 3 = environment (disk, network, memory), 4 = a run failed.
    """

    def __init__(self, what: str, *, where: str = "", do: str = "", exit_code: int = 2) -> None:
        self.what, self.where, self.do, self.exit_code = what, where, do, exit_code
        super().__init__(": ".join(part for part in (where, what) if part) + (f" ({do})" if do else ""))


@contextmanager
def in_one_line() -> Iterator[None]:
    """Around what a script does: a `PoiseError` is printed as the command line does it, and its code is the exit's."""
    try:
        yield
    except PoiseError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
