"""Where the store is kept: one SQLite file, or PostgreSQL by URL; connections, transactions, migrations.

Writing is one at a time: SQLite begins with BEGIN IMMEDIATE, PostgreSQL takes an advisory lock for the transaction. So
what a writer has read still holds when it writes, on both alike. Readers see one state of the store and wait for
nobody. Threads of one process wait for SQLite's one writer at a lock of their own: SQLite would make them sleep and try
again. It runs in WAL with `synchronous=NORMAL`: what was committed survives `kill -9`; a power cut may lose the last
moments.
"""

from __future__ import annotations

import re
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from poise.errors import PoiseError

_LOCK = 0x706F697365
"""Key of the advisory lock: "poise"."""
_POSTGRES = re.compile(r"postgres\w*(\+\w+)?:")
"""How a URL begins, even one that lacks a slash: it is no path."""
_WAIT_MS = 30_000
_CONNECTIONS = 24
"""Of one process to SQLite, kept open; as many more when threads need them."""


class Database:
    """A store's connections.

    Args:
        where: path of a SQLite file, or a postgresql:// URL.
        create: make the file and bring the tables up to date; otherwise both must be there.

    Raises:
        PoiseError: no such store, no store of ours, or one of another version.
    """

    def __init__(self, where: str | Path, *, create: bool = False) -> None:
        url = _url(where)
        self.name = url.render_as_string(hide_password=True) if url.get_backend_name() != "sqlite" else str(where)
        self.sqlite = url.get_backend_name() == "sqlite"
        if self.sqlite and not create and not Path(str(url.database)).is_file():
            raise PoiseError("no such store", where=self.name, do="make one with `poise annotate init`")
        self.engine = _sqlite_engine(url) if self.sqlite else _postgres_engine(url)
        self._turn = threading.Lock() if self.sqlite else nullcontext()
        try:
            self._bring_up(create=create)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """A transaction that is the only writing one; it is undone when the block raises.

        Raises:
            PoiseError: the disk is full, or another process has been writing for half a minute (exit code 3).
        """
        with self._turn, self._faults(), self.engine.execution_options(poise_write=True).begin() as connection:
            if not self.sqlite:
                connection.execute(sa.text("select pg_advisory_xact_lock(:key)"), {"key": _LOCK})
            yield connection

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A transaction that reads one state of the store."""
        options = {} if self.sqlite else {"isolation_level": "REPEATABLE READ"}
        with self._faults(), self.engine.execution_options(**options).begin() as connection:
            yield connection

    @contextmanager
    def _faults(self) -> Iterator[None]:
        try:
            yield
        except (sa.exc.OperationalError, sa.exc.DatabaseError) as error:
            if isinstance(error, sa.exc.IntegrityError):
                raise
            raise PoiseError(
                f"the store cannot be used ({error.orig or error})",
                where=self.name,
                do="see to the disk or the server, and that no other process holds it; then run it again",
                exit_code=3,
            ) from error

    def _bring_up(self, *, create: bool) -> None:
        scripts = ScriptDirectory.from_config(_config())
        with self.read() as connection:
            found, there = MigrationContext.configure(connection).get_current_revision(), _tables(connection)
        if found == scripts.get_current_head():
            return
        if found is None and there:
            raise PoiseError(
                f"no annotation store (it holds {there[0]!r})", where=self.name, do="name another file or database"
            )
        if found is not None and found not in {script.revision for script in scripts.walk_revisions()}:
            raise PoiseError(f"a store of version {found}", where=self.name, do="use the newer Poise that made it")
        if not create:
            what = "an empty database" if found is None else f"a store of the older version {found}"
            raise PoiseError(what, where=self.name, do="run `poise annotate init` on it")
        with self.write() as connection:
            command.upgrade(_config(connection), "head")


def refresh_statistics(connection: sa.Connection) -> None:
    """Tell PostgreSQL what a transaction has filled its tables with; it would go on searching them as if empty."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql("analyze")


def is_url(where: str) -> bool:
    """Whether this is meant as a database's URL, which may hold a password, and not as a path."""
    return "://" in where or _POSTGRES.match(where) is not None


def _url(where: str | Path) -> sa.URL:
    text = str(where)
    if not is_url(text):
        return sa.URL.create("sqlite", database=text)
    try:
        url = sa.make_url(text)
    except (sa.exc.ArgumentError, ValueError):  # the cause quotes the URL, and with it a password
        shown = text.rpartition("@")[2].partition("?")[0]
        raise PoiseError(
            "no URL of a database", where=shown, do="write postgresql://user@host:port/name or a path"
        ) from None
    if url.get_backend_name() != "postgresql":
        raise PoiseError(
            f"no store in {url.get_backend_name()}", where=url.render_as_string(), do="use a path or postgresql://..."
        )
    return url.set(drivername="postgresql+psycopg")


def _sqlite_engine(url: sa.URL) -> sa.Engine:
    Path(str(url.database)).parent.mkdir(parents=True, exist_ok=True)
    engine = sa.create_engine(url, pool_size=_CONNECTIONS, max_overflow=_CONNECTIONS)

    @sa.event.listens_for(engine, "connect")
    def _connected(connection: sqlite3.Connection, _record: Any) -> None:
        connection.isolation_level = None  # transactions are begun below, not by the driver
        pragmas = f"busy_timeout={_WAIT_MS}", "journal_mode=wal", "synchronous=normal", "foreign_keys=on"
        for pragma in pragmas:
            connection.execute(f"pragma {pragma}")

    @sa.event.listens_for(engine, "begin")
    def _begun(connection: sa.Connection) -> None:
        write = connection.get_execution_options().get("poise_write")
        connection.exec_driver_sql("begin immediate" if write else "begin")

    return engine


def _postgres_engine(url: sa.URL) -> sa.Engine:
    try:
        return sa.create_engine(url)
    except ModuleNotFoundError as error:
        raise PoiseError(
            "PostgreSQL needs psycopg", where=url.render_as_string(), do="pip install -e '.[postgres]'", exit_code=3
        ) from error


def _config(connection: sa.Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", "poise.annotate.store:migrations")
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config


def _tables(connection: sa.Connection) -> list[str]:
    return sa.inspect(connection).get_table_names()
