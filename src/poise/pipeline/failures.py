"""Which failures of a run are the environment's (disk, memory, a signal), and what the user can do about each."""

from __future__ import annotations

import errno
import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from poise.errors import PoiseError

_ADVICE = {
    errno.ENOSPC: "free some space or choose another disk with --out, then run again to continue",
    errno.EDQUOT: "your disk quota is used up: free some space or choose another disk with --out, then run again",
    errno.EACCES: "check the permissions, or choose another folder with --out",
    errno.EROFS: "the disk is read-only: choose another folder with --out",
    errno.ENOENT: "check the path",
    errno.ENOTDIR: "a file is in the way: choose another folder with --out",
    errno.EEXIST: "a file is in the way: choose another folder with --out",
    errno.EMFILE: "too many open files: raise the limit (`ulimit -n`)",
}
_ALMOST_FULL_BYTES = 1 << 20


class Terminated(KeyboardInterrupt):
    """SIGTERM, so that it unwinds like Ctrl-C."""


@contextmanager
def terminate_as_interrupt() -> Iterator[None]:
    """Turn SIGTERM into `Terminated` inside the `with` block (main thread only; elsewhere nothing changes)."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def _raise(number: int, frame: FrameType | None) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, _raise)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def as_poise_error(error: BaseException, where: str, out: Path) -> PoiseError | None:
    """The user's view of `error`, or None when it is a bug rather than the environment.

    Exit codes: 3 disk, network, memory; 130 Ctrl-C; 143 SIGTERM.

    Args:
        error: what was raised.
        where: the stage or folder in which it was raised.
        out: the run folder, whose disk is looked at.
    """
    if isinstance(error, PoiseError):
        return error
    if isinstance(error, KeyboardInterrupt):
        code = 143 if isinstance(error, Terminated) else 130
        return PoiseError("interrupted", where=where, do="run again to continue", exit_code=code)
    if _memory_is_short(error):
        do = "close other programs, use a smaller batch or model, then run again to continue"
        return PoiseError("out of memory", where=where, do=do, exit_code=3)
    cause = _os_error(error)
    if _disk_is_full(error, cause, out):
        path = (cause.filename if cause else None) or out
        what = f"no space left on the disk of {path}"
        return PoiseError(what, where=where, do=_ADVICE[errno.ENOSPC], exit_code=3)
    if isinstance(error, OSError):
        path = f" ({error.filename})" if error.filename else ""
        advice = _ADVICE.get(error.errno or 0, "run again to continue")
        return PoiseError(f"{error.strerror or error}{path}", where=where, do=advice, exit_code=3)
    return None


def _memory_is_short(error: BaseException) -> bool:
    """torch reports lack of memory as a `RuntimeError` with one of these phrases."""
    text = str(error).lower()
    phrases = ("out of memory", "can't allocate memory", "not enough memory")
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and any(p in text for p in phrases))


def _os_error(error: BaseException) -> OSError | None:
    """The `OSError` behind `error`, if any."""
    seen: BaseException | None = error
    while seen is not None and not isinstance(seen, OSError):
        seen = seen.__cause__ or seen.__context__
    return seen


def _disk_is_full(error: BaseException, cause: OSError | None, out: Path) -> bool:
    """Libraries written in C++ and Rust say it in words, or fail to write without a word."""
    if (cause is not None and cause.errno == errno.ENOSPC) or "no space left on device" in str(error).lower():
        return True
    return out.exists() and shutil.disk_usage(out).free < _ALMOST_FULL_BYTES
