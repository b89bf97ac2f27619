"""Somebody who is signed in to the workbench with a role, over HTTP or in a browser."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.testclient import TestClient

from poise.annotate.store import AnnotationStore
from poise.annotate.workbench import Settings, create_app
from poise.annotate.workbench.accounts import hashed
from poise.annotate.workbench.visit import SESSION, csrf_token

_NUMBERS = count()


@dataclass
class Seat:
    """A client in front of the workbench."""

    client: TestClient
    csrf: str

    def get(self, path: str) -> Any:
        """A page."""
        return self.client.get(path, follow_redirects=False)

    def post(self, path: str, told: Mapping[str, Any], csrf: str | None = None) -> Any:
        """A form that is sent."""
        given = {"csrf": self.csrf if csrf is None else csrf}
        return self.client.post(path, data=dict(told) | given, follow_redirects=False)


def signed_in(store: AnnotationStore, role: str, settings: Settings | None = None) -> tuple[Starlette, str]:
    """The application, and the session of somebody new with this role, who has read the warning."""
    app = create_app(store, settings)
    accounts = app.state.desk.accounts
    account = accounts.join(accounts.invite(role), f"{role} {next(_NUMBERS)}", "correct horse battery")
    secret = accounts.open_session(account, 1)
    accounts.warned(hashed(secret))
    return app, secret


def seat(store: AnnotationStore, role: str, settings: Settings | None = None) -> Seat:
    """Signed in with a role."""
    app, secret = signed_in(store, role, settings)
    return Seat(TestClient(app, cookies={SESSION: secret}), csrf_token(secret))


@contextmanager
def served(store: AnnotationStore, role: str) -> Iterator[tuple[str, dict[str, str]]]:
    """The address of a server and the cookie of a session, for a browser."""
    app, secret = signed_in(store, role)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", ws="none"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.02)
        assert thread.is_alive()
    address = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    try:
        yield address, {"name": SESSION, "value": secret, "url": address}
    finally:
        server.should_exit = True
        thread.join(10)
