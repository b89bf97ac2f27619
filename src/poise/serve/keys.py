"""Bearer keys of the server: a file with their hashes, scopes and rates; the key itself is shown once.

A key is 256 random bits, so a plain SHA-256 keeps it: there is nothing to guess, and a slow hash would only slow every
request. The file is written whole and renamed, readable by its owner alone. A running server takes up changes within a
second; a file that it can't read any more lets nobody in. What is left out: expiry, and rates shared between servers.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import json
import os
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from poise.errors import PoiseError
from poise.serve.faults import ApiError

SCOPES = ("moderate", "metrics")
"""What a key may do: be given verdicts, read `/metrics`."""
_PREFIX = "poise_"
_RELOAD_S = 1.0
_LONGEST = 512


@dataclass(frozen=True)
class KeyEntry:
    """One key as it is kept.

    Args:
        id: short public name, for logs and for `revoke`.
        name: whose it is.
        sha256: of the key, hex.
        scopes: of `SCOPES`.
        per_minute: texts a minute; None without limit.
        created: UTC, ISO 8601.
    """

    id: str
    name: str
    sha256: str
    scopes: tuple[str, ...]
    per_minute: int | None
    created: str


def add_key(path: Path, name: str, scopes: Sequence[str], per_minute: int | None) -> tuple[KeyEntry, str]:
    """Make a key and keep its hash in the file, which is made when there is none; returns the entry and the key.

    Raises:
        PoiseError: name, scope or rate are wrong, or the file can't be read or written.
    """
    if not name.strip() or len(name) > 100 or not name.isprintable():
        raise PoiseError(f"{name[:40]!r} is no name", where="--name", do="say whose key it is in 1 to 100 characters")
    if odd := [scope for scope in scopes if scope not in SCOPES]:
        raise PoiseError(f"{odd[0]!r} is no scope", where="--scope", do="one of: " + ", ".join(SCOPES))
    if not scopes:
        raise PoiseError("a key without a scope opens nothing", where="--scope", do="one of: " + ", ".join(SCOPES))
    if per_minute is not None and per_minute < 1:
        raise PoiseError(f"{per_minute} texts a minute", where="--per-minute", do="give 1 or more")
    token = _PREFIX + secrets.token_urlsafe(32)
    entry = KeyEntry(
        id=secrets.token_hex(4),
        name=name.strip(),
        sha256=_digest(token),
        scopes=tuple(scope for scope in SCOPES if scope in scopes),
        per_minute=per_minute,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    with _locked(path):
        _write(path, [*(read_keys(path) if path.exists() else []), entry])
    return entry, token


def revoke_key(path: Path, key_id: str) -> KeyEntry:
    """Take a key out of the file.

    Raises:
        PoiseError: there is no such key, or the file can't be read or written.
    """
    with _locked(path):
        entries = read_keys(path)
        found = [entry for entry in entries if entry.id == key_id]
        if not found:
            raise PoiseError(f"no key {key_id!r}", where=str(path), do="see poise guard keys list")
        _write(path, [entry for entry in entries if entry.id != key_id])
    return found[0]


def read_keys(path: Path) -> list[KeyEntry]:
    """The keys of a file.

    Raises:
        PoiseError: it can't be read or is no key file.
    """
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["keys"]
        entries = [KeyEntry(**{**row, "scopes": tuple(row["scopes"])}) for row in rows]
        for entry in entries:
            rate = entry.per_minute
            if len(bytes.fromhex(entry.sha256)) != 32 or not (rate is None or (type(rate) is int and rate > 0)):
                raise ValueError(entry.id)
            if set(entry.scopes) - set(SCOPES):
                raise ValueError(entry.id)
    except OSError as error:
        raise PoiseError(
            f"can't be read ({error.strerror})", where=str(path), do="make one with poise guard keys add"
        ) from None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise PoiseError(
            f"is no key file ({type(error).__name__})", where=str(path), do="make one with poise guard keys add"
        ) from None
    return entries


class Gate:
    """Who may do what how often, by a key file; without one everybody may do everything.

    Args:
        path: of the key file; None for a server without keys.
        clock: seconds, monotonic.

    Raises:
        PoiseError: the file can't be read, or holds no key.
    """

    def __init__(self, path: Path | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._path, self._clock = path, clock
        self._entries: list[KeyEntry] = []
        self._buckets: dict[str, Bucket] = {}
        self._checked, self._stamp = -_RELOAD_S, (0, 0)
        if path is not None:
            self._entries = read_keys(path)
            if not self._entries:
                raise PoiseError("holds no key", where=str(path), do="poise guard keys add FILE --name NAME")
            self._checked = clock()  # no stamp yet: it is read once more, as it may have changed meanwhile

    @property
    def open(self) -> bool:
        """True when no key is asked for."""
        return self._path is None

    def enter(self, token: str | None, scope: str) -> KeyEntry | None:
        """The key's entry, None in a server without keys.

        Raises:
            ApiError: no such key, or it lacks the scope, or the file can't be read any more.
        """
        if self._path is None:
            return None
        self._reload(self._path)
        digest = _digest(token) if token and len(token) <= _LONGEST else ""
        found = None
        for entry in self._entries:  # all of them, so that time tells nothing
            if hmac.compare_digest(entry.sha256, digest):
                found = entry
        if found is None:
            raise ApiError("no_key", "the key is missing or unknown" if token else "a key is needed")
        if scope not in found.scopes:
            raise ApiError("scope", f"this key lacks the scope {scope!r}")
        return found

    def spend(self, entry: KeyEntry | None, texts: int, *, paid: int = 0) -> None:
        """Count the texts of a request against a key's rate, `paid` of which were counted before.

        Raises:
            ApiError: it has used them up, or asks for more at once than a minute's worth.
        """
        if entry is None or entry.per_minute is None:
            return
        bucket = self._buckets.get(entry.id)
        if bucket is None or bucket.per_minute != entry.per_minute:
            bucket = self._buckets[entry.id] = Bucket(entry.per_minute, self._clock())
        if texts > entry.per_minute:
            raise ApiError("too_many", f"{texts} texts at once, this key has {entry.per_minute} a minute")
        wait = bucket.take(texts - paid, self._clock())
        if wait > 0:
            raise ApiError("rate", f"this key has {entry.per_minute} texts a minute", retry_after=wait)

    def _reload(self, path: Path) -> None:
        if self._clock() - self._checked < _RELOAD_S:
            return
        try:
            stamp = _stamp(path)
            if stamp != self._stamp:
                self._entries, self._stamp = read_keys(path), stamp
                kept = {entry.id for entry in self._entries}
                self._buckets = {key: bucket for key, bucket in self._buckets.items() if key in kept}
        except (PoiseError, OSError):
            raise ApiError("failed", "the server can't read its keys", retry_after=5) from None
        self._checked = self._clock()


class Bucket:
    """Tokens that fill up evenly to a minute's worth.

    Args:
        per_minute: how many.
        now: seconds.
    """

    def __init__(self, per_minute: int, now: float) -> None:
        self.per_minute, self._left, self._then = per_minute, float(per_minute), now

    def take(self, count: int, now: float) -> float:
        """Take `count`, which is at most a minute's worth, and return 0; or take nothing and return the seconds to
        wait for them."""
        rate = self.per_minute / 60
        self._left = min(float(self.per_minute), self._left + (now - self._then) * rate)
        self._then = now
        if self._left < count:
            return (count - self._left) / rate
        self._left -= count
        return 0.0


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def _stamp(path: Path) -> tuple[int, int]:
    told = path.stat()
    return told.st_mtime_ns, told.st_ino


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One writer at a time."""
    try:
        with path.with_name(f".{path.name}.lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
    except OSError as error:
        raise PoiseError(
            f"can't be written ({error.strerror})", where=str(path), do="choose another file", exit_code=3
        ) from None


def _write(path: Path, entries: Sequence[KeyEntry]) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    text = json.dumps({"keys": [asdict(entry) for entry in entries]}, indent=2)
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        file.write(text + "\n")
    partial.replace(path)
