"""Coming in and going out: sign-in by password or personal token, joining by invitation, signing out."""

from __future__ import annotations

from starlette.responses import Response
from starlette.routing import Route

from poise.annotate.workbench.accounts import Account, hashed
from poise.annotate.workbench.visit import SESSION, VISIT, Refused, Visit, address, before_sign_in, signed_in
from poise.errors import PoiseError


@before_sign_in
def sign_in(visit: Visit) -> Response:
    """The form, and what comes of it."""
    if not visit.posted:
        return visit.render("sign_in.html", fault="", name="")
    name, token = visit.text("name"), visit.text("token")
    _slow_down(visit, name)
    accounts = visit.desk.accounts
    who = accounts.by_token(token) if token else accounts.by_password(name, visit.text("password"))
    if who is None:
        fault = "Name and password do not fit." if not token else "No account has this token."
        return visit.render("sign_in.html", 401, fault=fault, name=name)
    return _enter(visit, who)


@before_sign_in
def join(visit: Visit) -> Response:
    """An invitation is used up. Its token stands behind the # of the link, which browsers send to nobody."""
    if not visit.posted:
        return visit.render("join.html", fault="", name="", invitation="")
    name, invitation = visit.text("name"), visit.text("invitation").strip()
    _slow_down(visit, "")
    try:
        if visit.text("password") != visit.text("again"):
            raise PoiseError("the two passwords differ", where="join", do="type them again")
        who = visit.desk.accounts.join(invitation, name, visit.text("password"))
    except PoiseError as error:
        fault = f"{error.what[:1].upper()}{error.what[1:]}: {error.do}."
        return visit.render("join.html", 400, fault=fault, name=name, invitation=invitation)
    return _enter(visit, who)


@signed_in()
def sign_out(visit: Visit) -> Response:
    """End the session."""
    visit.desk.accounts.close_session(visit.session_hash)
    visit.desk.forget_sessions()
    response = visit.go("/sign-in")
    response.delete_cookie(SESSION, httponly=True, samesite="strict", path="/")
    return response


def _slow_down(visit: Visit, name: str) -> None:
    """Count an attempt for the address and for the name."""
    keys = [f"from {address(visit.request)}"] + ([f"name {name.strip().casefold()[:100]}"] if name.strip() else [])
    wait = max(visit.desk.sign_ins.wait_s(key) for key in keys)
    if wait > 0:
        raise Refused(429, f"Too many attempts. Wait {wait:.0f} seconds.", wait)


def _enter(visit: Visit, who: Account) -> Response:
    """A new session in the place of an old one."""
    if old := visit.request.cookies.get(SESSION):
        visit.desk.accounts.close_session(hashed(old))
    hours = visit.desk.settings.session_hours
    token = visit.desk.accounts.open_session(who, hours)
    response = visit.go("/")
    visit.set_cookie(response, SESSION, token, hours)
    response.delete_cookie(VISIT, httponly=True, samesite="strict", path="/")
    return response


ROUTES = [
    Route("/sign-in", sign_in, methods=["GET", "POST"]),
    Route("/join", join, methods=["GET", "POST"]),
    Route("/sign-out", sign_out, methods=["POST"]),
]
