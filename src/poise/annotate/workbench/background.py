"""Measures kept for the dashboard, worked out again in a thread when the log has moved on and some time has passed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import sqlalchemy as sa

from poise.annotate.store import AnnotationStore
from poise.annotate.workbench.measures import Measures, measure
from poise.errors import PoiseError

PAUSE_S = 60.0
REST = 20.0


class Background:
    """Keeps the last measures of a store.

    Args:
        pause_s: seconds that a measure is kept at least.
        rest: it is also kept for this many times the seconds that it took, so that 20 costs 5 % of one core.
        work: what measures a store.
    """

    def __init__(
        self,
        store: AnnotationStore,
        *,
        pause_s: float = PAUSE_S,
        rest: float = REST,
        work: Callable[[AnnotationStore], Measures] = measure,
    ) -> None:
        self._store, self._pause, self._rest, self._work = store, pause_s, rest, work
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._last: Measures | None = None
        self._ended = -float("inf")
        self.fault: str | None = None

    def get(self, wait_s: float = 0.3) -> Measures | None:
        """The last measures, after starting new ones where they are due.

        Args:
            wait_s: how long to wait for those just started; a small store is done by then.

        Returns:
            None when there are none yet; `fault` says why where the last attempt failed.
        """
        with self._lock:
            if self._thread is None and self._due():
                self._thread = threading.Thread(target=self._run, name="poise-measures", daemon=True)
                self._thread.start()
            thread = self._thread
        if thread is not None:
            thread.join(wait_s)
        return self._last

    @property
    def running(self) -> bool:
        """Whether new measures are on their way."""
        return self._thread is not None

    def close(self) -> None:
        """Wait for what is running."""
        if (thread := self._thread) is not None:
            thread.join()

    def _due(self) -> bool:
        last = self._last
        if last is None:
            return time.monotonic() - self._ended > (self._pause if self.fault else 0)
        if time.monotonic() - self._ended < max(self._pause, self._rest * last.seconds):
            return False
        with self._store.database.read() as db:
            return (db.execute(sa.text("select max(seq) from event")).scalar() or 0) != last.events

    def _run(self) -> None:
        try:
            self._last, self.fault = self._work(self._store), None
        except (PoiseError, sa.exc.SQLAlchemyError, ValueError) as error:
            self.fault = str(error)
        finally:
            self._ended, self._thread = time.monotonic(), None
