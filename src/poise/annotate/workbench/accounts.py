"""Who may use the workbench: accounts, invitations, passwords, personal tokens, sessions. No web library in here.

Nothing that would let somebody in is stored as it is: passwords are hashed with scrypt, tokens (32 random bytes) with
SHA-256. An account is a rater of kind person whose id is a pseudonym: a keyed hash of the sign-in name. The key lies in
the table `meta` under `PSEUDONYM_KEY`, is made once for a store and is part of no export.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import threading
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from poise.annotate.store import AnnotationStore, schema
from poise.annotate.store.chain import canonical
from poise.annotate.store.log import Log
from poise.annotate.workbench.settings import ROLES
from poise.data.rows import Rater
from poise.errors import PoiseError

PSEUDONYM_KEY = "pseudonym_key"
MIN_PASSWORD, MAX_PASSWORD, MAX_NAME = 10, 200, 60
_LOG_N, _R, _P = 15, 8, 1
_HASHING = threading.Semaphore(2)
"""Hashes at a time, 32 MB each."""
_COLUMNS = "a.id, a.name, a.role, a.rater, a.active, a.preferences, a.break_ms, a.token_hash is not null as has_token"


@dataclass(frozen=True)
class Account:
    """Somebody who may sign in.

    Args:
        name: for signing in; shown to admins only and part of no export.
        rater: key of the rater in the store.
        pseudonym: id of that rater.
        preferences: what the person chose about covers, colours and keys.
        break_ms: when the last break ended.
    """

    id: int
    name: str
    role: str
    rater: int
    active: bool
    break_ms: int
    has_token: bool
    preferences: dict[str, Any] = field(default_factory=dict)

    def may(self, role: str) -> bool:
        """Whether this role or one above it."""
        return ROLES.index(self.role) >= ROLES.index(role)


class Accounts:
    """The accounts of a store; every method is one transaction."""

    def __init__(self, store: AnnotationStore) -> None:
        self._store, self._db = store, store.database

    def invite(self, role: str, hours: float = 72) -> str:
        """The token of a new invitation, which is told nowhere else.

        Raises:
            PoiseError: no such role.
        """
        if role not in ROLES:
            raise PoiseError(f"{role!r} is no role", where="invite", do=f"name any of {', '.join(ROLES)}")
        token = secrets.token_urlsafe(32)
        expires = self._store.now_ms() + round(hours * 3_600_000)
        with self._db.write() as db:
            row = {"token_hash": hashed(token), "role": role, "expires_ms": expires, "used_ms": None}
            db.execute(sa.insert(schema.invitation).values(**row))
        return token

    def join(self, invitation: str, name: str, password: str) -> Account:
        """Use an invitation up for a new account.

        Raises:
            PoiseError: the invitation is unknown, used or too old, the name is taken or malformed, the password short.
        """
        name = checked_name(name)
        stored = hash_password(checked_password(password, name))
        now = self._store.now_ms()
        with self._db.write() as db:
            use = sa.text(
                "update invitation set used_ms = :now where token_hash = :token and used_ms is null "
                "and expires_ms > :now returning role"
            )
            role = db.execute(use, {"now": now, "token": hashed(invitation)}).scalar()
            if role is None:
                raise PoiseError("this invitation is unknown, used or too old", where="join", do="ask for a new one")
            if db.execute(sa.text("select 1 from account where name = :name"), {"name": name}).first():
                raise PoiseError("this name is taken", where="join", do="choose another; the invitation still works")
            rater = Log(db, now).rater(Rater(id=pseudonym(_key(db), name), kind="person"))
            made = {"name": name, "role": role, "rater": rater, "password": stored, "active": True}
            row = made | {"token_hash": None, "preferences": "{}", "break_ms": now, "made_ms": now}
            key = db.execute(sa.insert(schema.account).values(**row).returning(schema.account.c.id)).scalar_one()
        return Account(key, name, role, rater, True, now, False)

    def by_password(self, name: str, password: str) -> Account | None:
        """The active account of this name and password; it takes as long for a name that is unknown."""
        query = sa.text(f"select {_COLUMNS}, a.password from account a where a.name = :name")
        with self._db.read() as db:
            row = db.execute(query, {"name": name.strip().casefold()}).mappings().first()
        right = password_fits(password, row["password"] if row is not None else _NOBODY)
        return _account(row) if row is not None and right and row["active"] else None

    def by_token(self, token: str) -> Account | None:
        """The active account of a personal token."""
        query = sa.text(f"select {_COLUMNS} from account a where a.token_hash = :token and a.active")
        with self._db.read() as db:
            row = db.execute(query, {"token": hashed(token.strip())}).mappings().first()
        return None if row is None else _account(row)

    def open_session(self, account: Account, hours: float) -> str:
        """The token of a new session; sessions that are over are forgotten."""
        token, now = secrets.token_urlsafe(32), self._store.now_ms()
        with self._db.write() as db:
            db.execute(sa.text("delete from session where expires_ms <= :now"), {"now": now})
            row = {"token_hash": hashed(token), "account": account.id, "warned": False}
            db.execute(sa.insert(schema.session).values(**row, expires_ms=now + round(hours * 3_600_000)))
        return token

    def of_session(self, token_hash: str) -> tuple[Account, bool, int] | None:
        """Account, whether it was warned, and when the session ends; None when it has, or the account is closed."""
        query = sa.text(
            f"select {_COLUMNS}, s.warned, s.expires_ms from session s join account a on a.id = s.account "
            "where s.token_hash = :token and s.expires_ms > :now and a.active"
        )
        with self._db.read() as db:
            row = db.execute(query, {"token": token_hash, "now": self._store.now_ms()}).mappings().first()
        return None if row is None else (_account(row), bool(row["warned"]), row["expires_ms"])

    def warned(self, token_hash: str) -> None:
        """Remember that the warning was read in this session."""
        self._run("update session set warned = true where token_hash = :token", token=token_hash)

    def close_session(self, token_hash: str) -> None:
        """End a session."""
        self._run("delete from session where token_hash = :token", token=token_hash)

    def new_token(self, account: Account) -> str:
        """A new personal token in the place of the old one; told nowhere else."""
        token = secrets.token_urlsafe(32)
        self._run("update account set token_hash = :token where id = :id", token=hashed(token), id=account.id)
        return token

    def drop_token(self, account: Account) -> None:
        """Make the personal token void."""
        self._run("update account set token_hash = null where id = :id", id=account.id)

    def change_password(self, account: Account, old: str, new: str) -> None:
        """Set a new password and end all sessions of the account.

        Raises:
            PoiseError: the old one is wrong, the new one short.
        """
        if self.by_password(account.name, old) is None:
            raise PoiseError("the present password is wrong", where="password", do="type it again")
        stored = hash_password(checked_password(new, account.name))
        with self._db.write() as db:
            told = {"password": stored, "id": account.id}
            db.execute(sa.text("update account set password = :password where id = :id"), told)
            db.execute(sa.text("delete from session where account = :id"), told)

    def prefer(self, account: Account, preferences: dict[str, Any]) -> None:
        """Keep what the person chose."""
        self._run("update account set preferences = :kept where id = :id", kept=canonical(preferences), id=account.id)

    def rested(self, account: Account) -> None:
        """The break is over."""
        self._run("update account set break_ms = :now where id = :id", now=self._store.now_ms(), id=account.id)

    def set_active(self, account: int, active: bool) -> None:
        """Close an account, or open it again; closing ends its sessions. The judgements stay."""
        self._run("update account set active = :active where id = :id", active=active, id=account)
        if not active:
            self._run("delete from session where account = :id", id=account)

    def all(self) -> list[Account]:
        """All accounts by name."""
        with self._db.read() as db:
            return [
                _account(row)
                for row in db.execute(sa.text(f"select {_COLUMNS} from account a order by a.name")).mappings()
            ]

    def _run(self, statement: str, **values: Any) -> None:
        with self._db.write() as db:
            db.execute(sa.text(statement), values)


def hashed(token: str) -> str:
    """What is stored of a token."""
    return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()


def hash_password(password: str) -> str:
    """scrypt with a salt of its own, and the parameters beside it."""
    salt = secrets.token_bytes(16)
    return f"scrypt${_LOG_N}${_R}${_P}${salt.hex()}${_scrypt(password, salt, _LOG_N, _R, _P).hex()}"


def password_fits(password: str, stored: str) -> bool:
    """Whether this is the password that was hashed."""
    _, log_n, r, p, salt, digest = stored.split("$")
    made = _scrypt(password[:MAX_PASSWORD], bytes.fromhex(salt), int(log_n), int(r), int(p))
    return hmac.compare_digest(made, bytes.fromhex(digest))


def pseudonym(key: str, name: str) -> str:
    """The rater id of a person: a keyed hash of the sign-in name, 80 bits."""
    return "person-" + hmac.new(bytes.fromhex(key), name.encode(), hashlib.sha256).hexdigest()[:20]


def checked_name(name: str) -> str:
    """The name in the form it is kept in.

    Raises:
        PoiseError: empty, too long, or with characters that cannot be seen.
    """
    name = name.strip().casefold()
    if not name or len(name) > MAX_NAME or not name.isprintable():
        raise PoiseError("no usable name", where="name", do=f"give 1 to {MAX_NAME} printable characters")
    return name


def checked_password(password: str, name: str) -> str:
    """The password.

    Raises:
        PoiseError: too short, too long, or the name itself.
    """
    if not MIN_PASSWORD <= len(password) <= MAX_PASSWORD or password.casefold() == name:
        raise PoiseError(
            "no usable password", where="password", do=f"give {MIN_PASSWORD} to {MAX_PASSWORD} characters, not the name"
        )
    return password


def _scrypt(password: str, salt: bytes, log_n: int, r: int, p: int) -> bytes:
    data = password.encode("utf-8", "replace")
    with _HASHING:
        return hashlib.scrypt(data, salt=salt, n=1 << log_n, r=r, p=p, maxmem=256 * r * (1 << log_n), dklen=32)


_NOBODY = f"scrypt${_LOG_N}${_R}${_P}${'00' * 16}${'00' * 32}"
"""Fits no password; what an unknown name is compared with."""


def _key(db: sa.Connection) -> str:
    kept = db.execute(sa.text("select value from meta where key = :key"), {"key": PSEUDONYM_KEY}).scalar()
    if kept is None:
        kept = secrets.token_hex(32)
        db.execute(sa.insert(schema.meta).values(key=PSEUDONYM_KEY, value=kept))
    return str(kept)


def _account(row: sa.RowMapping) -> Account:
    return Account(
        id=row["id"],
        name=row["name"],
        role=row["role"],
        rater=row["rater"],
        active=bool(row["active"]),
        break_ms=row["break_ms"],
        has_token=bool(row["has_token"]),
        preferences=json.loads(row["preferences"]),
    )
