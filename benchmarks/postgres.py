"""A PostgreSQL server of one's own for as long as something runs, in a temporary folder, reached by a Unix socket.

    python benchmarks/postgres.py python -m pytest tests/annotate/store

runs a command with POISE_TEST_POSTGRES set to the server's URL. `initdb` and `pg_ctl` are looked for on PATH and where
distributions keep them; PostgreSQL refuses to run as root, so root hands it to the user `postgres` or `nobody`.
Nothing listens on the network, and nothing is left behind.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAME = "POISE_TEST_POSTGRES"
_PLACES = ("/usr/lib/postgresql", "/usr/local/opt/postgresql", "/opt/homebrew/opt/postgresql", "/usr/pgsql")
_USERS = ("postgres", "nobody")


class NoServerError(Exception):
    """PostgreSQL cannot be started here; the message says why."""


def binaries() -> Path:
    """The folder of `initdb` and `pg_ctl`, of the newest version that is there.

    Raises:
        NoServerError: there is none.
    """
    found = [path.parent for place in _PLACES for path in Path(place).parent.glob(f"{Path(place).name}*/**/bin/pg_ctl")]
    if (on_path := shutil.which("pg_ctl")) is not None:
        found.append(Path(on_path).resolve().parent)
    usable = [folder for folder in found if (folder / "initdb").is_file() and (folder / "postgres").is_file()]
    if not usable:
        raise NoServerError("no PostgreSQL here: neither on PATH nor in /usr/lib/postgresql")
    return max(usable, key=lambda folder: [int(n) for n in folder.parent.name.split(".") if n.isdecimal()])


@contextmanager
def server(*, durable: bool = True) -> Iterator[str]:
    """The URL of a server that runs while the block does.

    Args:
        durable: wait for the disk at every commit, as a real server does; tests need not.

    Raises:
        NoServerError: there are no binaries, no user to run them as, or the server does not start.
    """
    where = binaries()
    run_as: dict[str, Any] = {"user": _user(), "extra_groups": ()} if os.geteuid() == 0 else {}
    folder = Path(tempfile.mkdtemp(prefix="poise-pg-"))
    data, log = folder / "data", folder / "log"
    try:
        if run_as:
            entry = pwd.getpwnam(run_as["user"])
            run_as |= {"group": entry.pw_gid}
            os.chown(folder, entry.pw_uid, entry.pw_gid)
        make = ["initdb", "-D", str(data), "-U", "poise", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync"]
        options = f"-k {folder} -c listen_addresses='' -c fsync={'on' if durable else 'off'}"
        _run(where, make, run_as, folder)
        _run(where, ["pg_ctl", "-D", str(data), "-l", str(log), "-w", "-o", options, "start"], run_as, folder)
        try:
            yield f"postgresql://poise@/postgres?host={folder}"
        finally:
            _run(where, ["pg_ctl", "-D", str(data), "-m", "immediate", "-w", "stop"], run_as, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _user() -> str:
    for name in _USERS:
        try:
            return pwd.getpwnam(name).pw_name
        except KeyError:
            continue
    raise NoServerError(f"root cannot run PostgreSQL, and there is no user {' or '.join(_USERS)}")


def _run(where: Path, command: list[str], run_as: dict[str, Any], folder: Path) -> None:
    """Run one of the binaries; its output goes to a file, since the server would keep a pipe open."""
    told = folder.with_suffix(".out")
    with told.open("wb") as out:
        done = subprocess.run(
            [str(where / command[0]), *command[1:]], stdout=out, stderr=out, cwd="/", check=False, timeout=120, **run_as
        )
    text = told.read_text(errors="replace")
    told.unlink()
    if done.returncode:
        raise NoServerError(f"{command[0]} failed: {text.strip()[-500:]}")


def main() -> int:
    """Run the command of the arguments beside a server."""
    if len(sys.argv) < 2:
        print(__doc__)
        return 2
    try:
        with server(durable=False) as url:
            return subprocess.run(sys.argv[1:], env={**os.environ, NAME: url}, check=False).returncode
    except NoServerError as error:
        print(error, file=sys.stderr)
        return 3


if __name__ == "__main__":
    sys.exit(main())
