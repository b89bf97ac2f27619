"""What all pages share: the store, the accounts, templates, signed-in people in memory, and rate limits."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass

import jinja2

from poise.annotate.store import AnnotationStore
from poise.annotate.workbench.accounts import Account, Accounts
from poise.annotate.workbench.plain import pieces, plain
from poise.annotate.workbench.settings import STAGES, Settings

_KEPT_S, _KEPT = 10.0, 4096


@dataclass(frozen=True)
class Link:
    """An entry of the navigation, for this role and those above."""

    path: str
    title: str
    role: str = "annotator"


@dataclass(frozen=True)
class SignedIn:
    """A session: whose, whether warned, when it ends (milliseconds since 1970)."""

    who: Account
    warned: bool
    expires_ms: int


class Desk:
    """Made once for an application.

    Args:
        store: open.
        nav: links of the page modules.
    """

    def __init__(self, store: AnnotationStore, settings: Settings, nav: tuple[Link, ...] = ()) -> None:
        self.store, self.settings, self.nav = store, settings, nav
        self.accounts = Accounts(store)
        self.sign_ins = Limiter(settings.sign_ins, 300)
        self.writes = Limiter(settings.writes, 60)
        self._sessions: OrderedDict[str, tuple[float, SignedIn]] = OrderedDict()
        self._lock = threading.Lock()
        self.templates = jinja2.Environment(
            loader=jinja2.PackageLoader("poise.annotate.workbench"),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self.templates.filters |= {"plain": plain, "pieces": pieces}
        self.templates.globals |= {"stages": STAGES, "settings": settings}

    def session(self, token_hash: str) -> SignedIn | None:
        """Who a session belongs to; kept in memory for ten seconds, so that another process's sign-out counts then."""
        if (kept := self.session_in_memory(token_hash)) is not None:
            return kept
        found = self.accounts.of_session(token_hash)
        if found is None:
            return None
        session = SignedIn(*found)
        with self._lock:
            self._sessions[token_hash] = (time.monotonic() + _KEPT_S, session)
            while len(self._sessions) > _KEPT:
                self._sessions.popitem(last=False)
        return session

    def session_in_memory(self, token_hash: str) -> SignedIn | None:
        """A session that was looked up a moment ago."""
        with self._lock:
            until, session = self._sessions.get(token_hash, (0.0, None))
        fresh = time.monotonic() < until and session is not None and session.expires_ms > self.store.now_ms()
        return session if fresh else None

    def forget_sessions(self) -> None:
        """Look everybody up again: something about an account or a session has changed."""
        with self._lock:
            self._sessions.clear()


class Limiter:
    """At most so many events in a sliding window for one key; in memory, of this process.

    Args:
        most: events.
        seconds: of the window.
    """

    def __init__(self, most: int, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._most, self._seconds, self._clock = most, seconds, clock
        self._seen: dict[str, deque[float]] = {}
        self._lock = threading.Lock()

    def wait_s(self, key: str) -> float:
        """0 when the event is allowed, and counted; else the seconds until one is."""
        now = self._clock()
        with self._lock:
            if len(self._seen) > 10_000:
                self._seen = {k: v for k, v in self._seen.items() if v and v[-1] > now - self._seconds}
            seen = self._seen.setdefault(key, deque())
            while seen and seen[0] <= now - self._seconds:
                seen.popleft()
            if len(seen) >= self._most:
                return seen[0] + self._seconds - now
            seen.append(now)
            return 0.0
