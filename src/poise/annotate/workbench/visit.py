"""One request of one person: what was sent, what may be answered, and the checks before a page function runs."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from markupsafe import Markup
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response

from poise.annotate.workbench.accounts import Account, hashed
from poise.annotate.workbench.desk import Desk, SignedIn

SESSION, VISIT = "poise_session", "poise_visit"
"""Cookies: of who is signed in, and of who is not yet (for the CSRF token of the sign-in form)."""
Endpoint = Callable[[Request], Awaitable[Response]]


class Refused(Exception):  # noqa: N818 -- it ends a request, which need not be an error
    """Ends a request with a plain page.

    Args:
        status: of HTTP.
        text: one sentence for the person.
        wait_s: when to try again.
    """

    def __init__(self, status: int, text: str, wait_s: float = 0) -> None:
        super().__init__(text)
        self.status, self.text, self.wait_s = status, text, wait_s


@dataclass
class Visit:
    """What a page function gets.

    Args:
        request: Starlette's.
        desk: store, settings, accounts.
        session: of the person; None on pages before sign-in.
        secret: what the CSRF token is made of: the value of a cookie that no script can read.
        sent: fields of the form.
    """

    request: Request
    desk: Desk
    session: SignedIn | None
    secret: str
    sent: FormData = field(default_factory=FormData)

    @property
    def who(self) -> Account:
        """The person who is signed in."""
        assert self.session is not None, "a page before sign-in"
        return self.session.who

    @property
    def session_hash(self) -> str:
        """What is stored of the session's token."""
        return hashed(self.secret)

    @property
    def csrf(self) -> str:
        """The token that a POST of this person must carry."""
        return csrf_token(self.secret)

    @property
    def posted(self) -> bool:
        """Whether something is to be changed."""
        return self.request.method == "POST"

    @property
    def by_script(self) -> bool:
        """Whether a script wants JSON instead of a page."""
        return "application/json" in self.request.headers.get("accept", "")

    def text(self, name: str, default: str = "") -> str:
        """A field that was sent, as text."""
        value = self.sent.get(name, default)
        return value if isinstance(value, str) else default

    def texts(self, name: str) -> list[str]:
        """All values of a field."""
        return [value for value in self.sent.getlist(name) if isinstance(value, str)]

    def render(self, template: str, status: int = 200, **values: Any) -> HTMLResponse:
        """A page."""
        who = None if self.session is None else self.session.who
        nav = [link for link in self.desk.nav if who is not None and who.may(link.role)]
        shared = {
            "who": who,
            "nav": nav,
            "path": self.request.url.path,
            "csrf": self.csrf,
            "csrf_field": Markup('<input type="hidden" name="csrf" value="{}">').format(self.csrf),
            "prefers": who.preferences if who is not None else {},
        }
        text = self.desk.templates.get_template(template).render(**shared | values)
        response = HTMLResponse(text, status)
        if self.session is None and self.request.cookies.get(VISIT) != self.secret:
            self.set_cookie(response, VISIT, self.secret)
        return response

    def go(self, path: str) -> Response:
        """Send the browser on, or tell a script where to go."""
        return JSONResponse({"go": path}) if self.by_script else RedirectResponse(path, 303)

    def set_cookie(self, response: Response, name: str, value: str, hours: float | None = None) -> None:
        """A cookie that no script reads and no other site sends."""
        secure = self.desk.settings.https or self.request.url.scheme == "https"
        age = None if hours is None else round(hours * 3600)
        response.set_cookie(name, value, max_age=age, httponly=True, samesite="strict", secure=secure, path="/")


def csrf_token(secret: str) -> str:
    """The CSRF token that goes with the value of a cookie."""
    return hashlib.sha256(f"csrf:{secret}".encode()).hexdigest()[:40]


def signed_in(role: str = "annotator") -> Callable[[Callable[[Visit], Response]], Endpoint]:
    """A page for those who are signed in with at least this role; others are sent to sign in, or refused."""

    def wrap(page: Callable[[Visit], Response]) -> Endpoint:
        async def endpoint(request: Request) -> Response:
            desk: Desk = request.app.state.desk
            secret = request.cookies.get(SESSION, "")
            session = await _session(desk, secret)
            if session is None:
                if request.method == "GET" and "application/json" not in request.headers.get("accept", ""):
                    return RedirectResponse("/sign-in", 303)
                raise Refused(401, "You are signed out. Sign in again; your draft is kept.")
            if not session.who.may(role):
                raise Refused(403, f"This page is for the role {role} and above.")
            visit = Visit(request, desk, session, secret)
            await _check_post(visit, f"account {session.who.id}")
            return await run_in_threadpool(page, visit)

        return endpoint

    return wrap


def before_sign_in(page: Callable[[Visit], Response]) -> Endpoint:
    """A page for those who are not signed in."""

    async def endpoint(request: Request) -> Response:
        desk: Desk = request.app.state.desk
        secret = request.cookies.get(VISIT, "")
        if len(secret) != 43:
            secret = secrets.token_urlsafe(32)
        visit = Visit(request, desk, None, secret)
        await _check_post(visit, address(request))
        return await run_in_threadpool(page, visit)

    return endpoint


def address(request: Request) -> str:
    """Where a request comes from."""
    return request.client.host if request.client else "nowhere"


async def _session(desk: Desk, secret: str) -> SignedIn | None:
    if len(secret) != 43:
        return None
    kept = desk.session_in_memory(hashed(secret))
    return kept if kept is not None else await run_in_threadpool(desk.session, hashed(secret))


async def _check_post(visit: Visit, key: str) -> None:
    """Origin, token and rate of a POST; reads the form."""
    if not visit.posted:
        return
    request = visit.request
    if not _same_site(request):
        raise Refused(403, "This request came from another site.")
    visit.sent = await request.form(max_files=0, max_fields=200)
    given = request.headers.get("x-csrf-token") or visit.text("csrf")
    if not hmac.compare_digest(given.encode(), visit.csrf.encode()):
        raise Refused(403, "This form is not from this session. Load the page again.")
    if (wait := visit.desk.writes.wait_s(key)) > 0:
        raise Refused(429, f"Too many requests. Wait {wait:.0f} seconds.", wait)


def _same_site(request: Request) -> bool:
    """By what the browser says of where the request was made; a client that says nothing still needs the token."""
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    if site is not None and site not in ("same-origin", "none"):
        return False
    return origin is None or urlsplit(origin).netloc == request.headers.get("host")
