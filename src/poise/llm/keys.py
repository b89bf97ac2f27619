"""API keys: read from the environment or a file, shown to nobody but the server they belong to.

Its repr tells where it came from, and it is never pickled, so it can't slip into a log, a store or an error. What is
left out: key rings and vaults; both can write a file or set a variable.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import NoReturn

from poise.errors import PoiseError

_LONGEST = 4096


class Key:
    """A secret and where it came from; make one with `from_env` or `from_file`.

    Args:
        secret: the key itself.
        source: what to call it.
        warning: what the user should know about how it is kept, None when all is well.

    Raises:
        PoiseError: empty, or with characters that no key has; does not quote it.
    """

    __slots__ = ("_secret", "source", "warning")

    def __init__(self, secret: str, source: str, warning: str | None = None) -> None:
        secret = secret.strip()
        if not secret or len(secret) > _LONGEST or not re.fullmatch(r"[\x21-\x7e]+", secret):
            what = "empty" if not secret else "no key (one line without blanks)"
            raise PoiseError(what, where=source, do="put the key alone into it")
        self._secret, self.source, self.warning = secret, source, warning

    @classmethod
    def from_env(cls, name: str) -> Key:
        """The value of an environment variable.

        Raises:
            PoiseError: it is not set.
        """
        if name not in os.environ:
            raise PoiseError("not set", where=f"environment variable {name}", do=f"export {name}=...", exit_code=3)
        return cls(os.environ[name], f"environment variable {name}")

    @classmethod
    def from_file(cls, path: Path) -> Key:
        """The text of a file; `warning` is set when other users may read it.

        Raises:
            PoiseError: it can't be read.
        """
        try:
            with path.open(encoding="utf-8", errors="replace") as file:
                text, mode = file.read(_LONGEST + 2), os.fstat(file.fileno()).st_mode
        except OSError as error:
            raise PoiseError(f"can't be read ({error.strerror})", where=str(path), do="name the key's file") from error
        open_to_others = bool(mode & (stat.S_IRWXG | stat.S_IRWXO))
        warning = f"{path}: other users may read this key (chmod 600 {path})" if open_to_others else None
        return cls(text, str(path), warning)

    def reveal(self) -> str:
        """The secret, for the one header that carries it."""
        return self._secret

    def __repr__(self) -> str:
        return f"Key(from {self.source})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a key is not pickled or copied; make it where it is used")
